"""Variational autoencoder of fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

from torch import Tensor, relu, tanh

from bdlbench.core.layout import Leaf
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.networks.blocks import affine, dense_leaves
from bdlbench.networks.latent_output import (
    PIXEL_LIKELIHOODS,
    Effort,
    LatentObjective,
    LatentOutput,
    blank,
    effort_option,
    latent_output,
    observed,
    unsupported,
)
from bdlbench.protocols import Layer

Activation = Literal["tanh", "relu"]
ACTIVATIONS = {"tanh": tanh, "relu": relu}


@dataclass(frozen=True)
class VAE:
    """Variational autoencoder: a density of images with a Gaussian latent, of fully connected layers.

    z ~ N(0, I), x ~ p(x | decoder(z)), q(z | x) = N(mean(x), sd(x)²) by the encoder (Kingma & Welling 2014, app. C).
    The defaults are the network of Burda et al. 2016 with one stochastic layer: 784-200-200-50, tanh.
    """

    signature: Signature
    widths: tuple[int, ...] = option(
        (200, 200), "units of the encoder's hidden layers; the decoder mirrors them", low=1
    )
    latent: int = option(50, "dimensions of z", low=1)
    activation: Activation = option("tanh", "between layers", choices=tuple(ACTIVATIONS))
    objective: LatentObjective = effort_option("objective")
    train_samples: int = effort_option("train_samples")
    test_samples: int = effort_option("test_samples")
    regret_steps: int = effort_option("regret_steps")

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        return unsupported(self.signature)

    def leaves(self) -> dict[str, Leaf]:
        """Return encoder<i>, latent, decoder<i> and pixels."""
        pixels = prod(self.signature.input_shape)
        raw = pixels * PIXEL_LIKELIHOODS[self.signature.likelihood].per_pixel
        inner = [pixels, *self.widths], [self.latent, *reversed(self.widths)]
        leaves: dict[str, Leaf] = {}
        for name, sizes in zip(("encoder", "decoder"), inner, strict=True):
            for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
                leaves |= dense_leaves(f"{name}{i}", inputs, outputs, first=i == 1 and name == "encoder")
        leaves |= dense_leaves("latent", self.widths[-1], 2 * self.latent)
        return leaves | dense_leaves("pixels", self.widths[0], raw)

    def start(self, data: Data, rng: Streams) -> dict[str, Tensor]:
        """Start the decoder at the mean image."""
        return {"pixels.bias": blank(self.signature, data)}

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> LatentOutput:
        """Compute the output of x ([M,] R, B, *input_shape), from 0 to 1."""
        pixels = observed(self.signature, x, rng)
        q = affine(layer, "latent", self._hidden(layer, "encoder", pixels))
        effort = Effort(self.objective, self.train_samples, self.test_samples, self.regret_steps)
        return latent_output(self.signature, pixels, q, lambda z: self.decode(layer, z), rng, effort)

    def decode(self, layer: Layer, z: Tensor) -> Tensor:
        """Return the raw input of the likelihood, ([M,] R, B, D · per_pixel), for z ([M,] R, B, Z)."""
        return affine(layer, "pixels", self._hidden(layer, "decoder", z))

    def _hidden(self, layer: Layer, name: str, x: Tensor) -> Tensor:
        for i in range(1, len(self.widths) + 1):
            x = ACTIVATIONS[self.activation](affine(layer, f"{name}{i}", x))
        return x


models = {"vae": VAE}
