"""The posterior of a method that acts on a model through a layer rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bdlbench.core.streams import Streams
from bdlbench.networks.layers import remembering
from bdlbench.predictives.mixtures import Predictive
from bdlbench.protocols import Accumulator, Layer, Model, Moments, Timed
from bdlbench.training.loop import predicted

EXAMPLES = 500
"""Examples in one pass. Prediction noise is keyed by the block of examples, so this is part of the definition."""

EXAMPLES_OF_ONE_NETWORK = 1000
"""The same where one network serves all examples, since larger products are faster. A latent's noise starts anew in
each block, so this too is part of the definition."""

CHUNK_ELEMENTS = 1 << 19
"""Activations of one hidden layer held at once: more falls out of the cache."""

MOST_AT_ONCE = 8
"""Samples at once, however small the layers: some methods make a noisy copy of the input for each."""


@dataclass(frozen=True)
class WeightPosterior:
    """Rows of learnt tensors and the rule that draws a network from them.

    state: {name: (R, …)}; draw(noise, joint) -> Layer, with noise of lead (M, R); facts: (R,) each; bound: (R,) nats or
    None; deterministic: every draw is the same network, so one is enough; moments(): of the weights, or None.
    """

    model: Model
    state: Mapping[str, Tensor]
    draw: Callable[[Streams, bool], Layer]
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    bound: Tensor | None = None
    deterministic: bool = False
    moments: Callable[[], Moments | None] = lambda: None

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """The predictive of x (R, N, …) from `samples` draws; from one where all draws are the same.

        joint: each sample is one network for all the examples, not one for each example.
        """
        count = 1 if self.deterministic else samples
        blocks = x.split(EXAMPLES_OF_ONE_NETWORK if joint else EXAMPLES, dim=1)
        with torch.no_grad():  # not inference_mode: an output may fit a latent of its own by gradients
            if joint:
                first, *later = self._jointly(blocks, count, rng)
            else:
                first, *later = (
                    self._block(block, count, rng.child(f"block {i}"), (i, len(blocks)))
                    for i, block in enumerate(blocks)
                )
        return first.join(later)

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """What the model measures of its first draw; {} where it is not `Timed`."""
        if not isinstance(self.model, Timed):
            return {}
        return self.model.measured(self.draw(rng.samples(0, 1), True), x)

    def _block(self, x: Tensor, samples: int, rng: Streams, place: tuple[int, int]) -> Predictive:
        """Noise for each example; what precedes all noise is computed once. place: which block, of how many."""
        total, chunk = None, self._chunk(x, samples)
        with remembering(x):
            for start in range(0, samples, chunk):
                noise = rng.samples(start, min(chunk, samples - start))
                output = self.model(self.draw(noise, False), x, noise.child("latent"))
                total = total or output.accumulator(samples)
                total.add(output)
                predicted((place[0] + min(1.0, (start + chunk) / samples)) / place[1])
        assert total is not None
        return total.finish()

    def _jointly(self, blocks: Sequence[Tensor], samples: int, rng: Streams) -> list[Predictive]:
        """A network at a time, for all blocks."""
        totals: dict[int, Accumulator] = {}
        for sample in range(samples):
            noise = rng.samples(sample, 1)
            layer = self.draw(noise, True)
            for i, block in enumerate(blocks):
                output = self.model(layer, block, noise.child("latent"))
                totals.setdefault(i, output.accumulator(samples)).add(output)
        return [total.finish() for total in totals.values()]

    def _chunk(self, x: Tensor, samples: int) -> int:
        """How many samples to draw at once: as many as keep the widest activation in the cache."""
        leaves, pixels = self.model.leaves().values(), x[0, 0, 0].numel() if x.ndim == 5 else 1  # of images by channel
        widest = max(leaf.shape[0] * (pixels if len(leaf.shape) == 4 else 1) for leaf in leaves)
        return max(1, min(samples, MOST_AT_ONCE, CHUNK_ELEMENTS // (x.shape[0] * x.shape[1] * widest)))
