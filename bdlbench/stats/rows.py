"""Reductions that never mix replicates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def each_row(kernel: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply a kernel to one replicate at a time: kernel(row of the first tensor, row of the second, …).

    How a sum is split into partial sums depends on the shape and strides of its argument. Here the argument is one row,
    so a row gives the same bits alone as among others.

    Args:
        kernel: Takes contiguous rows (…) and returns one number.
        *tensors: (R, …) each.

    Returns:
        (R,) float64.

    Raises:
        ValueError: The tensors differ in R.
    """
    rows = zip(*tensors, strict=True)
    return torch.stack([kernel(*(x.contiguous() for x in row)).double() for row in rows])


def row_means(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average what each example contributes, row by row.

    Args:
        values: By key, (R, N).

    Returns:
        By key, (R,) float64.
    """
    return {key: each_row(torch.mean, value) for key, value in values.items()}


def each_finite_row(kernel: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply a kernel as `each_row` does, but return NaN for a row with a number that is not finite.

    A decomposition would raise on such a row.

    Args:
        kernel: Takes contiguous rows (…) and returns one number.
        *tensors: (R, …) each.

    Returns:
        (R,) float64.

    Raises:
        ValueError: The tensors differ in R.
    """

    def guarded(*row: Tensor) -> Tensor:
        finite = all(bool(torch.isfinite(part).all()) for part in row)
        return kernel(*row) if finite else row[0].new_full((), math.nan)

    return each_row(guarded, *tensors)
