"""Accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.calibration import top_class
from bdlbench.stats.rows import row_means


@dataclass(frozen=True)
class Accuracy:
    """The fraction of test examples whose most probable class is right. Undefined for regression."""

    summary: ClassVar[str] = "fraction of test examples whose most probable class is right"
    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute whether each prediction is right: {"": (R, N)}."""
        probs = evaluation.test.arrays().get("probs")  # (R, N, C)
        return {} if probs is None else {"": top_class(probs, evaluation.y)[1]}


metrics: dict[str, Metric] = {"accuracy": Accuracy()}
