"""Beta distributions of a probability, and Gaussian distributions of its logit."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor
from torch.nn.functional import logsigmoid

NODES = 64
"""The number of Gauss-Hermite nodes: for a logit of standard deviation 2 the error of E log π is under 1e-7."""


def log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    """Return log B(α, β) = log Γ(α) + log Γ(β) − log Γ(α + β), elementwise; not differentiable.

    SciPy computes it, as it does every special function of this file: torch's `lgamma` rounds the last elements of a
    tensor, which do not fill a whole vector, differently from the others.

    Args:
        alpha: First shape parameters, positive.
        beta: Second shape parameters, positive; broadcast with `alpha`.

    Returns:
        Natural logarithms, in the broadcast shape and the dtype of `alpha`.
    """
    return _by(special.betaln, alpha, beta)


def beta_log_density(logit: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return log Beta(π; α, β) at π = sigmoid(logit), as a density of π.

    (α − 1) log π + (β − 1) log(1 − π) − log B(α, β), elementwise. Differentiable in the logit only.

    Args:
        logit: Logits of π.
        alpha: First shape parameters, positive.
        beta: Second shape parameters, positive.

    Returns:
        Log-densities in nats, in the broadcast shape.
    """
    return (alpha - 1) * logsigmoid(logit) + (beta - 1) * logsigmoid(-logit) - log_beta(alpha, beta)


def beta_mean_logs(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return E log π = ψ(α) − ψ(α + β) and E log(1 − π) = ψ(β) − ψ(α + β) under Beta(α, β), elementwise.

    Args:
        alpha: First shape parameters, positive.
        beta: Second shape parameters, positive.

    Returns:
        (E log π, E log(1 − π)) in nats, in the broadcast shape.
    """
    total = _by(special.digamma, alpha + beta)
    return _by(special.digamma, alpha) - total, _by(special.digamma, beta) - total


def beta_kl(alpha: Tensor, beta: Tensor, other_alpha: Tensor, other_beta: Tensor) -> Tensor:
    """Return KL(Beta(α, β) ‖ Beta(α′, β′)), elementwise.

    log B(α′, β′) − log B(α, β) + (α − α′) E log π + (β − β′) E log(1 − π).

    Args:
        alpha: α, positive.
        beta: β, positive.
        other_alpha: α′, positive.
        other_beta: β′, positive.

    Returns:
        Divergences in nats, in the broadcast shape.
    """
    mean_log, mean_log_rest = beta_mean_logs(alpha, beta)
    surplus = (alpha - other_alpha) * mean_log + (beta - other_beta) * mean_log_rest
    return surplus + log_beta(other_alpha, other_beta) - log_beta(alpha, beta)


def beta_logit_moments(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean ψ(α) − ψ(β) and variance ψ′(α) + ψ′(β) of the logit of π ~ Beta(α, β), elementwise.

    Args:
        alpha: First shape parameters, positive.
        beta: Second shape parameters, positive.

    Returns:
        (mean, variance) of the logit, in the broadcast shape.
    """
    mean = _by(special.digamma, alpha) - _by(special.digamma, beta)
    return mean, _by(_trigamma, alpha) + _by(_trigamma, beta)


def normal_beta_kl(mean: Tensor, log_sd: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return KL(logit ~ N(mean, sd²) ‖ π = sigmoid(logit) ~ Beta(α, β)), elementwise.

    −½ log(2πe sd²) − E [α log π + β log(1 − π)] + log B(α, β): as a density of the logit, the Beta density carries the
    Jacobian π (1 − π). Since E log(1 − π) = E log π − mean, one Gauss-Hermite sum is enough. Differentiable in `mean`
    and `log_sd`.

    Args:
        mean: Means of the logit.
        log_sd: Logarithms of the standard deviations of the logit.
        alpha: First shape parameters of the Beta, positive.
        beta: Second shape parameters of the Beta, positive.

    Returns:
        Divergences in nats, in the broadcast shape.
    """
    mean_log = normal_mean(mean, log_sd.exp(), logsigmoid)
    cross = (alpha + beta) * mean_log - beta * mean - log_beta(alpha, beta)
    return -log_sd - 0.5 * math.log(2 * math.pi * math.e) - cross


def normal_mean(mean: Tensor, sd: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return E function(z) over z ~ N(mean, sd²), elementwise, by Gauss-Hermite quadrature with `NODES` nodes.

    Args:
        mean: Means (…).
        sd: Standard deviations (…).
        function: An elementwise function.

    Returns:
        Expectations (…), in the unit of `function`.
    """
    nodes, weights = (torch.from_numpy(v).to(mean) for v in _rule())
    values = function(mean.unsqueeze(-1) + sd.unsqueeze(-1) * nodes)
    return (values * weights).sum(-1) / math.sqrt(2 * math.pi)


@cache
def _rule() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return nodes, weights


def _trigamma(x: object) -> object:
    return special.polygamma(1, x)


def _by(function: Callable[..., object], *tensors: Tensor) -> Tensor:
    values = function(*(t.detach().cpu().double().numpy() for t in tensors))
    return torch.as_tensor(np.asarray(values)).to(tensors[0])
