"""Means and covariances of the weights under several methods' posteriors, for comparison with an exact posterior."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.protocols import Moments


def point_moments(layout: Layout, flat: Tensor) -> Moments:
    """Return the moments of point masses at rows (R, P): no variance, no density."""
    return factorised_moments(layout, flat, torch.zeros_like(flat))


def factorised_moments(layout: Layout, mean: Tensor, variance: Tensor, gaussian: bool = False) -> Moments:
    """Return the moments of independent weights.

    Args:
        layout: Where each leaf lies in a row.
        mean: Means (R, P).
        variance: Variances (R, P).
        gaussian: Whether the weights are Gaussian.

    Returns:
        The moments, without padding.
    """
    return Moments(layout.packed(mean).double(), torch.diag_embed(layout.packed(variance).double()), gaussian)


def dropout_moments(layout: Layout, flat: Tensor, rates: Mapping[str, PerRow]) -> Moments | None:
    """Return the moments of w · mask / (1 − p), with one mask for each input unit.

    The mean is w, and Cov(w_oi, w_o′i) = w_oi w_o′i p / (1 − p).

    Args:
        layout: Where each leaf lies in a row.
        flat: Rows (R, P).
        rates: p of each leaf whose input is dropped.

    Returns:
        The moments; None where a masked map is not a matrix (O, I), since a convolution masks positions, not weights.
    """
    views = layout.views(flat.double())
    if any(views[name].ndim != 3 for name in rates):
        return None
    blocks = [_dropout_covariance(view, rates.get(name, 0.0)) for name, view in views.items()]
    covariance = torch.stack([torch.block_diag(*(block[r] for block in blocks)) for r in range(len(flat))])
    return Moments(layout.packed(flat).double(), covariance)


def mixture_moments(members: Moments, count: int) -> Moments:
    """Return the moments of the equal mixture of each `count` consecutive rows: (R·count, …) -> (R, …).

    Law of total covariance.
    """
    means, within = members.mean.unflatten(0, (-1, count)), members.covariance.unflatten(0, (-1, count))
    mean = means.mean(1)  # (R, P)
    apart = means - mean.unsqueeze(1)  # (R, K, P)
    between = torch.stack([(row.mT @ row) / count for row in apart.clone()])
    return Moments(mean, within.mean(1) + between, members.gaussian and count == 1)


def _dropout_covariance(weight: Tensor, rate: PerRow) -> Tensor:
    """Return (R, S, S) of one leaf (R, *S), flattened: elements of one input unit share a mask."""
    rows, size = len(weight), weight[0].numel()
    if weight.ndim != 3:
        return weight.new_zeros(rows, size, size)
    odds = per_row(rate, weight, 4) / (1 - per_row(rate, weight, 4))
    shared = weight.unsqueeze(1) * weight.unsqueeze(2) * odds  # (R, O, O', I)
    return torch.diag_embed(shared).transpose(2, 3).reshape(rows, size, size)  # (R, O, I, O', I')
