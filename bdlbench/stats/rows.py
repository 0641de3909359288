"""Reductions that never mix replicates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def each_row(kernel: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """kernel(row of the first tensor, row of the second, …), one replicate at a time.

    tensors: (R, …) each; a kernel sees contiguous rows (…) and returns one number. Returns (R,) float64.
    How a sum is split into partial sums depends on the shape and strides of what is summed; here these are one row's,
    so a row gives the same bits alone or among others. Raises ValueError where the tensors differ in R.
    """
    rows = zip(*tensors, strict=True)
    return torch.stack([kernel(*(x.contiguous() for x in row)).double() for row in rows])


def each_finite_row(kernel: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """As `each_row`, but NaN for a row of which anything is not finite: a decomposition would raise."""

    def guarded(*row: Tensor) -> Tensor:
        finite = all(bool(torch.isfinite(part).all()) for part in row)
        return kernel(*row) if finite else row[0].new_full((), math.nan)

    return each_row(guarded, *tensors)
