"""The posterior of a network that is linear in its uncertain weights around one set of them.

f(x; w) ≈ f(x; m) + J(x) (w − m): the model for which a Laplace approximation by the generalised Gauss-Newton matrix is
a posterior (Immer et al. 2021, eq. 9 f.).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.options import row_of
from bdlbench.core.streams import Streams
from bdlbench.posteriors.curvature import jacobian, point_output
from bdlbench.posteriors.weights import EXAMPLES, EXAMPLES_OF_ONE_NETWORK
from bdlbench.predictives.mixtures import Predictive
from bdlbench.protocols import Accumulator, HasLocation, Model, Moments
from bdlbench.training.loop import predicted

SLOPES_AT_ONCE = 1 << 25
"""Numbers of the Jacobian that are held at once, 128 MiB."""

DRAWS_AT_ONCE = 1 << 22
"""Numbers of drawn weights that are held at once."""


@dataclass(frozen=True)
class LinearisedPosterior:
    """Networks linear around `flat`, with a Gaussian over some of their leaves.

    Attributes:
        model: The model, whose output has a location.
        state: The learnt tensors, {name: (R, …)}.
        layout: Where each leaf lies in a row.
        part: Where each uncertain leaf lies in a row of these alone.
        flat: The networks, (R, P).
        draw: draw(noise) returns w − m of draws, (M, R, P of the part), for noise with lead (M, R).
        variances: variances(r, slopes) returns the variance of slopesᵀ w of row r, (n,) for (n, p).
        sampled: Whether draws are averaged; else each example's location is Gaussian, and the output is told so.
        facts: What the method knows of itself, (R,) each.
        moments: Returns the moments of the weights, or None.
        bound: None.
    """

    model: Model
    state: Mapping[str, Tensor]
    layout: Layout
    part: Layout
    flat: Tensor
    draw: Callable[[Streams], Tensor]
    variances: Callable[[int, Tensor], Tensor]
    sampled: bool
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Callable[[], Moments | None] = lambda: None
    bound: Tensor | None = None

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """Predict x (R, N, …), in closed form or by `samples` draws of the weights; by draws where `joint`.

        Args:
            x: Inputs (R, N, …).
            samples: M, the number of draws.
            rng: Streams (R,) of prediction noise.
            joint: Whether each sample is one function of all examples.

        Returns:
            The predictive of R replicates on N inputs.
        """
        found, done = [], 0
        size = max(1, SLOPES_AT_ONCE // (self.part.width * max(1, self.model.signature.outputs)))
        for i, block in enumerate(x.split(EXAMPLES_OF_ONE_NETWORK if joint else EXAMPLES, dim=1)):
            noise = rng if joint else rng.child(f"block {i}")
            for some in block.split(size, dim=1):
                found.append(self._some(some, samples if self.sampled or joint else 0, noise))
                done += some.shape[1]
                predicted(done / x.shape[1])
        first, *later = found
        return first.join(later)

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Return nothing: no clock is read."""
        return {}

    def _some(self, x: Tensor, samples: int, noise: Streams) -> Predictive:
        """Predict some examples by so many draws; by none in closed form."""
        with torch.no_grad():
            output = point_output(self.model, self.layout, self.flat, x)
            assert isinstance(output, HasLocation)
            rows = [
                jacobian(row_of(self.model, r), self.layout, self.part, self.flat[r : r + 1].clone(), x[r])
                for r in range(len(x))
            ]  # (B, C, p) each
            if not samples:
                spread = [self.variances(r, row.flatten(0, 1)).reshape(row.shape[:2]) for r, row in enumerate(rows)]
                told = output.spread(torch.stack(spread))
                total = told.accumulator(1)
                total.add(told)
                return total.finish()
            return self._by_draws(output, rows, samples, noise)

    def _by_draws(self, output: HasLocation, rows: list[Tensor], samples: int, noise: Streams) -> Predictive:
        total: Accumulator | None = None
        chunk = max(1, DRAWS_AT_ONCE // (self.part.width * len(rows)))
        for start in range(0, samples, chunk):
            draws = self.part.packed(self.draw(noise.samples(start, min(chunk, samples - start))))  # (m, R, p)
            moves = [
                torch.stack([row.flatten(0, 1) @ one.clone() for one in draws[:, r]]).unflatten(1, row.shape[:2])
                for r, row in enumerate(rows)
            ]  # (m, B, C) each: a product for each draw, whose bits do not depend on how many there are
            moved = output.moved(output.location + torch.stack(moves, 1))
            total = moved.accumulator(samples) if total is None else total
            total.add(moved)
        assert total is not None
        return total.finish()
