"""The posterior of a method that learns several networks: an equal mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.options import repeat_rows
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.draws import DrawsPosterior
from bdlbench.posteriors.moments import mixture_moments
from bdlbench.posteriors.point import point_posterior
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.predictives.mixtures import Predictive
from bdlbench.protocols import Model, Moments, Posterior


@dataclass(frozen=True)
class EnsemblePosterior:
    """An equal mixture of `members` consecutive rows of `rows`.

    Attributes:
        rows: The posterior of R·K rows.
        members: K.
        shared: What was learnt, (R, …) each, where members share it; None where each has tensors of its own.
    """

    rows: Posterior
    members: int
    shared: Mapping[str, Tensor] | None = None

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What members share, or each tensor of the members, (R, K, …)."""
        if self.shared is not None:
            return self.shared
        return {name: value.unflatten(0, (-1, self.members)) for name, value in self.rows.state.items()}

    @property
    def bound(self) -> Tensor | None:
        """None: a mixture of points has no bound."""
        return None

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """Means over the members; `compression`, a ratio |w| / |w ≠ 0|, by the harmonic mean."""
        facts = {name: value.unflatten(0, (-1, self.members)) for name, value in self.rows.facts.items()}
        means = {name: value.mean(1) for name, value in facts.items()}
        if "compression" in facts:
            means["compression"] = 1 / (1 / facts["compression"]).mean(1)
        return means

    def moments(self) -> Moments | None:
        """Return the moments of the mixture of the members."""
        members = self.rows.moments()
        return None if members is None else mixture_moments(members, self.members)

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Return means over the members, which measure one network each."""
        found = self.rows.measured(Data(x, x).repeat(self.members).x, rng.members(self.members))
        return {name: value.unflatten(0, (-1, self.members)).mean(1) for name, value in found.items()}

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """Predict by the mixture: `samples` draws are divided among the members, at least one each, one for a point."""
        repeated = Data(x, x).repeat(self.members).x
        share = max(1, samples // self.members)
        return self.rows.predict(repeated, share, rng.members(self.members), joint).mix(self.members)


def with_model(posterior: Posterior, change: Callable[[Model], Any]) -> Posterior | None:
    """Return the posterior with another model in the place of its own, which its networks are drawn for as before.

    Args:
        posterior: The posterior.
        change: Makes the other model of the posterior's own.

    Returns:
        The posterior, or None where it is no network with a layer rule, such as a closed form.
    """
    if isinstance(posterior, EnsemblePosterior):
        rows = with_model(posterior.rows, change)
        return None if rows is None else replace(posterior, rows=rows)
    if isinstance(posterior, WeightPosterior | DrawsPosterior):
        return replace(posterior, model=change(posterior.model))
    return None


def mixture_of_points(model: Model, layout: Layout, flat: Tensor) -> EnsemblePosterior:
    """Return the equal mixture of K networks, such as the samples of a chain.

    Args:
        model: The model.
        layout: Where each leaf lies in a row.
        flat: The networks of each row, (R, K, P).

    Returns:
        The posterior of R replicates.
    """
    count = flat.shape[1]
    return EnsemblePosterior(point_posterior(repeat_rows(model, count), layout, flat.flatten(0, 1)), count)
