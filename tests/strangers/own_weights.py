"""A model that asks for its weights, and computes with others of its own."""

from dataclasses import dataclass

import torch

from bdlbench.extend import Signature, output, unsupported
from bdlbench.networks.blocks import affine, dense_leaves, flatten


@dataclass(frozen=True)
class Frozen:
    """A linear model whose weights are never those that were learnt."""

    signature: Signature

    def unsupported(self):
        return unsupported(self.signature)

    def leaves(self):
        return dense_leaves("fc", torch.Size(self.signature.input_shape).numel(), self.signature.outputs, first=True)

    def __call__(self, layer, x, rng):
        logits = affine(layer, "fc", flatten(x, len(self.signature.input_shape)))
        return output(self.signature, logits.detach() + 0 * layer.leaf("fc.bias").unsqueeze(-2), 1.0)


models = {"frozen": Frozen}
