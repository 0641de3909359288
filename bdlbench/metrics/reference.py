"""Distances from a stored reference: the predictive of a long run of a sampler on the same data, model and prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import row_means


def agreement(ours: Tensor, theirs: Tensor) -> Tensor:
    """Tell where the most probable classes of probabilities (R, N, C) are the same, (R, N) float64."""
    return (ours.argmax(-1) == theirs.argmax(-1)).double()


def total_variation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Compute ½ Σ_c |p_c − q_c| of probabilities (R, N, C), (R, N) float64."""
    return 0.5 * ordered_sum((ours.double() - theirs.double()).abs().unbind(-1))


@dataclass(frozen=True)
class ClassesBesideReference:
    """A comparison of class probabilities with the reference's, mean over test inputs (Izmailov et al. 2021, §4.2).

    Undefined for regression, and where no reference fits.
    """

    comparison: Literal["agreement", "total_variation"]
    summary: str
    better: Literal["higher", "lower"]

    version: ClassVar[int] = 1
    reads_reference: ClassVar[bool] = True
    unit: ClassVar[str] = "fraction"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compare each test input: {"": (R, N)}."""
        ours = evaluation.test.arrays().get("probs")
        theirs = evaluation.gold.arrays().get("probs") if evaluation.gold else None
        return {} if ours is None or theirs is None else {"": _COMPARISONS[self.comparison](ours, theirs)}


_COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "agreement": agreement,
    "total_variation": total_variation,
}


@dataclass(frozen=True)
class PredictiveW2:
    """√((m − m′)² + (s − s′)²), mean over test inputs: Wasserstein-2 of Gaussians with the predictives' mean and sd.

    The 2021 competition on approximate inference took Wasserstein-2 between samples of predictive means; records keep
    the mean and the standard deviation of a predictive, noise included, and no samples. Undefined for classes, and
    where no reference fits.
    """

    summary: ClassVar[str] = "Wasserstein-2 distance from the reference's predictive, by mean and sd, mean over inputs"
    version: ClassVar[int] = 1
    reads_reference: ClassVar[bool] = True
    unit: ClassVar[str] = "target units"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute the distance at each test input: {"": (R, N)}."""
        ours, theirs = evaluation.test.arrays(), evaluation.gold.arrays() if evaluation.gold else {}
        if not {"mean", "sd"} <= ours.keys() & theirs.keys():
            return {}
        return {"": torch.hypot(ours["mean"].double() - theirs["mean"], ours["sd"].double() - theirs["sd"])}


metrics: dict[str, Metric] = {
    "agreement": ClassesBesideReference(
        "agreement", "fraction of test inputs whose most probable class is the reference's", "higher"
    ),
    "total_variation": ClassesBesideReference(
        "total_variation", "total variation from the reference's class probabilities", "lower"
    ),
    "predictive_w2": PredictiveW2(),
}
