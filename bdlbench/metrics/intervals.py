"""Calibration and width of predictive intervals of real targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.predictives.mixtures import OfNumbers
from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.intervals import in_central_intervals, in_quantile_bins, mean_gap
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class CoverageError:
    """|the fraction of test targets in their central q % interval − q %|, for each q of `percents`.

    The interval is between the quantiles (100 ± q)/2 % of the predictive averaged over samples. Undefined for classes.
    """

    percents: tuple[int, ...] = (50, 90, 95)

    summary: ClassVar[str] = "how far the fraction of test targets in their central q % interval is from q %"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"50": (R,), …}."""
        found = {str(q): _of_rows(evaluation, partial(self._gap, q)) for q in self.percents}
        return {q: gap[""] for q, gap in found.items() if gap}

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"50": (R, blocks), …} without each block of test examples; no other population is used."""
        if population != TEST:
            return {}
        found = {str(q): _of_rows(evaluation, partial(self._gap, q, block=block)) for q in self.percents}
        return {q: gaps[""] for q, gaps in found.items() if gaps}

    def _gap(self, percent: int, below: Tensor, block: Tensor | None = None) -> Tensor:
        level = torch.tensor([percent / 100], dtype=torch.float64, device=below.device)
        return mean_gap(in_central_intervals(below, level), level, block)


@dataclass(frozen=True)
class IntervalCalibrationError:
    """Mean over levels p of |the fraction of test targets in their central interval of probability p − p|.

    The `levels` levels go from 0 to 1, as in `mean_absolute_calibration_error` of the Uncertainty Toolbox (Chung et al.
    2021), which computes it for one Gaussian; here also for mixtures. Undefined for classes.
    """

    levels: int = 100

    summary: ClassVar[str] = "mean gap between the level of central intervals and the fraction of targets in them"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return _of_rows(evaluation, self._gap)

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        return _of_rows(evaluation, partial(self._gap, block=block)) if population == TEST else {}

    def _gap(self, below: Tensor, block: Tensor | None = None) -> Tensor:
        levels = torch.linspace(0, 1, self.levels, dtype=torch.float64, device=below.device)
        return mean_gap(in_central_intervals(below, levels), levels, block)


@dataclass(frozen=True)
class QuantileIntervalCoverageError:
    """1/K Σ_k |the fraction of test targets between predictive quantiles (k − 1)/K and k/K − 1/K|, K = `bins`.

    QICE (Han, Zheng & Zhou 2022, CARD), with the predictive's own quantiles instead of a sample's. Undefined for
    classes.
    """

    bins: int = 10

    version: ClassVar[int] = 1
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    @property
    def summary(self) -> str:
        """One line, with the number of bins."""
        return f"QICE: mean gap between the fraction of targets in each of {self.bins} quantile bins and 1/{self.bins}"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return _of_rows(evaluation, self._gap)

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        return _of_rows(evaluation, partial(self._gap, block=block)) if population == TEST else {}

    def _gap(self, below: Tensor, block: Tensor | None = None) -> Tensor:
        expected = torch.full((self.bins,), 1 / self.bins, dtype=torch.float64, device=below.device)
        return mean_gap(in_quantile_bins(below, self.bins), expected, block)


@dataclass(frozen=True)
class Sharpness:
    """sqrt(1/N Σ_n V[y | x_n]) in the target's units: the width of predictions, right or wrong. Undefined for classes.

    Smaller is better only if calibration is equal (Gneiting, Balabdaoui & Raftery 2007).
    """

    summary: ClassVar[str] = "root mean predictive variance, in the target's original units; right or wrong"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "target units"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return {key: each_row(torch.mean, variance).sqrt() for key, variance in _variances(evaluation).items()}

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        rest = len(block) - torch.bincount(block)  # (blocks,)
        left = {
            key: each_row(lambda row: row.sum() - torch.bincount(block, row), variance)
            for key, variance in _variances(evaluation).items()
            if population == TEST
        }
        return {key: (total / rest).clamp_min(0.0).sqrt() for key, total in left.items()}


def _variances(evaluation: Evaluation) -> dict[str, Tensor]:
    """Return V[y | x_n]: {"": (R, N)} float64."""
    sd = evaluation.test.arrays().get("sd")  # (R, N)
    return {} if sd is None else {"": sd.double().square()}


def _of_rows(evaluation: Evaluation, kernel: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Apply a kernel to u = P(target ≤ y_n | x_n) (N,) of each row: {"": (R, …)}; {} if u is unknown."""
    below = evaluation.test.cdf(evaluation.y) if isinstance(evaluation.test, OfNumbers) else None
    return {} if below is None else {"": each_row(kernel, below)}


metrics: dict[str, Metric] = {
    "coverage_error": CoverageError(),
    "interval_calibration_error": IntervalCalibrationError(),
    "qice": QuantileIntervalCoverageError(),
    "sharpness": Sharpness(),
}
