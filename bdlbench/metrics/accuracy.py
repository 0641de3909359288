"""Accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.calibration import top_class
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class Accuracy:
    """The fraction of test examples whose most probable class is right. Undefined for regression."""

    summary: ClassVar[str] = "fraction of test examples whose most probable class is right"
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["higher"]] = "higher"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """{"": (R,)}."""
        probs = evaluation.test.arrays().get("probs")  # (R, N, C)
        if probs is None:
            return {}
        _, correct = top_class(probs, evaluation.y)  # (R, N)
        return {"": each_row(torch.mean, correct)}


metrics: dict[str, Metric] = {"accuracy": Accuracy()}
