"""Kullback-Leibler divergences of factorised weight posteriors, over flat rows (R, P)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Constants of the sparse variational dropout approximation: Molchanov et al. 2017, eq. 14."""


def row_sum(values: Tensor) -> Tensor:
    """Sum of each row: (R, P) -> (R,). Row by row, so that the order of addition does not depend on R."""
    return torch.stack([row.sum() for row in values])


def normal_log_density(value: Tensor, sd: Tensor | float) -> Tensor:
    """log N(value; 0, sd²) in nats, elementwise."""
    log_sd = sd.log() if isinstance(sd, Tensor) else math.log(sd)
    return -0.5 * (value / sd).square() - log_sd - 0.5 * math.log(2 * math.pi)


def normal_kl(mean: Tensor, log_sd: Tensor, prior_sd: Tensor) -> Tensor:
    """KL(N(mean, sd²) ‖ N(0, prior_sd²)) in nats, elementwise.

    ½ (sd² + mean²) / prior_sd² − ½ − log(sd / prior_sd). mean, log_sd (R, P); prior_sd (1 or R, P), positive. &
    Welling 2014, appendix B, with a prior of any scale.
    """
    precision = prior_sd.square().reciprocal()
    return 0.5 * ((2 * log_sd).exp() + mean.square()) * precision - 0.5 - log_sd + prior_sd.log()


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """KL(N(θ, αθ²) ‖ log-uniform) in nats up to a constant, elementwise, zero as α → ∞.

    −[k1 σ(k2 + k3 log α) − ½ log(1 + 1/α) − k1], Molchanov, Ashukha & Vetrov 2017, eq. 14. log_alpha (R, P).
    """
    return K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + 0.5 * softplus(-log_alpha)
