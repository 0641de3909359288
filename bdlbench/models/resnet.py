"""A small residual network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from bdlbench.core import memory
from bdlbench.core.layout import Leaf
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.convolution import Conv2d
from bdlbench.networks.blocks import (
    affine,
    conv_leaves,
    convolution,
    dense_leaves,
    global_mean,
    group_norm,
    norm_leaves,
)
from bdlbench.networks.likelihoods import output, unsupported
from bdlbench.protocols import Layer, Output

SAME, HALVE, SHORTCUT = Conv2d(padding=1), Conv2d(stride=2, padding=1), Conv2d(stride=2)


@dataclass(frozen=True)
class ResNet:
    """Small pre-activation residual network with group normalisation, for 8×8, 28×28 and 32×32 images.

    x + conv(relu(norm(conv(relu(norm(x)))))) (He et al. 2016b); each stage after the first halves the image. Group
    normalisation (Wu & He 2018) takes its statistics from one example, so nothing mixes rows or examples.
    """

    signature: Signature
    channels: tuple[int, ...] = option((16, 32), "channels of each stage", low=1)
    blocks: int = option(2, "residual blocks in a stage", low=1)
    groups: int = option(4, "groups of the normalisation; divides every channel number", low=1)

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        if len(self.signature.input_shape) != 3:
            return f"it needs images, not inputs of shape {self.signature.input_shape}"
        if any(width % self.groups for width in self.channels):
            return f"its {self.groups} groups do not divide the channels {self.channels}"
        return unsupported(self.signature)

    def leaves(self) -> dict[str, Leaf]:
        """Return stem, stage<s>.block<b>.{norm1,conv1,norm2,conv2[,shortcut]}, norm and head."""
        memory.refuse(len(self.channels) * self.blocks << 10, f"resnet: {self.blocks:,} blocks")
        leaves = conv_leaves("stem", self.signature.input_shape[0], self.channels[0], 3, first=True)
        for name, inputs, outputs, halve in self._blocks():
            leaves |= norm_leaves(f"{name}.norm1", inputs) | conv_leaves(f"{name}.conv1", inputs, outputs, 3)
            leaves |= norm_leaves(f"{name}.norm2", outputs) | conv_leaves(f"{name}.conv2", outputs, outputs, 3)
            if halve:
                leaves |= conv_leaves(f"{name}.shortcut", inputs, outputs, 1)
        return {
            **leaves,
            **norm_leaves("norm", self.channels[-1]),
            **dense_leaves("head", self.channels[-1], self.signature.outputs),
        }

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, C, H, W)."""
        x = convolution(layer, "stem", SAME, x)
        for name, _, _, halve in self._blocks():
            x = self._block(layer, name, x, halve)
        x = global_mean(group_norm(layer, "norm", x, self.groups, rectified=True))
        return output(self.signature, affine(layer, "head", x), noise_sd=1.0)

    def _block(self, layer: Layer, name: str, x: Tensor, halve: bool) -> Tensor:
        h = group_norm(layer, f"{name}.norm1", x, self.groups, rectified=True)
        skip = convolution(layer, f"{name}.shortcut", SHORTCUT, h) if halve else x
        h = convolution(layer, f"{name}.conv1", HALVE if halve else SAME, h)
        h = group_norm(layer, f"{name}.norm2", h, self.groups, rectified=True)
        return skip + convolution(layer, f"{name}.conv2", SAME, h)

    def _blocks(self) -> Iterator[tuple[str, int, int, bool]]:
        """Yield (name, channels in, channels out, whether it halves the image) of each block."""
        inputs = self.channels[0]
        for stage, outputs in enumerate(self.channels, start=1):
            for block in range(1, self.blocks + 1):
                yield f"stage{stage}.block{block}", inputs, outputs, stage > 1 and block == 1
                inputs = outputs


models = {"resnet": ResNet}
