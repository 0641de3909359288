"""Multilayer perceptron, and logistic regression as its case without hidden layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import get_args

from torch import Tensor, relu

from bdlbench.core.layout import Init, Leaf, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.networks.blocks import affine, dense_leaves, flatten
from bdlbench.networks.likelihoods import (
    NoiseKind,
    NoiseUnit,
    noise_leaves,
    noise_option,
    noise_unsupported,
    noisy_output,
    output,
    unsupported,
)
from bdlbench.protocols import Layer, Output


@dataclass(frozen=True)
class MLP:
    """Fully connected ReLU network of any widths.

    f(x) = W_L relu(… relu(W_1 x + b_1) …) + b_L. `widths=300-100` is LeNet-300-100 (LeCun et al. 1998).
    A Gaussian target has the standard deviation noise_sd · g. Where the noise is known, g is 1; where it is learnt, one
    number e^a for all inputs; with a head, of a second output h of the network, g² = log(1 + e^h) + 1e-6
    (Lakshminarayanan et al. 2017, §2.2.1).
    """

    signature: Signature
    widths: tuple[int, ...] = option((50,), "units of each hidden layer, as 300-100", low=1)
    noise_sd: PerRow = noise_option("noise_sd")
    noise: NoiseKind = noise_option("noise")
    noise_unit: NoiseUnit = noise_option("noise_unit")
    init: Init = option("kaiming", "where weights start", choices=get_args(Init), later=True)

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        return noise_unsupported(self.signature, self.noise, self.noise_unit)

    def leaves(self) -> dict[str, Leaf]:
        """Return fc1.weight, fc1.bias, and so on."""
        sizes = [prod(self.signature.input_shape), *self.widths, self.signature.outputs + (self.noise == "head")]
        leaves: dict[str, Leaf] = {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            leaves |= dense_leaves(f"fc{i}", inputs, outputs, first=i == 1, init=self.init)
        return leaves | noise_leaves(self.noise)

    def with_target_sd(self, y_sd: Tensor) -> MLP:
        """Bring a noise in the target's units to the model's scale, of y / y_sd, y_sd (R,)."""
        return self if self.noise_unit == "model" else replace(self, noise_sd=self.noise_sd / y_sd, noise_unit="model")

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, *input_shape)."""
        x = flatten(x, len(self.signature.input_shape))  # (R, B, D)
        for i in range(1, len(self.widths) + 1):
            x = relu(affine(layer, f"fc{i}", x))
        raw = affine(layer, f"fc{len(self.widths) + 1}", x)  # ([M,] R, B, outputs)
        return noisy_output(self.signature, raw, self.noise_sd, self.noise, layer)


@dataclass(frozen=True)
class Logistic:
    """Linear model: multinomial logistic regression, or linear regression where the target is Gaussian.

    f(x) = W x + b.
    """

    signature: Signature
    noise_sd: PerRow = option(
        1.0, "standard deviation of a Gaussian target, on the model's scale", low=0, open_ends=True
    )

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        return unsupported(self.signature)

    def leaves(self) -> dict[str, Leaf]:
        """Return fc1.weight and fc1.bias."""
        return dense_leaves("fc1", prod(self.signature.input_shape), self.signature.outputs, first=True)

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, *input_shape)."""
        x = flatten(x, len(self.signature.input_shape))
        return output(self.signature, affine(layer, "fc1", x), self.noise_sd)


models = {"mlp": MLP, "logistic": Logistic}
