"""Deep ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bdlbench.data import Data
from bdlbench.options import option, repeat_rows
from bdlbench.posteriors.moments import mixture_moments
from bdlbench.predictive import Predictive
from bdlbench.protocols import Method, Model, Moments, Posterior, Restores
from bdlbench.rng import Streams


@dataclass(frozen=True)
class DeepEnsemble:
    """Deep ensemble: the mixture of networks trained alike from different seeds (Lakshminarayanan et al. 2017).

    p(y | x) = (1/K) Σ_k p(y | x, w_k). Members are rows of the replicate axis; member 0 is what the member's method
    gives alone with the same seed. No adversarial training, no bootstrap.
    """

    members: int = option(5, "networks in the ensemble", low=1)
    member: Method | Any = option("mle", "method of each member; its own options apply", entry="methods")

    def unsupported(self, model: Model) -> str | None:
        """Whatever its members support."""
        reason: str | None = self.member.unsupported(model)
        return reason

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train R·K rows at once."""
        base: Method = repeat_rows(self.member, self.members)
        rows = base.fit(repeat_rows(model, self.members), data.repeat(self.members), rng.members(self.members))
        return EnsemblePosterior(rows, self.members)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """The members, where their method can have them back."""
        if not isinstance(self.member, Restores):
            return None
        base: Restores = repeat_rows(self.member, self.members)
        rows = base.restored(repeat_rows(model, self.members), {k: v.flatten(0, 1) for k, v in state.items()})
        return None if rows is None else EnsemblePosterior(rows, self.members)


@dataclass(frozen=True)
class EnsemblePosterior:
    """An equal mixture of `members` consecutive rows of `rows`."""

    rows: Posterior
    members: int

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Each tensor (R, K, …)."""
        return {name: value.unflatten(0, (-1, self.members)) for name, value in self.rows.state.items()}

    @property
    def bound(self) -> Tensor | None:
        """A mixture of points has no bound."""
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
        """Of the mixture of the members."""
        members = self.rows.moments()
        return None if members is None else mixture_moments(members, self.members)

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Means over the members: one network each."""
        found = self.rows.measured(Data(x, x).repeat(self.members).x, rng.members(self.members))
        return {name: value.unflatten(0, (-1, self.members)).mean(1) for name, value in found.items()}

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Predictive:
        """The mixture's predictive: `samples` draws shared out among the members, one each for point members."""
        repeated = Data(x, x).repeat(self.members).x
        share = max(1, samples // self.members)
        return self.rows.predict(repeated, share, rng.members(self.members), joint).mix(self.members)


methods = {"deep_ensemble": DeepEnsemble}
