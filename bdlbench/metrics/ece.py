"""Expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.calibration import calibration_error_without_blocks, each_top_class, expected_calibration_error


@dataclass(frozen=True)
class ExpectedCalibrationError:
    """The gap between confidence and accuracy over `bins` equal-width bins of the top-1 probability.

    Bins are (lo, hi]. Guo et al. 2017, eq. 3. Undefined for regression.
    """

    bins: int = 15

    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    @property
    def summary(self) -> str:
        """One line, with the number of bins."""
        return f"gap between top-1 confidence and accuracy, over {self.bins} equal-width bins (lo, hi]"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        kernel = partial(expected_calibration_error, bins=self.bins)
        return each_top_class(kernel, evaluation.test.arrays().get("probs"), evaluation.y)

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        if population != TEST:
            return {}
        kernel = partial(calibration_error_without_blocks, block=block, bins=self.bins)
        return each_top_class(kernel, evaluation.test.arrays().get("probs"), evaluation.y)


metrics: dict[str, Metric] = {"ece": ExpectedCalibrationError(), "ece_10": ExpectedCalibrationError(bins=10)}
