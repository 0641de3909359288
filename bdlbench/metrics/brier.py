"""Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.calibration import brier_score, squared_errors
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class Brier:
    """Squared error of the class probabilities, summed over classes. Undefined for regression."""

    summary: ClassVar[str] = "squared error of the class probabilities, summed over classes, mean over test examples"
    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "probability²"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        probs = evaluation.test.arrays().get("probs")  # (R, N, C)
        return {} if probs is None else {"": each_row(brier_score, probs, evaluation.y)}

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute Σ_c (p_nc − [y_n = c])²: {"": (R, N)}."""
        probs = evaluation.test.arrays().get("probs")  # (R, N, C)
        return {} if probs is None else {"": squared_errors(probs, evaluation.y)}


metrics: dict[str, Metric] = {"brier": Brier()}
