"""Kullback-Leibler divergences of factorised weight posteriors, over flat rows (R, P).

Training needs only their gradients, whose closed forms take a few passes over the weights instead of twenty
(`kernels.factorised` adds them to the gradients of the likelihood). Their values take more passes, so with
`valued=False`, where nobody reads the value, it is not computed and is zero.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bdlbench.core.torch_private import apply

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Constants of the sparse variational dropout approximation: Molchanov et al. 2017, eq. 14."""

C1, C2, C3 = 1.16145124, -1.50204118, 0.58629921
"""Coefficients of the cubic approximation for α ≤ 1: Kingma, Salimans & Welling 2015, eq. 14."""

LOG_ALPHA_LIMIT = 8.0
"""log α is clipped to ± this in the log-uniform KL, as in the paper's published code."""


def row_sum(values: Tensor) -> Tensor:
    """Sum each row, one row at a time, so that the order of addition does not depend on R.

    Args:
        values: (R, P).

    Returns:
        (R,).
    """
    return torch.stack([row.sum() for row in values])


def normal_log_density(value: Tensor, sd: Tensor | float) -> Tensor:
    """Return log N(value; 0, sd²), elementwise.

    Args:
        value: Where the density is taken.
        sd: Standard deviations, positive; broadcast to `value`.

    Returns:
        Nats, in the broadcast shape.
    """
    log_sd = sd.log() if isinstance(sd, Tensor) else math.log(sd)
    return -0.5 * (value / sd).square() - log_sd - 0.5 * math.log(2 * math.pi)


def normal_kl(mean: Tensor, log_sd: Tensor, prior_sd: Tensor) -> Tensor:
    """Return KL(N(mean, sd²) ‖ N(0, prior_sd²)) = ½ (sd² + mean²) / prior_sd² − ½ − log(sd / prior_sd), elementwise.

    Kingma & Welling 2014, appendix B, with a prior of any scale.

    Args:
        mean: Means (R, P).
        log_sd: Logarithms of the standard deviations (R, P).
        prior_sd: Standard deviations of the prior (1 or R, P), positive.

    Returns:
        Nats, (R, P).
    """
    precision = prior_sd.square().reciprocal()
    return 0.5 * ((2 * log_sd).exp() + mean.square()) * precision - 0.5 - log_sd + prior_sd.log()


class RowPrior(NamedTuple):
    """N(0, sd²) for each weight of a row.

    Attributes:
        sd: Standard deviations (1 or R, P).
        precision: counted / sd², (1 or R, P).
        counted: 1 on weights, 0 on padding, (P,).
    """

    sd: Tensor
    precision: Tensor
    counted: Tensor


def normal_kl_sum(mean: Tensor, log_sd: Tensor, prior: RowPrior) -> Tensor:
    """Sum `normal_kl` over the weights that the prior counts.

    Args:
        mean: Means (R, P).
        log_sd: Logarithms of the standard deviations (R, P).
        prior: The prior of each weight.

    Returns:
        Nats, (R,).
    """
    return row_sum(normal_kl(mean, log_sd, prior.sd) * prior.counted)


def add_normal_kl_gradient(
    mean: Tensor, variance: Tensor, factor: Tensor, prior: RowPrior, into_mean: Tensor, into_log_sd: Tensor
) -> None:
    """Add `factor` times the gradient of `normal_kl_sum` to `into_mean` and `into_log_sd`, in place.

    The gradient is mean · precision in the mean, and variance · precision − 1 in the log standard deviation.

    Args:
        mean: Means (R, P).
        variance: Variances (R, P).
        factor: What the gradient is multiplied by, (R, 1).
        prior: The prior of each weight.
        into_mean: Receives the gradient in the means, (R, P).
        into_log_sd: Receives the gradient in the log standard deviations, (R, P).
    """
    weight = prior.precision * factor
    into_mean.addcmul_(mean, weight)
    into_log_sd.addcmul_(variance, weight).addcmul_(prior.counted, factor, value=-1)


def normal_log_density_sum(value: Tensor, prior: RowPrior, valued: bool = True) -> Tensor:
    """Sum `normal_log_density` over the weights that the prior counts; the gradient is −value · precision.

    Args:
        value: Weights (R, P).
        prior: The prior of each weight.
        valued: Whether the value is read; if not, it is zero and only its gradient is right.

    Returns:
        Nats, (R,).
    """
    total: Tensor = apply(_NormalLogDensitySum, value, *prior, valued)
    return total


class MixtureScales(NamedTuple):
    """π N(0, wide_sd²) + (1 − π) N(0, narrow_sd²): Blundell et al. 2015, eq. 7.

    Attributes:
        weight: π, (1 or R, 1), between 0 and 1.
        wide_sd: σ1, (1 or R, 1).
        narrow_sd: σ2, (1 or R, 1).
    """

    weight: Tensor
    wide_sd: Tensor
    narrow_sd: Tensor


def scale_mixture_log_density(value: Tensor, scales: MixtureScales) -> Tensor:
    """Return the log density of a mixture of two Gaussians around zero, elementwise.

    Args:
        value: Weights (R, P).
        scales: The mixture.

    Returns:
        Nats, (R, P).
    """
    wide, narrow = _mixture_parts(value, scales)
    return wide - logsigmoid(wide - narrow)


def scale_mixture_slope(value: Tensor, scales: MixtureScales) -> Tensor:
    """Return the derivative of `scale_mixture_log_density` by the value, elementwise.

    −value · (r / wide_sd² + (1 − r) / narrow_sd²), r being the probability of the wide part given the value.

    Args:
        value: Weights (R, P).
        scales: The mixture.

    Returns:
        (R, P).
    """
    wide, narrow = _mixture_parts(value, scales)
    of_wide, of_narrow = logsigmoid(wide - narrow).exp(), logsigmoid(narrow - wide).exp()
    return -value * (of_wide / scales.wide_sd.square() + of_narrow / scales.narrow_sd.square())


def _mixture_parts(value: Tensor, scales: MixtureScales) -> tuple[Tensor, Tensor]:
    wide = scales.weight.log() + normal_log_density(value, scales.wide_sd)
    return wide, torch.log1p(-scales.weight) + normal_log_density(value, scales.narrow_sd)


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """Return KL(N(θ, αθ²) ‖ log-uniform) up to a constant, elementwise; it tends to zero as α → ∞.

    −[k1 σ(k2 + k3 log α) − ½ log(1 + 1/α) − k1], Molchanov, Ashukha & Vetrov 2017, eq. 14. Computed with `logsigmoid`
    only: torch's sigmoid and softplus round the last elements of a tensor differently from the others.

    Args:
        log_alpha: (R, P).

    Returns:
        Nats, (R, P).
    """
    return K1 - K1 * logsigmoid(K2 + K3 * log_alpha).exp() - 0.5 * logsigmoid(log_alpha)


def cubic_log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """Return KL(N(θ, αθ²) ‖ log-uniform) for α ≤ 1, up to the same constant as `log_uniform_kl`, elementwise.

    −[½ log α + c1 α + c2 α² + c3 α³] + const, Kingma, Salimans & Welling 2015, eq. 14. Their constant is such that the
    KL without −½ log α vanishes as α → 0; here (γ + log 2) / 2 is added, γ being Euler's constant, so that the exact KL
    tends to zero as α → ∞. The cubic is 0.002 to 0.041 nats below the exact KL for log α from −6 to 0; above α = 1, for
    which it was not fitted, the value is that at 1.

    Args:
        log_alpha: (R, P).

    Returns:
        Nats, (R, P).
    """
    within = log_alpha.clamp(max=0.0)
    alpha = within.exp()
    return (_EULER + math.log(2)) / 2 - 0.5 * within - ((C3 * alpha + C2) * alpha + C1) * alpha


def log_alpha(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log α = log variance − log mean², clipped to ± LOG_ALPHA_LIMIT.

    Args:
        mean: Means (R, P).
        log_variance: Logarithms of the variances (R, P).

    Returns:
        (R, P).
    """
    return log_alpha_of_square(positive_square(mean), log_variance)


def positive_square(mean: Tensor) -> Tensor:
    """Return mean² plus a tiny number, so that its logarithm is finite.

    Args:
        mean: Means (R, P).

    Returns:
        (R, P).
    """
    return mean.square().add_(_TINY)


def log_alpha_of_square(square: Tensor, log_variance: Tensor) -> Tensor:
    """Return `log_alpha` from the `positive_square` of the mean where that is already computed.

    Args:
        square: positive_square(mean), (R, P).
        log_variance: Logarithms of the variances (R, P).

    Returns:
        (R, P).
    """
    return square.log().neg_().add_(log_variance).clamp_(-LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT)


def add_log_uniform_kl_gradient(
    mean: Tensor, square: Tensor, variance: Tensor, alpha: Tensor, weight: Tensor, into: tuple[Tensor, Tensor]
) -> None:
    """Add `weight` times the gradient of `log_uniform_kl` to the two tensors of `into`, in place.

    The derivative by log α is −½ [mean² / (mean² + variance) + 2 k1 k3 e / (1 + e)²] with e = exp(−k2 − k3 log α), and
    d log α / d mean = −2 / mean. It is zero where log α is clipped.

    Args:
        mean: Means (R, P).
        square: positive_square(mean), (R, P).
        variance: Variances (R, P).
        alpha: log_alpha(mean, log variance), (R, P).
        weight: What the gradient is multiplied by, (R, P).
        into: Receive the gradient in the mean and in the log variance, (R, P) each.
    """
    # Two buffers are used again and again: memory that is not in the cache costs twice as much to write.
    e = torch.rsub(alpha, -K2, alpha=K3).exp_()
    slope = (e + 1).square_()
    e.div_(slope)
    torch.div(square, torch.add(square, variance, out=slope), out=slope).add_(e, alpha=2 * K1 * K3).mul_(weight)
    # Zero where alpha is at a limit, in one pass; a mask takes three.
    torch.ops.aten.hardtanh_backward(slope, alpha, -LOG_ALPHA_LIMIT, LOG_ALPHA_LIMIT, grad_input=slope)
    into_mean, into_log_variance = into
    into_log_variance.sub_(slope, alpha=0.5)
    into_mean.addcdiv_(slope.mul_(mean), square)


_TINY, _EULER = 1e-16, 0.5772156649015329


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
