"""The posterior of a method that acts on a model through a layer rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bdlbench.core.streams import Streams
from bdlbench.networks.layers import Memory, remembering
from bdlbench.predictives.mixtures import Predictive
from bdlbench.protocols import Accumulator, Layer, Model, Moments, Timed
from bdlbench.training.loop import predicted

EXAMPLES = 500
"""Examples in one pass. Prediction noise is keyed by the block of examples, so a change of it changes results."""

EXAMPLES_OF_ONE_NETWORK = 1000
"""Examples in one pass where one network serves all examples: larger products are faster.

The noise of a latent starts anew in each block, so a change of it changes results.
"""

CHUNK_ELEMENTS = 1 << 19
"""Activations of one hidden layer held at once; more would not fit the cache."""

MOST_AT_ONCE = 8
"""Samples at once, however small the layers: some methods make a noisy copy of the input for each sample."""


@dataclass(frozen=True)
class WeightPosterior:
    """Learnt tensors of each row, and the rule that draws a network from them.

    Attributes:
        model: The model.
        state: The learnt tensors, {name: (R, …)}.
        draw: `draw(noise, joint)` returns the layer rule of drawn networks; `noise` has lead (M, R).
        facts: What the method knows of itself, (R,) each.
        bound: The ELBO of the training data in nats, (R,), or None.
        deterministic: Whether every draw is the same network, so that one draw is enough.
        moments: Returns the moments of the weights, or None.
    """

    model: Model
    state: Mapping[str, Tensor]
    draw: Callable[[Streams, bool], Layer]
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    bound: Tensor | None = None
    deterministic: bool = False
    moments: Callable[[], Moments | None] = lambda: None

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """Predict x (R, N, …) by `samples` draws, or by one where all draws are the same.

        Args:
            x: Inputs (R, N, …).
            samples: M, the number of draws.
            rng: Streams (R,) of prediction noise.
            joint: Whether each sample is one network for all examples.

        Returns:
            The predictive of R replicates on N inputs.
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
        """Measure what the clock says of the first draw, where the model is `Timed`.

        Args:
            x: Inputs (R, N, …).
            rng: Streams (R,) of prediction noise.

        Returns:
            Numbers by name, (R,) each; {} where the model is not `Timed`.
        """
        if not isinstance(self.model, Timed):
            return {}
        return self.model.measured(self.draw(rng.samples(0, 1), True), x)

    def _block(self, x: Tensor, samples: int, rng: Streams, place: tuple[int, int]) -> Predictive:
        """Predict one block of examples with its own noise; `place` says which block, of how many.

        All that precedes the noise is computed once.
        """
        total: Accumulator | None = None
        memory, chunk = Memory(x), self._chunk(x, samples)
        for start in range(0, samples, chunk):
            noise = rng.samples(start, min(chunk, samples - start))
            output = self.model(remembering(self.draw(noise, False), memory), x, noise.child("latent"))
            if total is None:  # it may have a length, 0 for now
                total = output.accumulator(samples)
            total.add(output)
            predicted((place[0] + min(1.0, (start + chunk) / samples)) / place[1])
        assert total is not None
        return total.finish()

    def _jointly(self, blocks: Sequence[Tensor], samples: int, rng: Streams) -> list[Predictive]:
        """Predict all blocks, one network at a time."""
        totals: dict[int, Accumulator] = {}
        for sample in range(samples):
            noise = rng.samples(sample, 1)
            layer = self.draw(noise, True)
            for i, block in enumerate(blocks):
                output = self.model(layer, block, noise.child("latent"))
                totals.setdefault(i, output.accumulator(samples)).add(output)
        return [total.finish() for total in totals.values()]

    def _chunk(self, x: Tensor, samples: int) -> int:
        """Return how many samples to draw at once: as many as keep the widest activation in the cache."""
        leaves, pixels = self.model.leaves().values(), x[0, 0, 0].numel() if x.ndim == 5 else 1  # of images by channel
        widest = max(leaf.shape[0] * (pixels if len(leaf.shape) == 4 else 1) for leaf in leaves)
        return max(1, min(samples, MOST_AT_ONCE, CHUNK_ELEMENTS // (x.shape[0] * x.shape[1] * widest)))
