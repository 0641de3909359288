"""Likelihoods of several targets at once."""

from __future__ import annotations

import math

from torch import Tensor


def joint_log_likelihood(log_prob: Tensor, anchors: Tensor, counts: Tensor) -> Tensor:
    """Return log (1/M) Σ_m Π_j p_m(y_j | x_j)^(count_j) of each batch of anchors j.

    A batch has an anchor as often as its count says. Osband et al. 2022, eq. 3 (arXiv:2202.13509).

    Args:
        log_prob: log p_m(y_n | x_n) of each function in nats, (M, N).
        anchors: The examples that each batch is made of, (D, κ) int64.
        counts: How often it has each, (D, κ).

    Returns:
        Nats, (D,) float64.
    """
    terms = (log_prob.double()[:, anchors] * counts).sum(-1)  # (M, D)
    found: Tensor = terms.logsumexp(0) - math.log(len(log_prob))
    return found
