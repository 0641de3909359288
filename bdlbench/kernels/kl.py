"""Kullback-Leibler divergences of factorised weight posteriors, over flat rows (R, P).

Training needs their gradients, which have a closed form: a few passes over the weights instead of twenty
(`kernels.factorised` adds them to those of the likelihood). Their value takes more than that: where nobody reads it
(`valued` is false) it is left out, and is zero.
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


def normal_kl_sum(mean: Tensor, log_sd: Tensor, prior: RowPrior) -> Tensor:
    """`normal_kl` summed over the weights that the prior counts: (R,)."""
    return row_sum(normal_kl(mean, log_sd, prior.sd) * prior.counted)


def add_normal_kl_gradient(
    mean: Tensor, variance: Tensor, factor: Tensor, prior: RowPrior, into_mean: Tensor, into_log_sd: Tensor
) -> None:
    """Add factor (R, 1) times the gradient of `normal_kl_sum` at mean and variance (R, P) to the other two, in place.

    In the mean: mean · precision; in the log standard deviation: variance · precision − 1.
    """
    weight = prior.precision * factor
    into_mean.addcmul_(mean, weight)
    into_log_sd.addcmul_(variance, weight).addcmul_(prior.counted, factor, value=-1)


def normal_log_density_sum(value: Tensor, prior: RowPrior, valued: bool = True) -> Tensor:
    """`normal_log_density` summed over the weights that the prior counts, (R,). Gradient: −value · precision."""
    total: Tensor = apply(_NormalLogDensitySum, value, *prior, valued)
    return total


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """KL(N(θ, αθ²) ‖ log-uniform) in nats up to a constant, elementwise, zero as α → ∞.

    −[k1 σ(k2 + k3 log α) − ½ log(1 + 1/α) − k1], Molchanov, Ashukha & Vetrov 2017, eq. 14. log_alpha (R, P). By
    logsigmoid alone: torch's sigmoid and softplus round the tail of their memory differently.
    """
    return K1 - K1 * logsigmoid(K2 + K3 * log_alpha).exp() - 0.5 * logsigmoid(log_alpha)


def log_alpha(mean: Tensor, log_variance: Tensor) -> Tensor:
    """log α = log variance − log mean², clipped to ± LOG_ALPHA_LIMIT. (R, P)."""
    return log_alpha_of_square(positive_square(mean), log_variance)


def positive_square(mean: Tensor) -> Tensor:
    """mean² and a little, so that it has a logarithm."""
    return mean.square().add_(_TINY)


def log_alpha_of_square(square: Tensor, log_variance: Tensor) -> Tensor:
    """`log_alpha` where the `positive_square` of the mean is at hand."""
    return square.log().neg_().add_(log_variance).clamp_(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT)


def add_log_uniform_kl_gradient(
    mean: Tensor, square: Tensor, variance: Tensor, alpha: Tensor, weight: Tensor, into: tuple[Tensor, Tensor]
) -> None:
    """Add weight (R, P) times the gradient of `log_uniform_kl` to `into`: that in the mean, that in the log variance.

    At square = positive_square(mean), alpha = log_alpha(mean, log variance), all (R, P); zero where alpha is clipped.
    By log α: −½ [mean² / (mean² + variance) + 2 k1 k3 e / (1 + e)²], with e = exp(−k2 − k3 log α); d log α / d mean =
    −2 / mean.
    """
    # In two buffers: what is new to the cache costs twice as much to write.
    e = torch.rsub(alpha, -K2, alpha=K3).exp_()
    slope = (e + 1).square_()
    e.div_(slope)
    torch.div(square, torch.add(square, variance, out=slope), out=slope).add_(e, alpha=2 * K1 * K3).mul_(weight)
    # Zero where alpha is at a limit, in one pass where a mask takes three.
    torch.ops.aten.hardtanh_backward(slope, alpha, -LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT, grad_input=slope)
    into_mean, into_log_variance = into
    into_log_variance.sub_(slope, alpha=0.5)
    into_mean.addcdiv_(slope.mul_(mean), square)


_TINY = 1e-16


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
