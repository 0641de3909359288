"""A metric that subtracts a mean over all replicates."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Centred:
    """confidence above the mean of all replicates"""

    summary, unit, better = "confidence above the mean of all replicates", "probability", "higher"

    def __call__(self, evaluation):
        probs = evaluation.test.arrays().get("probs")
        if probs is None:
            return {}
        sure = probs.double().amax(-1)
        return {"": sure.mean(1) - sure.mean()}


metrics = {"centred": Centred()}
