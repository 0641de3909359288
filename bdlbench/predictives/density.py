"""What a density model predicts: how probable each input itself is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from bdlbench.predictives.mixtures import MAX_GROUPS, join_facts, log_mean, ordered_sum


class Estimate(NamedTuple):
    """What one network says of each input. Arrays ([m,] R, B) in nats, unless stated otherwise.

    Attributes:
        log_density: An importance-weighted estimate of log p(x); on average it lies below log p(x).
        elbo: The evidence lower bound with one posterior q.
        latent_mean: Posterior means of the latent, ([m,] R, B, Z).
        regret: How much the bound gains where q is fitted to the input alone, or None.
        regret_gain: The part of it that the last step of that fit added, about 0 once the fit has converged, or None.
    """

    log_density: Tensor
    elbo: Tensor
    latent_mean: Tensor
    regret: Tensor | None
    regret_gain: Tensor | None = None


@dataclass(frozen=True)
class Density:
    """log p(x) of each input by M networks.

    Attributes:
        log_densities: (M, R, N) in nats, averaged as densities.
        elbo: (R, N) in nats, averaged over networks as it is.
        latent_mean: (R, N, Z), averaged over networks as it is; None for networks that were trained apart.
        regret: (R, N) in nats, averaged over networks as it is.
        facts: What the method knows of itself, (R,) or (R, N).
    """

    log_densities: Tensor
    elbo: Tensor
    latent_mean: Tensor | None = None
    regret: Tensor | None = None
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """M, the number of networks."""
        return self.log_densities.shape[0]

    @property
    def scores(self) -> dict[str, Tensor]:
        """−log p(x), the negative ELBO, and the likelihood regret (Xiao et al. 2020) where it was computed; in nats."""
        scores = {"density": -log_mean(self.log_densities), "negative_elbo": -self.elbo}
        return scores if self.regret is None else {**scores, "likelihood_regret": self.regret}

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log p(x) of the inputs themselves in nats, (R, N); the labels `y` do not matter."""
        return log_mean(self.log_densities)

    def group_log_prob(self, y: Tensor) -> Tensor:
        """Return log p(x) by each group of networks in nats, (G, R, N)."""
        groups = min(self.samples, MAX_GROUPS)
        return torch.stack([log_mean(self.log_densities[g::groups]) for g in range(groups)])

    def arrays(self) -> dict[str, Tensor]:
        """Return log p(x), the ELBO, and the posterior mean of the latent where there is one."""
        arrays = {"log_density": log_mean(self.log_densities), "elbo": self.elbo}
        return arrays if self.latent_mean is None else {**arrays, "latent_mean": self.latent_mean}

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Return itself: the density is that of the inputs as they are."""
        return self

    def mix(self, members: int) -> Self:
        """Collect the densities of all members' networks. Each member has a latent of its own, so none is averaged."""
        if members == 1:
            return self
        densities = self.log_densities.unflatten(1, (-1, members)).transpose(1, 2).flatten(0, 1)
        regret = None if self.regret is None else _mean_member(self.regret, members)
        facts = {name: _mean_member(value, members) for name, value in self.facts.items()}
        return type(self)(densities, _mean_member(self.elbo, members), None, regret, facts)

    def join(self, later: Sequence[Self]) -> Self:
        """Append the predictives of later examples, along N."""
        blocks = [self, *later]
        return type(self)(
            torch.cat([b.log_densities for b in blocks], 2),
            torch.cat([b.elbo for b in blocks], 1),
            _joined([b.latent_mean for b in blocks]),
            _joined([b.regret for b in blocks]),
            join_facts([b.facts for b in blocks]),
        )


class HasEstimate(Protocol):
    """An output that knows how probable its inputs are."""

    def estimate(self) -> Estimate:
        """Return the estimate of each input."""
        ...


class DensitySum:
    """Accumulates the estimates of M networks into a `Density`."""

    def __init__(self, facts: Mapping[str, Tensor]) -> None:
        self.facts = facts
        self.estimates: list[Estimate] = []

    def add(self, output: HasEstimate) -> None:
        """Add the next m networks in order, or the only one."""
        found = output.estimate()
        self.estimates.append(_as_one_of_many(found) if found.elbo.ndim == 2 else found)

    def finish(self) -> Density:
        """Return the predictive of the networks added."""
        found = self.estimates
        regrets = [e.regret for e in found if e.regret is not None]
        gains = [e.regret_gain for e in found if e.regret_gain is not None]
        return Density(
            torch.cat([e.log_density for e in found]),
            _mean([e.elbo for e in found]),
            _mean([e.latent_mean for e in found]),
            _mean(regrets) if regrets else None,
            {**self.facts, **({"regret_gain": _mean(gains)} if gains else {})},
        )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join along N; None where no part has a value."""
    known = [part for part in parts if part is not None]
    return torch.cat(known, 1) if known else None


def _as_one_of_many(found: Estimate) -> Estimate:
    """Add an axis of one network in front."""
    regret, gain = (None if part is None else part[None] for part in (found.regret, found.regret_gain))
    return Estimate(found.log_density[None], found.elbo[None], found.latent_mean[None], regret, gain)


def _mean(parts: Sequence[Tensor]) -> Tensor:
    """Average over networks: [(m, R, …), …] -> (R, …)."""
    values = torch.cat(list(parts))
    return ordered_sum(values) / len(values)


def _mean_member(values: Tensor, members: int) -> Tensor:
    return ordered_sum(values.unflatten(0, (-1, members)).transpose(0, 1)) / members
