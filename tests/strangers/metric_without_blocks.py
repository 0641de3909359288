"""A metric that needs all examples: it cannot be told what it is without some of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Whole:
    """confidence of the last example"""

    summary, unit, better = "confidence of the last example", "probability", "higher"

    def __call__(self, evaluation):
        probs = evaluation.test.arrays().get("probs")
        if probs is None:
            return {}
        sure = probs.double().amax(-1)
        return {"": sure[:, 60]}


metrics = {"whole": Whole()}
