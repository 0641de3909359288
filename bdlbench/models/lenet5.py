"""LeNet-5 in its Caffe variant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, relu

from bdlbench.core.layout import Init, Leaf
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.convolution import Conv2d
from bdlbench.networks.blocks import affine, conv_leaves, convolution, dense_leaves, flatten, max_pool
from bdlbench.networks.likelihoods import output, unsupported
from bdlbench.protocols import Layer, Output

CONV = Conv2d()


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5-Caffe: two 5×5 convolutions (20, 50 channels) with max-pooling, then 500 hidden units.

    As in the sparse variational dropout paper (Molchanov et al. 2017, §5.3); 431,080 parameters on 28×28 grey images.
    Convolutions have no activation in Caffe's network; in that paper's code they have a ReLU before the pooling, and
    start as Glorot says, dense layers small.
    """

    signature: Signature
    channels: tuple[int, ...] = option((20, 50), "channels of the two convolutions", low=1)
    hidden: int = option(500, "units of the dense layer", low=1)
    init: Init = option("kaiming", "where the weights of dense layers start", choices=get_args(Init), later=True)
    conv_init: Init = option("kaiming", "where convolutions start", choices=get_args(Init), later=True)
    rectified: bool = option(False, "a ReLU after each convolution?", later=True)

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        if len(self.channels) != 2:
            return "it has two convolutions: give two channel numbers, as channels=20-50"
        if len(self.signature.input_shape) != 3 or min(self.signature.input_shape[1:]) < 16:
            return f"its two 5×5 convolutions need images of at least 16×16, not {self.signature.input_shape}"
        return unsupported(self.signature)

    def leaves(self) -> dict[str, Leaf]:
        """Return weight and bias of conv1, conv2, fc1 and fc2."""
        depth, height, width = self.signature.input_shape
        first, second = self.channels
        flat = second * _pooled_twice(height) * _pooled_twice(width)
        return {
            **conv_leaves("conv1", depth, first, 5, first=True, init=self.conv_init),
            **conv_leaves("conv2", first, second, 5, init=self.conv_init),
            **dense_leaves("fc1", flat, self.hidden, init=self.init),
            **dense_leaves("fc2", self.hidden, self.signature.outputs, init=self.init),
        }

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, C, H, W)."""
        for name in ("conv1", "conv2"):
            x = max_pool(convolution(layer, name, CONV, x), 2)
            x = relu(x) if self.rectified else x  # after the pooling it is the same, of a quarter of the numbers
        x = relu(affine(layer, "fc1", flatten(x, 3)))
        return output(self.signature, affine(layer, "fc2", x), noise_sd=1.0)


def _pooled_twice(size: int) -> int:
    """Return a side's length after two 5×5 convolutions, each with 2×2 pooling."""
    return ((size - 4) // 2 - 4) // 2


models = {"lenet5": LeNet5}
