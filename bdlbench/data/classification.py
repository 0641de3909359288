"""A split of a table with classes, standardised by its training rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from bdlbench.data.splits import Index, Reals, class_labels, column_statistics
from bdlbench.data.task import Examples, RawInputs, Signature, Task


def classification_task(
    table: Reals,
    labels: NDArray[np.integer],
    classes: int,
    train: Index,
    test: Index,
    sources: Mapping[str, str],
) -> Task:
    """Make the task of one split of a table, with each feature standardised by mean and deviation of training rows.

    Args:
        table: Inputs (N, D).
        labels: Classes (N,) from 0.
        classes: How many there are.
        train: The rows for training, in order.
        test: The rows for testing, in order.
        sources: SHA-256 by name, for the record.

    Returns:
        The task. Its statistics are averages over features.

    Raises:
        BadInput: As `column_statistics` does.
    """
    mean, sd = column_statistics(table[train])
    raw = RawInputs("numbers", lambda measured: torch.from_numpy((measured - mean) / sd).to(torch.float32))  # (N, D)
    x = raw.scaled(table)
    parts = [Examples(x[torch.from_numpy(part)], class_labels(labels[part])) for part in (train, test)]
    return Task(
        signature=Signature((table.shape[1],), classes, "categorical"),
        train=parts[0],
        test=parts[1],
        sources=dict(sources),
        statistics={"average_mean": float(mean.mean()), "average_sd": float(sd.mean())},
        standardised=(0,),
        raw=raw,
    )
