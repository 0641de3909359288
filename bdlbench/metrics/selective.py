"""Selective classification: how often a classifier errs that answers only where it is confident."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.calibration import each_top_class
from bdlbench.stats.selective import SelectiveStatistic, accuracy_at_coverage, augrc, aurc

AREAS: dict[str, SelectiveStatistic] = {"AURC": aurc, "AUGRC": augrc}


@dataclass(frozen=True)
class AreaUnderRisk:
    """An area under a curve of errors against coverage, by the confidence of the most probable class.

    AURC (Geifman et al. 2019) is the error rate of those that are answered, averaged over coverages. AUGRC (Traub et
    al. 2024) is the rate of examples that are answered and wrong, averaged over coverages: every error counts alike
    there, where AURC weighs those of the most confident examples most. Undefined for regression.
    """

    area: Literal["AURC", "AUGRC"]

    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["lower"]] = "lower"

    @property
    def summary(self) -> str:
        """One line, with what is averaged."""
        what = "error rate of the answered" if self.area == "AURC" else "share that is answered and wrong"
        return f"{self.area}: {what} test examples, the most confident first, mean over coverages"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return _of_all(AREAS[self.area], evaluation)

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        return _without_blocks(AREAS[self.area], evaluation, block) if population == TEST else {}


@dataclass(frozen=True)
class AccuracyAtCoverage:
    """The accuracy on the most confident test examples, as many as `coverage` of all. Undefined for regression."""

    coverage: float = 0.9

    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True
    unit: ClassVar[str] = "fraction"
    better: ClassVar[Literal["higher"]] = "higher"

    @property
    def summary(self) -> str:
        """One line, with the coverage."""
        return f"accuracy on the {100 * self.coverage:g} % of the test examples with the largest top-1 probability"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return _of_all(partial(accuracy_at_coverage, coverage=self.coverage), evaluation)

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} without each block of test examples; no other population is used."""
        kernel = partial(accuracy_at_coverage, coverage=self.coverage)
        return _without_blocks(kernel, evaluation, block) if population == TEST else {}


def _of_all(statistic: SelectiveStatistic, evaluation: Evaluation) -> dict[str, Tensor]:
    """Compute {"": (R,)} of all examples."""
    kept = torch.ones(1, evaluation.y.shape[1], dtype=torch.bool)
    return {key: value[:, 0] for key, value in _of_selections(statistic, evaluation, kept).items()}


def _without_blocks(statistic: SelectiveStatistic, evaluation: Evaluation, block: Tensor) -> dict[str, Tensor]:
    """Compute {"": (R, blocks)} without the examples of each block."""
    return _of_selections(statistic, evaluation, block != torch.arange(int(block.max()) + 1).unsqueeze(1))


def _of_selections(statistic: SelectiveStatistic, evaluation: Evaluation, kept: Tensor) -> dict[str, Tensor]:
    """Compute {"": (R, B)} of the examples that each row of kept (B, N) leaves."""
    probs = evaluation.test.arrays().get("probs")  # (R, N, C)
    return each_top_class(lambda sure, right: statistic(sure, right, kept), probs, evaluation.y)


metrics: dict[str, Metric] = {
    "aurc": AreaUnderRisk("AURC"),
    "augrc": AreaUnderRisk("AUGRC"),
    "accuracy_at_90": AccuracyAtCoverage(0.9),
}
