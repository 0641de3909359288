"""Multilayer perceptron, and logistic regression as its case without hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import Tensor, relu

from bdlbench.core.layout import Leaf, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.networks.blocks import affine, dense_leaves, flatten
from bdlbench.networks.likelihoods import output, unsupported
from bdlbench.protocols import Layer, Output


@dataclass(frozen=True)
class MLP:
    """Fully connected ReLU network of any widths.

    f(x) = W_L relu(… relu(W_1 x + b_1) …) + b_L. `widths=300-100` is LeNet-300-100 (LeCun et al. 1998).
    """

    signature: Signature
    widths: tuple[int, ...] = option((50,), "units of each hidden layer, as 300-100", low=1)
    noise_sd: PerRow = option(
        1.0, "standard deviation of a Gaussian target, on the model's scale", low=0, open_ends=True
    )

    def unsupported(self) -> str | None:
        """Say why the signature cannot be fitted; None where it can."""
        return unsupported(self.signature)

    def leaves(self) -> dict[str, Leaf]:
        """Return fc1.weight, fc1.bias, …"""
        sizes = [prod(self.signature.input_shape), *self.widths, self.signature.outputs]
        leaves: dict[str, Leaf] = {}
        for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
            leaves |= dense_leaves(f"fc{i}", inputs, outputs, first=i == 1)
        return leaves

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, *input_shape)."""
        x = flatten(x, len(self.signature.input_shape))  # (R, B, D)
        for i in range(1, len(self.widths) + 1):
            x = relu(affine(layer, f"fc{i}", x))
        return output(self.signature, affine(layer, f"fc{len(self.widths) + 1}", x), self.noise_sd)


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
