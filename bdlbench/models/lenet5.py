"""LeNet-5: Caffe's variant with two convolutions, and the one of Uncertainty Baselines with three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, relu

from bdlbench.core.layout import Init, Leaf
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.convolution import Conv2d
from bdlbench.networks.blocks import affine, conv_leaves, convolution, dense_leaves, flatten, max_pool
from bdlbench.networks.likelihoods import output, unsupported
from bdlbench.protocols import Layer, Output

Padding = Literal["none", "same"]
KERNEL = 5
POOLED = ("conv1", "conv2")


@dataclass(frozen=True)
class LeNet5:
    """LeNet-5-Caffe: two 5×5 convolutions (20, 50 channels) with max-pooling, then 500 hidden units.

    As in the sparse variational dropout paper (Molchanov et al. 2017, §5.3); 431,080 parameters on 28×28 grey images.
    Convolutions have no activation in Caffe's network; in that paper's code they have a ReLU before the pooling, and
    start as Glorot says, dense layers small. A third number of channels adds a convolution without pooling:
    `channels=6-16-120`, `hidden=84`, `padding=same`, `rectified`: that of Uncertainty Baselines (Nado et al. 2021).
    """

    signature: Signature
    channels: tuple[int, ...] = option((20, 50), "channels of the two or three convolutions", low=1)
    hidden: int = option(500, "units of the dense layer", low=1)
    init: Init = option("kaiming", "where the weights of dense layers start", choices=get_args(Init), later=True)
    conv_init: Init = option("kaiming", "where convolutions start", choices=get_args(Init), later=True)
    rectified: bool = option(False, "a ReLU after each convolution?", later=True)
    padding: Padding = option(
        "none",
        "same: zeros around an image, so that a convolution keeps its size",
        choices=get_args(Padding),
        later=True,
    )

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        if len(self.channels) not in (2, 3):
            return "it has two or three convolutions: give their channels, as channels=20-50 or 6-16-120"
        smallest = {"none": 16 if len(self.channels) == 2 else 32, "same": 4}[self.padding]
        if len(self.signature.input_shape) != 3 or min(self.signature.input_shape[1:]) < smallest:
            words = f"{('two', 'three')[len(self.channels) - 2]} 5×5 convolutions need images of at least"
            return f"its {words} {smallest}×{smallest}, not {self.signature.input_shape}"
        return unsupported(self.signature)

    @property
    def convolutions(self) -> dict[str, int]:
        """The channels of conv1, conv2 and so on."""
        return {f"conv{i}": channels for i, channels in enumerate(self.channels, 1)}

    def leaves(self) -> dict[str, Leaf]:
        """Return weight and bias of the convolutions, fc1 and fc2."""
        depth, height, width = self.signature.input_shape
        leaves: dict[str, Leaf] = {}
        for name, channels in self.convolutions.items():
            leaves |= conv_leaves(name, depth, channels, KERNEL, first=name == "conv1", init=self.conv_init)
            lost = KERNEL - 1 if self.padding == "none" else 0
            pool = 2 if name in POOLED else 1
            depth, height, width = channels, (height - lost) // pool, (width - lost) // pool
        return {
            **leaves,
            **dense_leaves("fc1", depth * height * width, self.hidden, init=self.init),
            **dense_leaves("fc2", self.hidden, self.signature.outputs, init=self.init),
        }

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, C, H, W)."""
        op = Conv2d(padding=KERNEL // 2 if self.padding == "same" else 0)
        for name in self.convolutions:
            x = convolution(layer, name, op, x)
            x = max_pool(x, 2) if name in POOLED else x
            x = relu(x) if self.rectified else x  # after the pooling it is the same, of a quarter of the numbers
        x = relu(affine(layer, "fc1", flatten(x, 3)))
        return output(self.signature, affine(layer, "fc2", x), noise_sd=1.0)


models = {"lenet5": LeNet5}
