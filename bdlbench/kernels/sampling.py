"""How noise enters a linear map: local reparameterisation, weight samples, Flipout, masks. Noise is an argument."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdlbench.core.layout import LinearOp, PerRow, by_value
from bdlbench.core.torch_private import apply

TINY = 1e-16
"""Added to the variance of a pre-activation: the gradient of a square root is infinite at zero."""


def perturbed(mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """Return mean + sqrt(variance) · noise, elementwise.

    On pre-activations, with mean = op(x, mean) and variance = op(x², variance), this is local reparameterisation:
    Kingma, Salimans & Welling 2015, eq. 6. On weights it is one weight sample: Blundell et al. 2015, §3.2.

    Args:
        mean: Means (R, …).
        variance: Variances (R, …), at least 0.
        noise: Standard normal numbers ([M,] R, …); broadcasts.

    Returns:
        ([M,] R, …).
    """
    return mean + (variance + TINY).sqrt() * noise


class Factors(NamedTuple):
    """Weights (R, *S) and biases (R, C) of a linear map, either their means or their variances.

    Attributes:
        weight: (R, *S).
        bias: (R, C), or None for a map without a bias.
    """

    weight: Tensor
    bias: Tensor | None


def local_noise(op: LinearOp, x: Tensor, mean: Factors, variance: Factors, noise: Tensor) -> Tensor:
    """Apply a linear map with local reparameterisation: op(x, mean) + sqrt(op(x², variance)) · noise, bias included.

    Kingma, Salimans & Welling 2015, eq. 6. The backward is written by hand: with standard deviation s and gradient g,
    h = g · noise / 2s goes back through op(x², variance); what arrives there, times 2x, is added to the gradient of x.

    Args:
        op: The linear map.
        x: Inputs (R, …).
        mean: Means of the weights and biases.
        variance: Variances of the weights and biases.
        noise: Standard normal numbers in the shape of the result.

    Returns:
        Pre-activations in the shape of op(x, mean).
    """
    if x.ndim == mean.weight.ndim == variance.weight.ndim and (mean.weight.requires_grad or x.requires_grad):
        result: Tensor = apply(_LocalNoise, op, x, *mean, *variance, noise)[0]
        return result
    return torch.addcmul(*moments(op, x, mean, variance), noise)


def moments(op: LinearOp, x: Tensor, mean: Factors, variance: Factors) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the result of a linear map under factorised Gaussian weights.

    Args:
        op: The linear map.
        x: Inputs ([M,] R, …).
        mean: Means of the weights and biases.
        variance: Variances of the weights and biases.

    Returns:
        (mean, standard deviation), each in the shape of op(x, mean).
    """
    return op(x, *mean), (op(x.square(), *variance) + TINY).sqrt()


class _LocalNoise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        op: LinearOp,
        x: Tensor,
        mean: Tensor,
        mean_bias: Tensor | None,
        variance: Tensor,
        variance_bias: Tensor | None,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        square = x.square()
        sd = op(square, variance, variance_bias).add_(TINY).sqrt_()
        return torch.addcmul(op(x, mean, mean_bias), sd, noise), sd, square

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.op, x, mean, _, variance, _, noise = inputs
        ctx.save_for_backward(x, mean, variance, noise, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, noise, sd, square = ctx.saved_tensors
        _, of_x, of_mean, of_mean_bias, of_variance, of_variance_bias, _ = ctx.needs_input_grad
        inner = (grad * noise).div_(sd).mul_(0.5)
        back, grad_mean = ctx.op.gradients(grad, x, mean, of_x, of_mean)
        back_squared, grad_variance = ctx.op.gradients(inner, square, variance, of_x, of_variance)
        grad_x = torch.addcmul(back, x, back_squared, value=2) if of_x else None
        grad_mean_bias = ctx.op.unit_sums(grad) if of_mean_bias else None
        grad_variance_bias = ctx.op.unit_sums(inner) if of_variance_bias else None
        return None, grad_x, grad_mean, grad_mean_bias, grad_variance, grad_variance_bias, None


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """Turn random bits into ±1 with equal probability.

    Args:
        bits: Uniform int16 numbers.
        like: A tensor whose dtype the result takes.

    Returns:
        ±1 in the shape of `bits`.
    """
    return (bits >= 0).to(like.dtype).mul_(2).sub_(1)


def keep_mask(bits: Tensor, rate: PerRow, trailing: int, like: Tensor) -> Tensor:
    """Draw a dropout mask: 1 where a unit is kept, 0 where it is dropped.

    Args:
        bits: Uniform int16 numbers ([M,] R, *S).
        rate: Probability of dropping a unit, a number or (R,); met to 1/65,536.
        trailing: How many axes S has.
        like: A tensor whose dtype the result takes.

    Returns:
        The mask, in the shape of `bits`.
    """
    threshold = _threshold(by_value(rate), trailing, bits.device)
    out = torch.empty(bits.shape, dtype=like.dtype, device=bits.device)
    return torch.ge(bits, threshold, out=out)  # ten times as fast as through a tensor of bools


@lru_cache
def _threshold(rate: float | tuple[float, ...], trailing: int, device: torch.device) -> Tensor:
    """Return the smallest int16 number that keeps a unit: (), or (R, 1, …). Cached, since it takes six operations."""
    with torch.inference_mode(False):
        threshold = torch.as_tensor(rate, dtype=torch.float64).mul(65536).round().sub(32768).clamp(max=32767)
        threshold = threshold.to(device, torch.int16)
        return threshold.reshape(-1, *(1,) * trailing) if threshold.ndim else threshold
