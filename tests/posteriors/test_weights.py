"""The posterior of a method that acts through a layer rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.models.mlp import MLP
from bdlbench.networks.layers import Dropout
from bdlbench.networks.likelihoods import CategoricalOutput
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.predictives.mixtures import CategoricalSum

SIGNATURE = Signature((3,), 2, "categorical")


class Counting(CategoricalSum):
    """An accumulator with a length: the examples that are finished, none before the end."""

    def __len__(self) -> int:
        return 0


@dataclass(frozen=True)
class Output(CategoricalOutput):
    def accumulator(self, samples):
        return Counting(samples)


@dataclass(frozen=True)
class Counted(MLP):
    """A model whose accumulator has a length."""

    def __call__(self, layer, x, rng):
        return Output(super().__call__(layer, x, rng).logits)


def drawn_anew(model, noise, joint):
    """A network of weights of its own, without any dropout."""
    leaves = {name: noise.normal(leaf.shape, torch.zeros(1)) for name, leaf in model.leaves().items()}
    return Dropout(leaves, {}, noise, joint)


def test_an_accumulator_of_length_0_keeps_what_it_has():
    x, rng = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)), Streams.of_seeds([0, 1])
    found = []
    for model in (MLP(SIGNATURE, (4,)), Counted(SIGNATURE, (4,))):
        posterior = WeightPosterior(model, {}, lambda noise, joint, model=model: drawn_anew(model, noise, joint))
        found.append(posterior.predict(x, 20, rng).log_probs)  # in three chunks
    assert torch.equal(*found)


def test_samples_of_the_weights_without_noise_in_a_map_are_all_predicted():
    """By the networks themselves: the first map of the input once had the first chunk's weights in all chunks."""
    model, samples = MLP(SIGNATURE, (4,)), 20
    x, rng = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)), Streams.of_seeds([0, 1])
    posterior = WeightPosterior(model, {}, lambda noise, joint: drawn_anew(model, noise, joint))
    found = posterior.predict(x, samples, rng).log_probs.exp()
    total = torch.zeros(2, 5, 2, dtype=torch.float64)
    for start in range(0, samples, 8):
        noise = rng.child("block 0").samples(start, min(8, samples - start))
        layer = drawn_anew(model, noise, False)
        total += model(layer, x, noise.child("latent")).logits.double().softmax(-1).sum(0)
    torch.testing.assert_close(found, total / samples)
