"""Calibration errors beside the expected calibration error: by other bins, by none, by class, and without bias."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.calibration import each_top_class
from bdlbench.stats.calibration_errors import (
    adaptive_calibration_error,
    classwise_calibration_error,
    classwise_without_blocks,
    rms_calibration_error,
    smooth_calibration_error,
)
from bdlbench.stats.rows import each_row
from bdlbench.stats.selective import SelectiveStatistic

CalibrationError = Literal["adaptive", "smooth", "rms", "debiased rms"]

CALIBRATION_ERRORS: dict[CalibrationError, tuple[SelectiveStatistic, str]] = {
    "adaptive": (
        partial(adaptive_calibration_error, bins=15),
        "gap between top-1 confidence and accuracy, over 15 bins of equally many examples",
    ),
    "smooth": (
        smooth_calibration_error,
        "gap between top-1 confidence and accuracy, smoothed by a Gaussian as wide as the gap itself; no bins",
    ),
    "rms": (
        partial(rms_calibration_error, bins=15),
        "root mean squared gap between top-1 confidence and accuracy, over 15 equal-width bins",
    ),
    "debiased rms": (
        partial(rms_calibration_error, bins=15, debiased=True),
        "root mean squared gap of top-1 confidence and accuracy in 15 bins, less what chance adds to its square",
    ),
}


@dataclass(frozen=True)
class TopClassCalibration:
    """An estimate of how far top-1 confidence is from accuracy. Undefined for regression.

    adaptive: bins of equally many examples (Nguyen & O'Connor 2015), so that no bin is nearly empty. smooth: no bins
    (Błasiok & Nakkiran 2023). rms: the root mean square over the bins of `ece`; chance alone makes it larger than 0.
    debiased rms: the same, with the estimator of Kumar, Liang & Ma 2019 that subtracts from its square what chance
    adds, so that test sets of different sizes can be compared.
    """

    estimator: CalibrationError

    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    @property
    def summary(self) -> str:
        """One line, with what is measured."""
        return CALIBRATION_ERRORS[self.estimator][1]

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        kept = torch.ones(1, evaluation.y.shape[1], dtype=torch.bool)
        return {key: value[:, 0] for key, value in self._of_selections(evaluation, kept).items()}

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        kept = block != torch.arange(int(block.max()) + 1).unsqueeze(1)
        return self._of_selections(evaluation, kept) if population == TEST else {}

    def _of_selections(self, evaluation: Evaluation, kept: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, B)} of the examples that each row of kept (B, N) leaves."""
        estimate, _ = CALIBRATION_ERRORS[self.estimator]
        probs = evaluation.test.arrays().get("probs")  # (R, N, C)
        return each_top_class(lambda sure, right: estimate(sure, right, kept), probs, evaluation.y)


@dataclass(frozen=True)
class ClasswiseCalibration:
    """The gap between the probability of a class and how often it occurs, mean over classes (Kull et al. 2019).

    `ece` sees the most probable class alone. Undefined for regression.
    """

    bins: int = 15

    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    @property
    def summary(self) -> str:
        """One line, with the number of bins."""
        return f"gap between a class's probability and frequency over {self.bins} equal-width bins, mean over classes"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        probs = evaluation.test.arrays().get("probs")  # (R, N, C)
        kernel = partial(classwise_calibration_error, bins=self.bins)
        return {} if probs is None else {"": each_row(kernel, probs, evaluation.y)}

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        probs = evaluation.test.arrays().get("probs")  # (R, N, C)
        if probs is None or population != TEST:
            return {}
        kernel = partial(classwise_without_blocks, block=block, bins=self.bins)
        return {"": each_row(kernel, probs, evaluation.y)}


metrics: dict[str, Metric] = {
    "adaptive_ece": TopClassCalibration("adaptive"),
    "smooth_ece": TopClassCalibration("smooth"),
    "rms_ce": TopClassCalibration("rms"),
    "debiased_rms_ce": TopClassCalibration("debiased rms"),
    "classwise_ece": ClasswiseCalibration(),
}
