"""Root mean squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class RootMeanSquaredError:
    """sqrt(1/N Σ_n (y_n − E[y | x_n])²) in original units. Undefined where the predictive has no mean."""

    summary: ClassVar[str] = "root mean squared error of the predictive mean, in the target's original units"
    unit: ClassVar[str] = "target units"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """{"": (R,)}."""
        mean = evaluation.test.arrays().get("mean")  # (R, N)
        if mean is None:
            return {}
        squared_error = (evaluation.y.double() - mean.double()).square()  # (R, N)
        return {"": each_row(torch.mean, squared_error).sqrt()}


metrics: dict[str, Metric] = {"rmse": RootMeanSquaredError()}
