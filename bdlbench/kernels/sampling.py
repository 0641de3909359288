"""How noise enters a linear map: local reparameterisation, weight samples, Flipout, masks. Noise is an argument."""

from __future__ import annotations

import torch
from torch import Tensor

from bdlbench.types import PerRow

TINY = 1e-16
"""Added to a pre-activation's variance: the gradient of a square root is infinite at zero."""


def perturbed(mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """mean + sqrt(variance) · noise, elementwise; noise broadcasts, as ([M,] R, …) does over (R, …).

    On pre-activations, with mean = op(x, mean) and variance = op(x², variance), this is local reparameterisation:
    Kingma, Salimans & Welling 2015, eq. 6. On weights it is one weight sample: Blundell et al. 2015, §3.2.
    """
    return mean + (variance + TINY).sqrt() * noise


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
    return (bits >= threshold).to(like.dtype)
