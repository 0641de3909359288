"""Split conformal prediction of classes: sets that hold the true class at a chosen rate, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.conformal import prediction_sets
from bdlbench.stats.rows import row_means


@dataclass(frozen=True)
class Conformal:
    """How often the conformal set of a test input holds its class, or how many classes it holds.

    Sets hold the classes whose probability is large enough, which calibration rows decide (Sadinle, Lei & Wasserman
    2019): rows of the training data that no method saw, which a data set is asked for (`digits.calibration=0.2`).
    The mean coverage of test rows is then at least `level`, whatever the classifier, and at most 1/(n + 1) above it
    without ties. So coverage is a check, also of a shifted test set, and the size of sets compares classifiers.
    Undefined without calibration rows. The threshold is that of all calibration rows, so intervals are of test examples
    and seeds, of which each holds out rows of its own.
    """

    what: Literal["coverage", "size"]
    unit: str
    better: Literal["higher", "lower"]
    level: float = 0.9

    version: ClassVar[int] = 1
    under_shift: ClassVar[bool] = True

    @property
    def summary(self) -> str:
        """One line, with what is measured and the level."""
        what = "share of test examples whose class is" if self.what == "coverage" else "mean number of classes"
        return f"{what} in conformal sets of level {100 * self.level:g} %, calibrated on rows kept from training"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute whether each set holds the class, or its size: {"": (R, N)}."""
        probs, held = evaluation.test.arrays().get("probs"), evaluation.calibration  # (R, N, C)
        if probs is None or held is None:
            return {}
        known = held.predicted.arrays()["probs"]  # (R, n, C)
        rows = zip(known, held.y, probs, strict=True)
        sets = torch.stack([prediction_sets(*row, self.level) for row in rows])  # (R, N, C)
        if self.what == "size":
            found = sets.double().sum(-1)
        else:
            found = sets.gather(-1, evaluation.y.unsqueeze(-1)).squeeze(-1).double()
        unknown = probs.isnan().any(-1) | known.isnan().flatten(1).any(1, keepdim=True)
        return {"": found.masked_fill(unknown, torch.nan)}


metrics: dict[str, Metric] = {
    "conformal_coverage": Conformal("coverage", "fraction", "higher"),
    "conformal_set_size": Conformal("size", "classes", "lower"),
}
