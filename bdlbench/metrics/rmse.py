"""Root mean squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class RootMeanSquaredError:
    """sqrt(1/N Σ_n (y_n − E[y | x_n])²) in original units. Undefined if the predictive has no mean."""

    summary: ClassVar[str] = "root mean squared error of the predictive mean, in the target's original units"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "target units"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return {key: each_row(torch.mean, square).sqrt() for key, square in _squared_errors(evaluation).items()}

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        if population != TEST:
            return {}
        rest = len(block) - torch.bincount(block)  # (blocks,)
        sums = {
            key: each_row(lambda row: row.sum() - torch.bincount(block, row), square)
            for key, square in _squared_errors(evaluation).items()
        }
        return {key: (left / rest).clamp_min(0.0).sqrt() for key, left in sums.items()}


def _squared_errors(evaluation: Evaluation) -> dict[str, Tensor]:
    """Compute (y_n − E[y | x_n])²: {"": (R, N)} float64."""
    mean = evaluation.test.arrays().get("mean")  # (R, N)
    return {} if mean is None else {"": (evaluation.y.double() - mean.double()).square()}


metrics: dict[str, Metric] = {"rmse": RootMeanSquaredError()}
