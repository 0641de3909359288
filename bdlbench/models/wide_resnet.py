"""Wide residual networks with BatchNorm, as a torch module."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
from bdlbench.data.task import Signature
from bdlbench.networks.from_module import from_module
from bdlbench.networks.residual import image_channels, stages, start_by_fan_in


class WideResNet(nn.Module):
    """Wide residual network with BatchNorm: WRN-28-10 by default, 36.5 million parameters on CIFAR-10.

    Pre-activation blocks x + conv(relu(norm(conv(relu(norm(x)))))) (Zagoruyko & Komodakis 2016), in three stages of
    width · (1, 2, 4) · channels, of which the second and third halve the image; convolutions have no bias. Where the
    shape changes, the skip connection is a 1×1 convolution of the block's input itself, as in Uncertainty Baselines
    (Nado et al. 2021), whose start it has too: He et al. 2015 by fan-in, also of the last layer.
    """

    def __init__(
        self, signature: Signature, depth: int = 28, width: int = 10, channels: int = 16, dropout: float = 0.0
    ) -> None:
        """Build the network. Raises Broken for inputs that are no images, BadInput for an impossible depth."""
        super().__init__()
        colours = image_channels(signature)
        if depth < 10 or (depth - 4) % 6:
            raise BadInput(f"wide_resnet.depth={depth} is none of 6n + 4: take 10, 16, 22, 28, 34 or 40")
        self.stem = nn.Conv2d(colours, channels, 3, padding=1, bias=False)
        widths = [width * channels * factor for factor in (1, 2, 4)]
        self.blocks = stages(partial(WideBlock, dropout=dropout), channels, widths, (depth - 4) // 6)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], signature.outputs)
        start_by_fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output (B, outputs) of images x (B, C, H, W)."""
        x = torch.relu(self.norm(self.blocks(self.stem(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class WideBlock(nn.Module):
    """A residual block of two 3×3 convolutions, with dropout between them where its rate is not 0."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        """Build the block."""
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Add to images x (B, C, H, W), or to what the shortcut makes of them, what the block has learnt."""
        h = self.conv1(torch.relu(self.norm1(x)))
        if self.dropout is not None:
            h = self.dropout(h)
        out: Tensor = self.conv2(torch.relu(self.norm2(h)))
        return out + (x if self.shortcut is None else self.shortcut(x))


models = {
    "wide_resnet": from_module(
        WideResNet,
        depth=option(28, "layers, of which there are 6n + 4 for n blocks in a stage", low=10),
        width=option(10, "how many times as many channels as in a ResNet", low=1),
        channels=option(16, "channels of the first convolution, and of the first stage at width=1", low=1),
        dropout=option(
            0.0, "rate of dropout between the convolutions of a block; 0: there are no such layers", low=0, high=0.99
        ),
    )
}
