"""A convolutional variational autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import Tensor, relu

from bdlbench.core.layout import Leaf
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.convolution import Conv2d
from bdlbench.networks.blocks import affine, conv_leaves, convolution, dense_leaves, flatten, upsampled
from bdlbench.networks.latent_output import (
    PIXEL_LIKELIHOODS,
    Effort,
    LatentObjective,
    LatentOutput,
    effort_option,
    latent_output,
    observed,
    unsupported,
)
from bdlbench.protocols import Layer

HALVE, SAME = Conv2d(stride=2, padding=1), Conv2d(padding=1)


@dataclass(frozen=True)
class ConvVAE:
    """Variational autoencoder with convolutions, for images whose sides can be halved, such as 8×8 or 28×28.

    It shares the objectives and likelihoods of `vae`. Encoder: 4×4 convolutions that each halve the image, then a dense
    layer. Decoder: the same backwards; nearest-neighbour upsampling and a 3×3 convolution double the image without a
    checkerboard (Odena et al. 2016).
    """

    signature: Signature
    channels: tuple[int, ...] = option((16, 32), "channels of the convolutions, each of which halves the image", low=1)
    hidden: int = option(128, "units of the dense layer on either side of z", low=1)
    latent: int = option(50, "dimensions of z", low=1)
    objective: LatentObjective = effort_option("objective")
    train_samples: int = effort_option("train_samples")
    test_samples: int = effort_option("test_samples")
    regret_steps: int = effort_option("regret_steps")

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        shape, unit = self.signature.input_shape, 2 ** len(self.channels)
        if len(shape) != 3 or any(side % unit for side in shape[1:]):
            return f"its {len(self.channels)} halvings need images whose sides are multiples of {unit}, not {shape}"
        return unsupported(self.signature)

    def leaves(self) -> dict[str, Leaf]:
        """Return encoder<i>, encoder, latent, decoder, smallest, decoder<i> and pixels."""
        depth, flat = self.signature.input_shape[0], prod(self._smallest)
        leaves: dict[str, Leaf] = {}
        for i, (inputs, outputs) in enumerate(pairwise([depth, *self.channels]), start=1):
            leaves |= conv_leaves(f"encoder{i}", inputs, outputs, 4, first=i == 1)
        leaves |= dense_leaves("encoder", flat, self.hidden) | dense_leaves("latent", self.hidden, 2 * self.latent)
        leaves |= dense_leaves("decoder", self.latent, self.hidden) | dense_leaves("smallest", self.hidden, flat)
        for i, (inputs, outputs) in enumerate(pairwise(reversed(self.channels)), start=1):
            leaves |= conv_leaves(f"decoder{i}", inputs, outputs, 3)
        return leaves | conv_leaves(
            "pixels", self.channels[0], depth * PIXEL_LIKELIHOODS[self.signature.likelihood].per_pixel, 3
        )

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> LatentOutput:
        """Compute the output of x ([M,] R, B, C, H, W), from 0 to 1."""
        pixels = observed(self.signature, x, rng)
        x = pixels.unflatten(-1, self.signature.input_shape)
        for i in range(1, len(self.channels) + 1):
            x = relu(convolution(layer, f"encoder{i}", HALVE, x))
        q = affine(layer, "latent", relu(affine(layer, "encoder", flatten(x, 3))))
        effort = Effort(self.objective, self.train_samples, self.test_samples, self.regret_steps)
        return latent_output(self.signature, pixels, q, lambda z: self.decode(layer, z), rng, effort)

    def decode(self, layer: Layer, z: Tensor) -> Tensor:
        """Return the raw input of the likelihood, ([M,] R, B, D · per_pixel), for z ([M,] R, B, Z)."""
        x = relu(affine(layer, "smallest", relu(affine(layer, "decoder", z)))).unflatten(-1, self._smallest)
        for i in range(1, len(self.channels)):
            x = relu(convolution(layer, f"decoder{i}", SAME, upsampled(x)))
        return flatten(convolution(layer, "pixels", SAME, upsampled(x)), 3)

    @property
    def _smallest(self) -> tuple[int, int, int]:
        """Channels, height and width of the image after all halvings."""
        _, height, width = self.signature.input_shape
        unit = 2 ** len(self.channels)
        return self.channels[-1], height // unit, width // unit


models = {"conv_vae": ConvVAE}
