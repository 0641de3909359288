"""The posterior of a method that acts on a model through a layer rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bdlbench.predictive import Predictive
from bdlbench.protocols import Layer, Model, Moments, Timed
from bdlbench.rng import Streams

EXAMPLES = 500
"""Examples in one pass. Prediction noise is keyed by the block of examples, so this is part of the definition."""

CHUNK_ELEMENTS = 1 << 19
"""Activations of one layer held at once: more falls out of the cache."""


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
        with torch.no_grad():  # not inference_mode: an output may fit a latent of its own by gradients
            first, *later = (
                self._block(block, count, rng if joint else rng.child(f"block {i}"), joint)
                for i, block in enumerate(x.split(EXAMPLES, dim=1))
            )
        return first.join(later)

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """What the model measures of its first draw; {} where it is not `Timed`."""
        if not isinstance(self.model, Timed):
            return {}
        return self.model.measured(self.draw(rng.samples(0, 1), True), x)

    def _block(self, x: Tensor, samples: int, rng: Streams, joint: bool) -> Predictive:
        total = None
        chunk = self._chunk(x, samples)
        for start in range(0, samples, chunk):
            noise = rng.samples(start, min(chunk, samples - start))
            output = self.model(self.draw(noise, joint), x, noise.child("latent"))
            total = total or output.accumulator(samples)
            total.add(output)
        assert total is not None
        return total.finish()

    def _chunk(self, x: Tensor, samples: int) -> int:
        """How many samples to draw at once: as many as keep the widest activation in the cache."""
        widest = max(leaf.shape[0] for leaf in self.model.leaves().values())
        per_sample = x.shape[0] * x.shape[1] * max(widest, x[0, 0].numel())
        return max(1, min(samples, CHUNK_ELEMENTS // per_sample))
