"""How noise enters a linear map: local reparameterisation, weight samples, Flipout, masks. Noise is an argument."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bdlbench.kernels.linear import Gradients, apply
from bdlbench.types import LinearOp, PerRow

TINY = 1e-16
"""Added to a pre-activation's variance: the gradient of a square root is infinite at zero."""


def perturbed(mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """mean + sqrt(variance) · noise, elementwise; noise broadcasts, as ([M,] R, …) does over (R, …).

    On pre-activations, with mean = op(x, mean) and variance = op(x², variance), this is local reparameterisation:
    Kingma, Salimans & Welling 2015, eq. 6. On weights it is one weight sample: Blundell et al. 2015, §3.2.
    """
    return mean + (variance + TINY).sqrt() * noise


@runtime_checkable
class HasGradients(LinearOp, Protocol):
    """A linear map that knows its gradients, so that a rule can write its own backward."""

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Gradients:
        """Of x and of the weight, from that of the result; all with the same lead (R,)."""
        ...


def local_noise(op: LinearOp, x: Tensor, mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """op(x, mean) + sqrt(op(x², variance)) · noise, the local reparameterisation of a linear map.

    Kingma, Salimans & Welling 2015, eq. 6. x (R, …), mean and variance (R, *S), noise in the shape of the result. The
    backward of a map that knows its gradients is written out: with s the standard deviation and g the gradient,
    h = g · noise / 2s goes back through op(x², variance), and 2x times what arrives there to x.
    """
    if isinstance(op, HasGradients) and x.ndim == mean.ndim and (mean.requires_grad or x.requires_grad):
        result: Tensor = apply(_LocalNoise, op, x, mean, variance, noise)[0]
        return result
    return perturbed(op(x, mean), op(x.square(), variance), noise)


class _LocalNoise(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(op: HasGradients, x: Tensor, mean: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        sd = op(x.square(), variance).add_(TINY).sqrt_()
        return op(x, mean).addcmul_(sd, noise), sd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.op = inputs[0]
        ctx.save_for_backward(*inputs[1:], output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, noise, sd = ctx.saved_tensors
        _, of_x, of_mean, of_variance, _ = ctx.needs_input_grad
        inner = (grad * noise).div_(sd).mul_(0.5)
        back, grad_mean = ctx.op.gradients(grad, x, mean, of_x, of_mean)
        back_squared, grad_variance = ctx.op.gradients(inner, x.square(), variance, of_x, of_variance)
        grad_x = torch.addcmul(back, x, back_squared, value=2) if of_x else None
        return None, grad_x, grad_mean, grad_variance, None


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """±1 with equal probability from uniform int16 `bits`, in the dtype of `like`."""
    return (bits >= 0).to(like.dtype).mul_(2).sub_(1)


def keep_mask(bits: Tensor, rate: PerRow, trailing: int, like: Tensor) -> Tensor:
    """1 where a unit is kept and 0 where it is dropped, with probability `rate`, in the dtype of `like`.

    bits: uniform int16 ([M,] R, *S) with `trailing` axes in S; rate: a number or (R,). Met to 1/65,536.
    """
    threshold = torch.as_tensor(rate, dtype=torch.float64).mul(65536).round().sub(32768).clamp(max=32767)
    threshold = threshold.to(bits.device, torch.int16)
    if threshold.ndim:
        threshold = threshold.reshape(-1, *(1,) * trailing)
    out = torch.empty(torch.broadcast_shapes(bits.shape, threshold.shape), dtype=like.dtype, device=bits.device)
    return torch.ge(bits, threshold, out=out)  # ten times as fast as by way of a bool
