"""The residual networks of He et al. 2016 for CIFAR, as a torch module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
from bdlbench.data.task import Signature
from bdlbench.networks.from_module import from_module
from bdlbench.networks.residual import image_channels, stages, start_by_fan_in


class CifarResNet(nn.Module):
    """The ResNet of He et al. 2016 for CIFAR, with BatchNorm: ResNet-20 by default, 0.27 million parameters.

    Blocks relu(x + norm(conv(relu(norm(conv(x)))))) in three stages of (1, 2, 4) · channels, of which the second and
    third halve the image; convolutions have no bias, and start as He et al. 2015 by fan-in. Skip connections have no
    parameters: where the shape changes, every second pixel is taken and new channels are 0 (their option A).
    """

    def __init__(self, signature: Signature, depth: int = 20, channels: int = 16) -> None:
        """Build the network. Raises Broken for inputs that are no images, BadInput for an impossible depth."""
        super().__init__()
        colours = image_channels(signature)
        if depth < 8 or (depth - 2) % 6:
            raise BadInput(f"cifar_resnet.depth={depth} is none of 6n + 2: take 8, 14, 20, 32, 44, 56 or 110")
        self.stem = nn.Conv2d(colours, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = stages(FreeSkipBlock, channels, (channels, 2 * channels, 4 * channels), (depth - 2) // 6)
        self.head = nn.Linear(4 * channels, signature.outputs)
        start_by_fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output (B, outputs) of images x (B, C, H, W)."""
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class FreeSkipBlock(nn.Module):
    """A residual block of two 3×3 convolutions, whose skip connection has no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Build the block."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Add to images x (B, C, H, W) what the block has learnt."""
        h = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self.new:  # as many channels of 0 in front as behind
            x = pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return torch.relu(h + x)


models = {
    "cifar_resnet": from_module(
        CifarResNet,
        depth=option(20, "layers, of which there are 6n + 2 for n blocks in a stage", low=8),
        channels=option(16, "channels of the first stage", low=1),
    )
}
