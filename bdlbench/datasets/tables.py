"""The small classification tables that come with scikit-learn: no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bdlbench.data.classification import classification_task
from bdlbench.data.downloads import RemoteFile, array_checksum
from bdlbench.data.splits import stratified_split
from bdlbench.data.task import Task


@dataclass(frozen=True)
class BreastCancer:
    """Benign or malignant from 30 features of cell nuclei: Wisconsin diagnostic, 569 rows, from scikit-learn.

    Split: stratified, 426 for training and 143 for testing, fixed by the split's number. Class 0 is malignant.
    Preprocessing: each feature standardised by the mean and standard deviation of the split's TRAINING rows; the
    record keeps their averages over features. Input (30,), 2 classes, no OOD set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The split is negative.
        """
        from sklearn.datasets import load_breast_cancer  # slow to import, and not needed to list this entry

        return _task(load_breast_cancer(), "breast_cancer", split, classes=2)


@dataclass(frozen=True)
class Wine:
    """Which of three cultivars from 13 chemical measurements: UCI wine, 178 rows, from scikit-learn.

    Split: stratified, 133 for training and 45 for testing, fixed by the split's number.
    Preprocessing: each feature standardised by the mean and standard deviation of the split's TRAINING rows; the
    record keeps their averages over features. Input (13,), 3 classes, no OOD set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The split is negative.
        """
        from sklearn.datasets import load_wine  # slow to import, and not needed to list this entry

        return _task(load_wine(), "wine", split, classes=3)


def _task(bunch: Any, name: str, split: int, classes: int) -> Task:
    table, labels = bunch.data, bunch.target  # (N, D) float64, (N,) int
    train, test = stratified_split(labels, name, split)
    sources = {f"scikit-learn {name}": array_checksum(table, labels)}
    return classification_task(table, labels, classes, train, test, sources)


datasets = {"breast_cancer": BreastCancer, "wine": Wine}
