"""What residual networks of images in torch modules share: three stages of blocks, and their start."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from bdlbench.core.foreign import Broken
from bdlbench.data.task import Signature


def image_channels(signature: Signature) -> int:
    """Return the number of channels of the images. Raises Broken for inputs that are no images."""
    if len(signature.input_shape) != 3:
        raise Broken(f"it needs images, not inputs of shape {signature.input_shape}")
    return signature.input_shape[0]


def stages(
    block: Callable[[int, int, int], nn.Module], inputs: int, widths: Sequence[int], count: int
) -> nn.Sequential:
    """Make stages of residual blocks, of which all but the first halve the image.

    Args:
        block: Makes a block of (channels in, channels out, stride).
        inputs: Channels of the first block's input.
        widths: Channels of each stage.
        count: Blocks of a stage.

    Returns:
        The blocks, one after the other.
    """
    blocks = []
    for stage, outputs in enumerate(widths):
        for place in range(count):
            blocks.append(block(inputs, outputs, 2 if stage and not place else 1))
            inputs = outputs
    return nn.Sequential(*blocks)


def start_by_fan_in(network: nn.Module) -> None:
    """Draw the weights of all maps anew by He et al. 2015, N(0, 2 / fan-in); biases of dense layers start at 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
