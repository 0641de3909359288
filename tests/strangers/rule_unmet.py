"""A model that multiplies by weights that it takes as they are: no method's noise reaches them."""

from dataclasses import dataclass

import torch

from bdlbench.extend import Signature, output, unsupported
from bdlbench.networks.blocks import dense_leaves, flatten


@dataclass(frozen=True)
class Bare:
    """A linear model, written past the layer rule."""

    signature: Signature

    def unsupported(self):
        return unsupported(self.signature)

    def leaves(self):
        return dense_leaves("fc", torch.Size(self.signature.input_shape).numel(), self.signature.outputs, first=True)

    def __call__(self, layer, x, rng):
        x = flatten(x, len(self.signature.input_shape))
        logits = x @ layer.leaf("fc.weight").mT + layer.leaf("fc.bias").unsqueeze(-2)
        return output(self.signature, logits, 1.0)


models = {"bare": Bare}
