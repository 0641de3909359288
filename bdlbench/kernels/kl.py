"""Kullback-Leibler divergences of factorised weight posteriors, over flat rows (R, P).

The sums that training needs carry their gradients in closed form: a few passes over the weights instead of twenty.
Their value takes more than that: where nobody reads it (`valued` is false) it is left out, and is zero.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bdlbench.kernels.linear import apply

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Constants of the sparse variational dropout approximation: Molchanov et al. 2017, eq. 14."""

LOG_ALPHA_LIMIT = 8.0
"""log α is clipped to ± this in the log-uniform KL, as in the paper's published code."""


def row_sum(values: Tensor) -> Tensor:
    """Sum of each row: (R, P) -> (R,). Row by row, so that the order of addition does not depend on R."""
    return torch.stack([row.sum() for row in values])


def normal_log_density(value: Tensor, sd: Tensor | float) -> Tensor:
    """log N(value; 0, sd²) in nats, elementwise."""
    log_sd = sd.log() if isinstance(sd, Tensor) else math.log(sd)
    return -0.5 * (value / sd).square() - log_sd - 0.5 * math.log(2 * math.pi)


def normal_kl(mean: Tensor, log_sd: Tensor, prior_sd: Tensor) -> Tensor:
    """KL(N(mean, sd²) ‖ N(0, prior_sd²)) in nats, elementwise.

    ½ (sd² + mean²) / prior_sd² − ½ − log(sd / prior_sd). mean, log_sd (R, P); prior_sd (1 or R, P), positive.
    Kingma & Welling 2014, appendix B, with a prior of any scale.
    """
    precision = prior_sd.square().reciprocal()
    return 0.5 * ((2 * log_sd).exp() + mean.square()) * precision - 0.5 - log_sd + prior_sd.log()


class RowPrior(NamedTuple):
    """N(0, sd²) of each weight of a row. sd (1 or R, P); counted (P,): 1 on weights, 0 on padding.

    precision = counted / sd², (1 or R, P).
    """

    sd: Tensor
    precision: Tensor
    counted: Tensor


def normal_kl_sum(mean: Tensor, log_sd: Tensor, variance: Tensor, prior: RowPrior, valued: bool = True) -> Tensor:
    """`normal_kl` summed over the weights that the prior counts: (R,), differentiable in mean and log_sd.

    variance = exp(2 log_sd), (R, P), is taken as given. Gradients: mean · precision, and variance · precision − 1.
    """
    total: Tensor = apply(_NormalKLSum, mean, log_sd, variance.detach(), *prior, valued)
    return total


def normal_log_density_sum(value: Tensor, prior: RowPrior, valued: bool = True) -> Tensor:
    """`normal_log_density` summed over the weights that the prior counts, (R,). Gradient: −value · precision."""
    total: Tensor = apply(_NormalLogDensitySum, value, *prior, valued)
    return total


def variance_of(log_sd: Tensor) -> Tensor:
    """exp(2 log_sd), elementwise, with a gradient of one product: 2 variance · grad."""
    variance: Tensor = apply(_Variance, log_sd)
    return variance


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """KL(N(θ, αθ²) ‖ log-uniform) in nats up to a constant, elementwise, zero as α → ∞.

    −[k1 σ(k2 + k3 log α) − ½ log(1 + 1/α) − k1], Molchanov, Ashukha & Vetrov 2017, eq. 14. log_alpha (R, P). By
    logsigmoid alone: torch's sigmoid and softplus round the tail of their memory differently.
    """
    return K1 - K1 * logsigmoid(K2 + K3 * log_alpha).exp() - 0.5 * logsigmoid(log_alpha)


def log_alpha(mean: Tensor, log_variance: Tensor) -> Tensor:
    """log α = log variance − log mean², clipped to ± LOG_ALPHA_LIMIT. (R, P)."""
    return (log_variance - (mean.square() + _TINY).log()).clamp(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT)


def log_uniform_kl_sum(
    mean: Tensor, log_variance: Tensor, alpha: Tensor, counted: Tensor, valued: bool = True
) -> Tensor:
    """`log_uniform_kl` of alpha = log_alpha(mean, log_variance), summed over what `counted` (P,) marks with 1: (R,).

    Differentiable in mean and log_variance; zero where log α is clipped. With σ(x) the logistic function,
    d/d log α = −k1 k3 σ(t)(1 − σ(t)) − ½ σ(−log α) at t = k2 + k3 log α, d log α / d mean = −2 / mean.
    """
    total: Tensor = apply(_LogUniformKLSum, mean, log_variance, alpha, counted, valued)
    return total


_TINY = 1e-16


def _logistic(x: Tensor) -> Tensor:
    """1 / (1 + exp(−x)): torch.sigmoid rounds the tail of its memory differently, so bits would depend on R."""
    return (-x).exp_().add_(1).reciprocal_()


class _NormalKLSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        mean: Tensor, log_sd: Tensor, variance: Tensor, sd: Tensor, precision: Tensor, counted: Tensor, valued: bool
    ) -> Tensor:
        return row_sum(normal_kl(mean, log_sd, sd) * counted) if valued else mean.new_zeros(len(mean))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        mean, _, variance, _, precision, counted, _ = inputs
        ctx.save_for_backward(mean, variance, precision, counted)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean, variance, precision, counted = ctx.saved_tensors
        by_row = grad.unsqueeze(-1)
        weight = precision * by_row
        return mean * weight, (variance * weight).sub_(counted * by_row), None, None, None, None, None


class _NormalLogDensitySum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, sd: Tensor, precision: Tensor, counted: Tensor, valued: bool) -> Tensor:
        return row_sum(normal_log_density(value, sd) * counted) if valued else value.new_zeros(len(value))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, _, precision, _, _ = inputs
        ctx.save_for_backward(value, precision)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, precision = ctx.saved_tensors
        return (precision * -grad.unsqueeze(-1)).mul_(value), None, None, None, None


class _Variance(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(log_sd: Tensor) -> Tensor:
        return (2 * log_sd).exp_()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (variance,) = ctx.saved_tensors
        result: Tensor = 2 * variance * grad
        return result


class _LogUniformKLSum(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, log_variance: Tensor, alpha: Tensor, counted: Tensor, valued: bool) -> Tensor:
        return (log_uniform_kl(alpha) * counted).sum(-1) if valued else mean.new_zeros(len(mean))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        mean, _, alpha, counted, _ = inputs
        ctx.save_for_backward(mean, alpha, counted)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mean, alpha, counted = ctx.saved_tensors
        rise = _logistic(K2 + K3 * alpha)
        slope = (rise.square() - rise) * (K1 * K3) - 0.5 * _logistic(-alpha)
        inside = (alpha.abs() < LOG_ALPHA_LIMIT).to(slope)  # masked_fill is ten times slower
        slope = slope * inside * (grad.unsqueeze(-1) * counted)
        return -2 * slope * mean / (mean.square() + _TINY), slope, None, None, None
