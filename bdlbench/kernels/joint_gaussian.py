"""Gaussian rows whose weights depend on each other: w = mean + sd · ε + η F, and the KL from independent ones.

With η drawn apart from ε the covariance is diag(sd²) + FᵀF: low rank plus diagonal (Ong, Nott & Smith 2018). With η = ε
and F strictly upper triangular it is LᵀL with L = diag(sd) + F, its Cholesky factor: any covariance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bdlbench.core.layout import ALIGNMENT
from bdlbench.kernels.kl import RowPrior, normal_kl_sum, row_sum
from bdlbench.kernels.linear import product


def low_rank_kl(mean: Tensor, log_sd: Tensor, factors: Tensor, prior: RowPrior) -> Tensor:
    """Return KL(N(mean, diag(sd²) + FᵀF) ‖ N(0, diag(prior.sd²))).

    Beside the KL of the diagonal alone, ½ Σ F² / prior.sd² for the trace, and −½ log |I + F diag(1/sd²) Fᵀ| for the
    volume, by the matrix determinant lemma.

    Args:
        mean: Means (R, P).
        log_sd: Logarithms of sd, (R, P).
        factors: F, (R, K, P), zero on padding.
        prior: The prior of each weight.

    Returns:
        Nats, (R,).
    """
    scaled = factors * (-log_sd).exp().unsqueeze(1)  # (R, K, P)
    return cholesky_kl(mean, log_sd, factors, prior) - 0.5 * log_one_plus_gram(scaled)


def cholesky_kl(mean: Tensor, log_sd: Tensor, factors: Tensor, prior: RowPrior) -> Tensor:
    """Return KL(N(mean, LᵀL) ‖ N(0, diag(prior.sd²))) with L = diag(sd) + F.

    log |LᵀL| = 2 Σ log sd, since L is triangular; the trace is that of sd² + F².

    Args:
        mean: Means (R, P).
        log_sd: Logarithms of sd, (R, P).
        factors: F, (R, P, P), strictly upper triangular and zero on padding.
        prior: The prior of each weight.

    Returns:
        Nats, (R,).
    """
    trace = row_sum(factors.square().sum(1) * prior.precision)
    return normal_kl_sum(mean, log_sd, prior) + 0.5 * trace


def log_one_plus_gram(rows: Tensor) -> Tensor:
    """Return log |I + V Vᵀ|.

    The pivots of the elimination are multiplied. Its steps are products and quotients of single numbers, whose bits do
    not depend on R, as those of a batched Cholesky's backward do.

    Args:
        rows: V, (R, K, P).

    Returns:
        (R,).
    """
    count = rows.shape[1]
    left = product(rows, rows.mT) + torch.eye(count, dtype=rows.dtype, device=rows.device)  # (R, K, K)
    pivots = []
    for _ in range(count):
        pivot, column = left[:, :1, :1], left[:, 1:, :1]
        pivots.append(pivot.reshape(-1, 1))
        left = left[:, 1:, 1:] - column * column.mT / pivot
    if not pivots:
        return rows.new_zeros(len(rows))
    padded = functional.pad(torch.cat(pivots, 1), (0, -count % ALIGNMENT), value=1.0)  # whole vectors: same bits
    return row_sum(padded.log())
