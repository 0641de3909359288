"""A model that normalises by statistics of all rows together."""

from dataclasses import dataclass

import torch

from bdlbench.extend import Signature, output, unsupported
from bdlbench.networks.blocks import affine, dense_leaves, flatten


@dataclass(frozen=True)
class Normalised:
    """A linear model of inputs that are centred over everything at hand."""

    signature: Signature

    def unsupported(self):
        return unsupported(self.signature)

    def leaves(self):
        return dense_leaves("fc", torch.Size(self.signature.input_shape).numel(), self.signature.outputs, first=True)

    def __call__(self, layer, x, rng):
        x = flatten(x, len(self.signature.input_shape))
        return output(self.signature, affine(layer, "fc", x - x.mean()), 1.0)


models = {"normalised": Normalised}
