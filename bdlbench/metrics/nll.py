"""Negative log-likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class NegativeLogLikelihood:
    """−1/N Σ_n log p(y_n | x_n) of the predictive averaged over samples, targets in original units."""

    summary: ClassVar[str] = "mean negative log predictive probability (density, in original units) of a test target"
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """{"": (R,)}."""
        log_prob = evaluation.test.log_prob(evaluation.y).double()  # (R, N)
        return {"": 0.0 - each_row(torch.mean, log_prob)}  # a difference: never −0.0


metrics: dict[str, Metric] = {"nll": NegativeLogLikelihood()}
