"""Deep ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from bdlbench.core.options import option, repeat_rows
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.ensemble import EnsemblePosterior
from bdlbench.protocols import Method, Model, Posterior, Restores
from bdlbench.training.loop import watched_as


@dataclass(frozen=True)
class DeepEnsemble:
    """Deep ensemble: the mixture of networks trained alike from different seeds (Lakshminarayanan et al. 2017).

    p(y | x) = (1/K) Σ_k p(y | x, w_k). Members are rows of the replicate axis. Member 0 is what the member's method
    gives alone with the same seed. Adversarial training is an option of the member; no bootstrap.
    """

    members: int = option(5, "networks in the ensemble", low=1)
    member: Method | Any = option("mle", "method of each member; its own options apply", entry="methods")

    def unsupported(self, model: Model) -> str | None:
        """Say why the members' method cannot train this model; None where it can."""
        reason: str | None = self.member.unsupported(model)
        return reason

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train R·K rows at once."""
        base: Method = repeat_rows(self.member, self.members)
        with watched_as(partial(EnsemblePosterior, members=self.members)):
            rows = base.fit(repeat_rows(model, self.members), data.repeat(self.members), rng.members(self.members))
        return EnsemblePosterior(rows, self.members)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """Rebuild the members, where their method can."""
        if not isinstance(self.member, Restores):
            return None
        base: Restores = repeat_rows(self.member, self.members)
        rows = base.restored(repeat_rows(model, self.members), {k: v.flatten(0, 1) for k, v in state.items()})
        return None if rows is None else EnsemblePosterior(rows, self.members)


@dataclass(frozen=True)
class MultiSWAG(DeepEnsemble):
    """MultiSWAG: the mixture of several SWAG posteriors, trained alike from different seeds (Wilson & Izmailov 2020).

    A deep ensemble whose members are Gaussians around their own modes: the samples of the posterior are divided among
    them, at least one each. The options of a member are those of `swag`. One member is `swag` itself.
    """

    member: Method | Any = option("swag", "method of each member; its own options apply", entry="methods")


methods = {"deep_ensemble": DeepEnsemble, "multiswag": MultiSWAG}
