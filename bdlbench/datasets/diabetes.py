"""The regression table that comes with scikit-learn: no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bdlbench.data.downloads import RemoteFile, array_checksum
from bdlbench.data.regression import regression_task
from bdlbench.data.splits import random_split
from bdlbench.data.task import Task


@dataclass(frozen=True)
class Diabetes:
    """Progress of diabetes after a year, from 10 measurements: 442 patients (Efron et al. 2004), from scikit-learn.

    Split: at random, 331 for training and 111 for testing, fixed by the split's number.
    Preprocessing: each feature, and the target, standardised by the mean and standard deviation of the split's TRAINING
    rows; metrics are in the target's own units. Input (10,), no OOD set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The split is negative.
        """
        from sklearn.datasets import load_diabetes  # slow to import, and not needed to list this entry

        bunch = load_diabetes(scaled=False)
        table, target = bunch.data, bunch.target  # (N, D), (N,) float64
        train, test = random_split(len(target), "diabetes", split)
        sources = {"scikit-learn diabetes": array_checksum(table, target)}
        return regression_task(table, target, train, test, sources)


datasets = {"diabetes": Diabetes}
