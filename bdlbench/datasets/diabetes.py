"""The regression table that comes with scikit-learn: no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bdlbench.data.downloads import RemoteFile, array_checksum
from bdlbench.data.splits import column_statistics, random_split
from bdlbench.data.task import Examples, Signature, Task


@dataclass(frozen=True)
class Diabetes:
    """Progress of diabetes after a year, from 10 measurements: 442 patients (Efron et al. 2004), from scikit-learn.

    Split: at random, 331 for training and 111 for testing, fixed by the split's number.
    Preprocessing: each feature, and the target, standardised by the mean and standard deviation of the split's TRAINING
    rows; metrics are in the target's own units. Input (10,), no OOD set.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Split `split`, any number from 0. Raises BadInput below that."""
        from sklearn.datasets import load_diabetes  # slow to import, and not needed to list this entry

        bunch = load_diabetes(scaled=False)
        table, target = bunch.data, bunch.target  # (N, D), (N,) float64
        train, test = random_split(len(target), "diabetes", split)
        mean, sd = column_statistics(table[train])
        (y_mean,), (y_sd,) = column_statistics(target[train, None])
        x = torch.from_numpy((table - mean) / sd).to(torch.float32)
        y = torch.from_numpy((target - y_mean) / y_sd).to(torch.float32)
        parts = [Examples(x[index], y[index]) for index in map(torch.from_numpy, (train, test))]
        return Task(
            signature=Signature((table.shape[1],), 1, "gaussian"),
            train=parts[0],
            test=parts[1],
            sources={"scikit-learn diabetes": array_checksum(table, target)},
            y_mean=float(y_mean),
            y_sd=float(y_sd),
            statistics={"target_mean": float(y_mean), "target_sd": float(y_sd)},
            standardised=(0,),
        )


datasets = {"diabetes": Diabetes}
