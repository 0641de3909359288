"""Means and covariances of the weights under the posteriors of several methods, to be held against an exact one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.protocols import Moments


def point_moments(layout: Layout, flat: Tensor) -> Moments:
    """Of point masses at rows (R, P): no variance, no density."""
    return factorised_moments(layout, flat, torch.zeros_like(flat))


def factorised_moments(layout: Layout, mean: Tensor, variance: Tensor, gaussian: bool = False) -> Moments:
    """Of independent weights with these means and variances, rows (R, P)."""
    return Moments(layout.packed(mean).double(), torch.diag_embed(layout.packed(variance).double()), gaussian)


def dropout_moments(layout: Layout, flat: Tensor, rates: Mapping[str, PerRow]) -> Moments | None:
    """Of w · mask / (1 − p), one mask for each input unit: mean w, Cov(w_oi, w_o'i) = w_oi w_o'i p / (1 − p).

    flat: rows (R, P); rates: p of each leaf that is dropped out. None where a masked map is not a matrix (O, I): a
    convolution's mask is of positions, not of weights.
    """
    views = layout.views(flat.double())
    if any(views[name].ndim != 3 for name in rates):
        return None
    blocks = [_dropout_covariance(view, rates.get(name, 0.0)) for name, view in views.items()]
    covariance = torch.stack([torch.block_diag(*(block[r] for block in blocks)) for r in range(len(flat))])
    return Moments(layout.packed(flat).double(), covariance)


def mixture_moments(members: Moments, count: int) -> Moments:
    """Of the equal mixture of each `count` consecutive rows: (R·count, …) -> (R, …). Law of total covariance."""
    means, within = members.mean.unflatten(0, (-1, count)), members.covariance.unflatten(0, (-1, count))
    mean = means.mean(1)  # (R, P)
    apart = means - mean.unsqueeze(1)  # (R, K, P)
    between = torch.stack([(row.mT @ row) / count for row in apart.clone()])
    return Moments(mean, within.mean(1) + between, members.gaussian and count == 1)


def _dropout_covariance(weight: Tensor, rate: PerRow) -> Tensor:
    """(R, S, S) of one leaf (R, *S), its elements in a row: those of one input unit share a mask."""
    rows, size = len(weight), weight[0].numel()
    if weight.ndim != 3:
        return weight.new_zeros(rows, size, size)
    odds = per_row(rate, weight, 4) / (1 - per_row(rate, weight, 4))
    shared = weight.unsqueeze(1) * weight.unsqueeze(2) * odds  # (R, O, O', I)
    return torch.diag_embed(shared).transpose(2, 3).reshape(rows, size, size)  # (R, O, I, O', I')
