"""How often predictive intervals hold their targets, from u = P(target ≤ y) of each: uniform where they are right."""

from __future__ import annotations

import torch
from torch import Tensor


def in_central_intervals(below: Tensor, levels: Tensor) -> Tensor:
    """Tell which targets are in their central interval of each probability p: |2u − 1| ≤ p.

    Args:
        below: (N,) u of each target, 0 to 1.
        levels: (L,) p, 0 to 1.

    Returns:
        (L, N) float64, 0 or 1; NaN where u is not finite.
    """
    return _known((2 * below.double() - 1).abs() <= levels[:, None], below)


def in_quantile_bins(below: Tensor, bins: int) -> Tensor:
    """Tell in which of K equal intervals of u, ((k − 1)/K, k/K], each target is; u = 0 is in the first.

    Args:
        below: (N,) u of each target, 0 to 1.
        bins: K.

    Returns:
        (K, N) float64, 0 or 1; NaN where u is not finite.
    """
    which = (below.double() * bins).ceil().clamp(1, bins)
    return _known(which == torch.arange(1, bins + 1, device=below.device)[:, None], below)


def mean_gap(inside: Tensor, expected: Tensor, block: Tensor | None = None) -> Tensor:
    """Compute the mean over L intervals of |the fraction of targets in it − what is expected|.

    Args:
        inside: (L, N) float64, 0 or 1.
        expected: (L,) fractions.
        block: (N,) int64 from 0, to leave out one block of targets after another; None to leave out none.

    Returns:
        () float64, or (blocks,) without each block.
    """
    if block is None:
        return (inside.sum(1) / inside.shape[1] - expected).abs().mean()
    sizes = torch.bincount(block)
    counts = inside.new_zeros(len(inside), len(sizes)).index_add_(1, block, inside)  # (L, blocks)
    left = (inside.sum(1, keepdim=True) - counts) / (len(block) - sizes)
    return (left - expected[:, None]).abs().mean(0)


def _known(inside: Tensor, below: Tensor) -> Tensor:
    return inside.double().masked_fill(~torch.isfinite(below), torch.nan)
