"""The posterior of a sampler: the networks that its chains have visited, and how well chains agree on predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.networks.layers import Point
from bdlbench.posteriors.weights import CHUNK_ELEMENTS
from bdlbench.predictives.mixtures import MAX_GROUPS, Predictive, group_sizes
from bdlbench.protocols import Accumulator, Model, Moments
from bdlbench.stats.chains import bulk_ess, split_rhat
from bdlbench.training.loop import predicted

EXAMPLES_OF_ALL_DRAWS = 100
"""Examples in one pass: what every draw predicts for them is held at once."""


@dataclass(frozen=True)
class DrawsPosterior:
    """The equal mixture of all draws of all chains. Every prediction is by all of them, however many are asked for.

    A group of the predictive is a stretch of a chain, not every tenth draw: draws that follow one another resemble each
    other, and groups of neighbours tell the Monte-Carlo error that they cause (batch means).

    Attributes:
        model: The model.
        layout: Where each leaf lies in a row.
        draws: K chains of D networks of each replicate, (R, K, D, P).
        facts: What the method knows of itself, (R,) each.
    """

    model: Model
    layout: Layout
    draws: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Each leaf of all draws, (R, K, D, *S)."""
        return self.layout.views(self.draws)

    @property
    def bound(self) -> Tensor | None:
        """None: draws have no density, and so no bound."""
        return None

    def moments(self) -> Moments:
        """Return the moments of the draws."""
        packed = self.layout.packed(self.draws.flatten(1, 2)).double()  # (R, M, P)
        mean = packed.mean(1)
        centred = packed - mean.unsqueeze(1)
        return Moments(mean, centred.mT @ centred / packed.shape[1])

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Return nothing: no clock is read of a prediction."""
        return {}

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """Predict x (R, N, …) by every draw; each is one network for all examples, so `joint` changes nothing.

        The predictive states of each example the fact `rhat`, the largest split R-hat of its class probabilities, or of
        its mean, and `ess`, their smallest effective sample size.
        """
        blocks = x.split(EXAMPLES_OF_ALL_DRAWS, dim=1)
        with torch.no_grad():
            first, *later = (self._block(block, rng, (i, len(blocks))) for i, block in enumerate(blocks))
        return first.join(later)

    def _block(self, x: Tensor, rng: Streams, place: tuple[int, int]) -> Predictive:
        """Predict one block of examples; `place` says which block, of how many."""
        rows, chains, length, _ = self.draws.shape
        flat, count = self.draws.flatten(1, 2), chains * length
        widest = max(leaf.shape[0] for leaf in self.layout.leaves.values())
        chunk = max(1, min(64, CHUNK_ELEMENTS // (rows * x.shape[1] * widest)))
        total: Accumulator | None = None
        said = torch.empty(0)
        for place_of_first, index in enumerate(_order(count).split(chunk)):
            networks = flat[:, index].transpose(0, 1).contiguous()  # (m, R, P)
            noise = rng.samples(place_of_first * chunk, len(index)).child("latent")
            output: Any = self.model(Point(self.layout.views(networks)), x, noise)
            if total is None:
                total = output.accumulator(count)
            total.add(output)
            probs = output.logits.softmax(-1) if hasattr(output, "logits") else output.mean.unsqueeze(-1)
            if not said.numel():
                said = probs.new_empty(rows, count, *probs.shape[2:])  # (R, M, B, C)
            said[:, index] = probs.transpose(0, 1)
            predicted((place[0] + min(1.0, (place_of_first + 1) * chunk / count)) / place[1])
        assert total is not None
        found: Any = total.finish()
        whole: Predictive = replace(found, facts={**found.facts, **_diagnosed(said.unflatten(1, (chains, length)))})
        return whole


def _order(count: int) -> Tensor:
    """Return in which order draws are added, so that group i mod G of the i-th is a stretch of neighbours: (M,)."""
    groups = min(count, MAX_GROUPS)
    sizes = group_sizes(count, groups)
    starts = np.cumsum([0, *sizes])
    return torch.tensor([int(starts[i % groups]) + i // groups for i in range(count)])


def _diagnosed(said: Tensor) -> dict[str, Tensor]:
    """Return R-hat and effective sample size of each example, (R, N), of what draws said of it, (R, K, D, N, C)."""
    rhat, ess = [], []
    for row in said.double().cpu().numpy():  # one after another: the bits of a row depend on no other
        quantities = np.ascontiguousarray(row.reshape(*row.shape[:2], -1))
        rhat.append(split_rhat(quantities).reshape(row.shape[2:]).max(-1))
        ess.append(bulk_ess(quantities).reshape(row.shape[2:]).min(-1))
    return {name: torch.from_numpy(np.stack(rows)).to(said.device) for name, rows in (("rhat", rhat), ("ess", ess))}
