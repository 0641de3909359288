"""How noise enters a linear map: local reparameterisation, weight samples, Flipout, masks. Noise is an argument."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdlbench.core.layout import LinearOp, PerRow
from bdlbench.kernels.linear import apply

TINY = 1e-16
"""Added to a pre-activation's variance: the gradient of a square root is infinite at zero."""


def perturbed(mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """mean + sqrt(variance) · noise, elementwise; noise broadcasts, as ([M,] R, …) does over (R, …).

    On pre-activations, with mean = op(x, mean) and variance = op(x², variance), this is local reparameterisation:
    Kingma, Salimans & Welling 2015, eq. 6. On weights it is one weight sample: Blundell et al. 2015, §3.2.
    """
    return mean + (variance + TINY).sqrt() * noise


class Factors(NamedTuple):
    """Weights (R, *S) and biases (R, C) of a linear map: their means, or their variances; no bias where it is None."""

    weight: Tensor
    bias: Tensor | None


def local_noise(op: LinearOp, x: Tensor, mean: Factors, variance: Factors, noise: Tensor) -> Tensor:
    """op(x, mean) + sqrt(op(x², variance)) · noise, the local reparameterisation of a linear map with its bias.

    Kingma, Salimans & Welling 2015, eq. 6. x (R, …), noise in the shape of the result. The backward is written out:
    with s the standard deviation and g the gradient, h = g · noise / 2s goes back through op(x², variance), and 2x
    times what arrives there to x.
    """
    if x.ndim == mean.weight.ndim == variance.weight.ndim and (mean.weight.requires_grad or x.requires_grad):
        result: Tensor = apply(_LocalNoise, op, x, *mean, *variance, noise)[0]
        return result
    return torch.addcmul(*moments(op, x, mean, variance), noise)


def moments(op: LinearOp, x: Tensor, mean: Factors, variance: Factors) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a linear map's result under factorised Gaussian weights."""
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
    """±1 with equal probability from uniform int16 `bits`, in the dtype of `like`."""
    return (bits >= 0).to(like.dtype).mul_(2).sub_(1)


def keep_mask(bits: Tensor, rate: PerRow, trailing: int, like: Tensor) -> Tensor:
    """1 where a unit is kept and 0 where it is dropped, with probability `rate`, in the dtype of `like`.

    bits: uniform int16 ([M,] R, *S) with `trailing` axes in S; rate: a number or (R,). Met to 1/65,536.
    """
    threshold = _threshold(rate, trailing, bits.device)
    out = torch.empty(bits.shape, dtype=like.dtype, device=bits.device)
    return torch.ge(bits, threshold, out=out)  # ten times as fast as by way of a bool


@lru_cache
def _threshold(rate: PerRow, trailing: int, device: torch.device) -> Tensor:
    """The least of the int16 numbers that keep a unit: (), or (R, 1, …). Kept, since it takes six operations."""
    with torch.inference_mode(False):
        threshold = torch.as_tensor(rate, dtype=torch.float64).mul(65536).round().sub(32768).clamp(max=32767)
        threshold = threshold.to(device, torch.int16)
        return threshold.reshape(-1, *(1,) * trailing) if threshold.ndim else threshold
