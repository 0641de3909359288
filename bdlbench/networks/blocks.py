"""Building blocks of models, written against a `Layer` rule."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bdlbench.core.layout import Init, Leaf
from bdlbench.kernels import convolution as kernels
from bdlbench.kernels.convolution import Convolution
from bdlbench.kernels.linear import dense
from bdlbench.protocols import Layer


def dense_leaves(name: str, inputs: int, outputs: int, first: bool = False, init: Init = "kaiming") -> dict[str, Leaf]:
    """Return weight and bias of a dense layer; `first` says that it reads the data, `init` how they start."""
    return {
        f"{name}.weight": Leaf((outputs, inputs), "input" if first else "weight", inputs, init),
        f"{name}.bias": Leaf((outputs,), "bias", inputs, init),
    }


def conv_leaves(
    name: str, inputs: int, outputs: int, kernel: int, first: bool = False, init: Init = "kaiming"
) -> dict[str, Leaf]:
    """Return weight and bias of a convolution with a square kernel; `init` says how they start."""
    fan_in = inputs * kernel * kernel
    return {
        f"{name}.weight": Leaf((outputs, inputs, kernel, kernel), "input" if first else "weight", fan_in, init),
        f"{name}.bias": Leaf((outputs,), "bias", fan_in, init),
    }


def norm_leaves(name: str, channels: int) -> dict[str, Leaf]:
    """Return scale (stored minus one) and bias of a group normalisation."""
    return {
        f"{name}.scale": Leaf((channels,), "scale", 1),
        f"{name}.bias": Leaf((channels,), "bias", 1),
    }


def affine(layer: Layer, name: str, x: Tensor) -> Tensor:
    """Apply a dense layer with bias: x ([M,] R, B, I) -> ([M,] R, B, O)."""
    return layer(f"{name}.weight", dense, x, f"{name}.bias")


def convolution(layer: Layer, name: str, op: Convolution, x: Tensor) -> Tensor:
    """Apply a convolution with bias: x ([M,] R, B, C, H, W) -> ([M,] R, B, O, H′, W′)."""
    return layer(f"{name}.weight", op, x, f"{name}.bias")


def group_norm(layer: Layer, name: str, x: Tensor, groups: int, rectified: bool = False) -> Tensor:
    """Normalise groups of channels of each example by itself, so that no statistics mix rows.

    A ReLU follows where `rectified`. x: ([M,] R, B, C, H, W). Wu & He 2018.
    """
    gain, offset = 1 + layer.leaf(f"{name}.scale"), layer.leaf(f"{name}.bias")
    return kernels.group_norm(x, gain, offset, groups, rectified)


def max_pool(x: Tensor, size: int) -> Tensor:
    """Take non-overlapping maxima over squares: ([M,] R, B, C, H, W) -> ([M,] R, B, C, H/size, W/size)."""
    pooled = functional.max_pool2d(x.reshape(-1, *x.shape[-3:]), size)
    return pooled.view(*x.shape[:-2], *pooled.shape[-2:])


def upsampled(x: Tensor) -> Tensor:
    """Repeat every pixel four times: ([M,] R, B, C, H, W) -> ([M,] R, B, C, 2H, 2W)."""
    doubled = functional.interpolate(x.reshape(-1, *x.shape[-3:]), scale_factor=2, mode="nearest")
    return doubled.view(*x.shape[:-2], *doubled.shape[-2:])


def flatten(x: Tensor, axes: int) -> Tensor:
    """Merge the last `axes` axes into one."""
    return x.flatten(-axes) if axes > 1 else x


def global_mean(x: Tensor) -> Tensor:
    """Average over the image: (…, C, H, W) -> (…, C)."""
    return x.mean((-2, -1))


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return torch.relu(x)
