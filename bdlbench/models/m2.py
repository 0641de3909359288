"""Semi-supervised classifier: a network beside a density of images given their class (M2 of Kingma et al. 2014)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, relu

from bdlbench.core.layout import Leaf, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.kernels.latent import bernoulli_log_prob, standard_normal_kl
from bdlbench.kernels.linear import dense
from bdlbench.kernels.semi_supervised import partly_labelled_bound
from bdlbench.networks.blocks import affine, dense_leaves, flatten
from bdlbench.predictives.mixtures import CategoricalSum
from bdlbench.protocols import Accumulator, Layer
from bdlbench.training.terms import term


@dataclass(frozen=True)
class M2Output:
    """Logits ([M,] R, B, C) of q(y | x), and `joint()`: −L(x, c) of each class in nats, of the same shape."""

    logits: Tensor
    joint: Callable[[], Tensor]
    alpha: PerRow

    def elbo(self, y: Tensor) -> Tensor:
        """Return −L(x, y) + alpha · log q(y | x) in nats, ([M,] R, B); −U(x) where y (R, B) is −1."""
        return partly_labelled_bound(self.joint(), self.logits, y, self.alpha)

    def accumulator(self, samples: int) -> Accumulator:
        """Return an accumulator that averages the probabilities of q(y | x)."""
        return CategoricalSum(samples)


@dataclass(frozen=True)
class M2:
    """Semi-supervised classifier that also models the image given its class and a latent; −1 is an absent label.

    p(y) is uniform, z ~ N(0, I), x ~ Bernoulli(decoder(z, y)); the classifier is q(y | x), and q(z | x, y) = N(mean,
    sd²). Kingma, Mohamed, Rezende & Welling 2014, model M2. Over the N entries of the training set it maximises

        (1/N) [Σ_labelled (−L(x, y) + alpha · log q(y | x)) + Σ_unlabelled −U(x)],

    where the sum over classes in U is exact. An example that occurs several times in the training set counts as often.
    With `copies` of each of n labelled examples, the paper's α = β N (eq. 9, β = 0.1) is alpha = β N / (n · copies).

    The classifier is `mlp` with the same widths. A pixel from 0 to 1 (values outside count as 0 or 1) is the
    probability that a binary pixel is on. Networks read pixels as they are. −L is its mean over binary draws of x,
    which is exact since log p(x | z, y) is linear in x. One draw of z serves all classes. ReLU replaces the paper's
    softplus. A class enters a layer as an offset of its own, which equals a product with its one-hot vector; the offset
    starts at zero.
    """

    signature: Signature
    widths: tuple[int, ...] = option((500,), "units of the classifier's hidden layers", low=1)
    latent_widths: tuple[int, ...] = option(
        (500,), "units of the hidden layers of q(z | x, y); the decoder mirrors them", low=1
    )
    latent: int = option(50, "dimensions of z", low=1)
    alpha: PerRow = option(1.0, "weight of log q(y | x) of each labelled entry", low=0)

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        known = ("categorical", "semi_categorical")
        return None if self.signature.likelihood in known else f"it has no {self.signature.likelihood} likelihood"

    def leaves(self) -> dict[str, Leaf]:
        """Return classifier<i>, classes; encoder<i>, latent; decoder<i>, pixels.

        Encoder1 and decoder1 have offsets (C, H).
        """
        pixels, classes = prod(self.signature.input_shape), self.signature.outputs
        leaves = _stack("classifier", [pixels, *self.widths], reads_data=True)
        leaves |= dense_leaves("classes", self.widths[-1], classes)
        leaves |= _by_class(_stack("encoder", [pixels, *self.latent_widths], reads_data=True), "encoder1", classes)
        leaves |= dense_leaves("latent", self.latent_widths[-1], 2 * self.latent)
        leaves |= _by_class(_stack("decoder", [self.latent, *reversed(self.latent_widths)]), "decoder1", classes)
        return leaves | dense_leaves("pixels", self.latent_widths[0], pixels)

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> M2Output:
        """Compute the output of x ([M,] R, B, *input_shape)."""
        x = flatten(x, len(self.signature.input_shape))  # (R, B, D)
        hidden = x
        for i in range(1, len(self.widths) + 1):
            hidden = relu(affine(layer, f"classifier{i}", hidden))
        return M2Output(affine(layer, "classes", hidden), lambda: self.joint(layer, x, rng), self.alpha)

    def joint(self, layer: Layer, x: Tensor, rng: Streams) -> Tensor:
        """Return −L(x, c) = log p(x | z, c) + log p(c) − KL(q(z | x, c) ‖ p(z)) in nats, by one z: ([M,] R, B, C)."""
        mean, log_sd = self.encode(layer, x).chunk(2, dim=-1)  # (R, C, B, Z)
        noise = rng.normal((x.shape[-2], self.latent), mean).unsqueeze(-3)
        logits = self.decode(layer, mean + log_sd.exp() * noise)  # (R, C, B, D)
        fit = bernoulli_log_prob(x.clamp(0.0, 1.0).unsqueeze(-3), logits)
        kl = term("local", standard_normal_kl(mean, log_sd), "KL(q(z | x, y) ‖ p(z))")
        bound = fit - kl - math.log(self.signature.outputs)
        return bound.mT.contiguous()

    def encode(self, layer: Layer, x: Tensor) -> Tensor:
        """Return means and log standard deviations of q(z | x, c): x ([M,] R, B, D) -> ([M,] R, C, B, 2Z)."""
        shared = layer("encoder1.weight", dense, x)  # one product for all classes
        offsets = layer.leaf("encoder1.offsets").unsqueeze(-2).unbind(-3)  # C of (R, 1, H)
        # A stack of sums: the gradient of a broadcast over classes would be a sum whose bits depend on the row's place.
        hidden = torch.stack([shared + offset for offset in offsets], dim=-3)
        return self._behind(layer, "encoder", "latent", hidden)

    def decode(self, layer: Layer, z: Tensor) -> Tensor:
        """Return pixel logits of z ([M,] R, C, B, Z), one block for each class: ([M,] R, C, B, D)."""
        hidden = layer("decoder1.weight", dense, z.flatten(-3, -2)).unflatten(-2, z.shape[-3:-1])
        return self._behind(layer, "decoder", "pixels", hidden + layer.leaf("decoder1.offsets").unsqueeze(-2))

    def _behind(self, layer: Layer, name: str, last: str, hidden: Tensor) -> Tensor:
        """Apply the layers after the first to all classes at once.

        (…, C, B, H) before its ReLU -> (…, C, B, outputs).
        """
        folded = relu(hidden).flatten(-3, -2)
        for i in range(2, len(self.latent_widths) + 1):
            folded = relu(affine(layer, f"{name}{i}", folded))
        unfolded: Tensor = affine(layer, last, folded).unflatten(-2, hidden.shape[-3:-1])
        return unfolded


def _stack(name: str, sizes: list[int], reads_data: bool = False) -> dict[str, Leaf]:
    """<name>1, <name>2, … between these sizes."""
    leaves: dict[str, Leaf] = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        leaves |= dense_leaves(f"{name}{i}", inputs, outputs, first=reads_data and i == 1)
    return leaves


def _by_class(leaves: dict[str, Leaf], name: str, classes: int) -> dict[str, Leaf]:
    """Return the leaves with an offset for each class in place of the bias of layer `name`."""
    bias = leaves.pop(f"{name}.bias")
    return leaves | {f"{name}.offsets": Leaf((classes, *bias.shape), "bias", bias.fan_in)}


models = {"m2": M2}
