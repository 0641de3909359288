"""Continuous ranked probability score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.predictives.mixtures import OfNumbers
from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import row_means


@dataclass(frozen=True)
class ContinuousRankedProbabilityScore:
    """1/N Σ_n ∫ (F(z | x_n) − [z ≥ y_n])² dz of the predictive averaged over samples (Gneiting & Raftery 2007).

    In the target's units; for a point prediction it is the absolute error. For a mixture of Gaussians it has a closed
    form (`predictives.proper_scores`). Undefined for classes, and for older records, which did not store it.
    """

    summary: ClassVar[str] = "continuous ranked probability score of a test target, in its original units"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "target units"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute the score of each test target: {"": (R, N)}."""
        score = evaluation.test.crps(evaluation.y) if isinstance(evaluation.test, OfNumbers) else None
        return {} if score is None else {"": score}


metrics: dict[str, Metric] = {"crps": ContinuousRankedProbabilityScore()}
