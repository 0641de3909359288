"""A split of a regression table, standardised by its training rows, or as a leaking protocol does by all rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from bdlbench.data.splits import Index, Reals, column_statistics
from bdlbench.data.task import Examples, RawInputs, Signature, StandardisedOn, Task


def regression_task(
    table: Reals,
    target: Reals,
    train: Index,
    test: Index,
    sources: Mapping[str, str],
    standardised_on: StandardisedOn = "training",
) -> Task:
    """Make the task of one split of a table.

    Each feature and the target are standardised by mean and standard deviation; metrics are in the target's own units.

    Args:
        table: Inputs (N, D).
        target: Targets (N,).
        train: The rows for training, in order.
        test: The rows for testing, in order.
        sources: SHA-256 by name, for the record.
        standardised_on: The rows that means and standard deviations are of.

    Returns:
        The task.

    Raises:
        BadInput: As `column_statistics` does.
    """
    known = train if standardised_on == "training" else np.arange(len(table))
    mean, sd = column_statistics(table[known])
    (y_mean,), (y_sd,) = column_statistics(target[known, None])
    raw = RawInputs("numbers", lambda measured: torch.from_numpy((measured - mean) / sd).to(torch.float32))  # (N, D)
    x = raw.scaled(table)
    y = torch.from_numpy((target - y_mean) / y_sd).to(torch.float32)
    parts = [Examples(x[index], y[index]) for index in map(torch.from_numpy, (train, test))]
    return Task(
        signature=Signature((table.shape[1],), 1, "gaussian"),
        train=parts[0],
        test=parts[1],
        sources=dict(sources),
        y_mean=float(y_mean),
        y_sd=float(y_sd),
        statistics={"target_mean": float(y_mean), "target_sd": float(y_sd)},
        standardised=(0,),
        standardised_on=standardised_on,
        raw=raw,
    )
