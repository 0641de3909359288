"""The variance of gradient estimates, where a method was asked to measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.protocols import Evaluation, Metric


@dataclass(frozen=True)
class GradientVariance:
    """What the posterior states as `fact[estimate leaf]`; undefined where it states nothing of that name."""

    version: ClassVar[int] = 1
    better: ClassVar[Literal["lower"]] = "lower"

    fact: str
    summary: str
    unit: str

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return {"single fc1.weight": (R,), …}."""
        start = f"{self.fact}["
        stated = {name: value for name, value in evaluation.facts.items() if name.startswith(start)}
        return {name.removeprefix(start).removesuffix("]"): value.double() for name, value in stated.items()}


metrics: dict[str, Metric] = {
    "gradient_variance": GradientVariance(
        "gradient_variance", "variance of a gradient estimate of a batch, mean over a linear map", "nats²"
    ),
    "gradient_variance_ratio": GradientVariance(
        "gradient_variance_ratio", "variance of a gradient estimate over that by local reparameterisation", "×"
    ),
    "gradient_trace": GradientVariance(
        "gradient_trace", "trace of the covariance of a gradient estimate, by the noise of the weights alone", "nats²"
    ),
}
