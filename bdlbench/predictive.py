"""What a posterior predicts, reduced over its M samples as they stream by. The only place that averages over M.

PROBABILITIES are averaged, never logits. Sample i belongs to group i mod G, G = min(M, 10); the group means are kept
so that the Monte-Carlo variance of any metric can be estimated. Samples are added one at a time and in order, so the
result does not depend on how they were chunked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Protocol, Self

import torch
from torch import Tensor

MAX_GROUPS = 10


class Predictive(Protocol):
    """The posterior predictive of R replicates on N inputs."""

    @property
    def samples(self) -> int:
        """M, how many posterior samples were averaged."""
        ...

    @property
    def facts(self) -> Mapping[str, Tensor]:
        """What the method knows of itself: (R,), or (R, N) where it differs by example."""
        ...

    @property
    def scores(self) -> dict[str, Tensor]:
        """(R, N) each, higher = more out of distribution."""
        ...

    def log_prob(self, y: Tensor) -> Tensor:
        """Log predictive density or probability of y (R, N), in nats and original units: (R, N)."""
        ...

    def group_log_prob(self, y: Tensor) -> Tensor:
        """The same for each group of samples: (G, R, N)."""
        ...

    def arrays(self) -> dict[str, Tensor]:
        """What describes the predictive and is stored per example, float32: {name: (R, N, …)}."""
        ...

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """On the scale of y·y_sd + y_mean, both (R,); classes have no scale."""
        ...

    def mix(self, members: int) -> Self:
        """Each `members` consecutive rows as one equal mixture: (R·members, …) -> (R, …)."""
        ...

    def join(self, later: Sequence[Self]) -> Self:
        """This predictive followed by those of later examples, along N."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Mean class probabilities of M samples.

    probs (R, N, C), group_probs (G, R, N, C), expected_entropy (R, N) in nats. own_scores: out-of-distribution scores
    (R, N) that whoever made the predictions gave beside them; a mixture has none.
    """

    samples: int
    probs: Tensor
    group_probs: Tensor
    expected_entropy: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    own_scores: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def entropy(self) -> Tensor:
        """H[E_θ p(y | x, θ)] in nats, (R, N)."""
        terms: Tensor = torch.special.entr(self.probs)
        return terms.sum(-1)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Predictive entropy; mutual information H[E p] − E H[p] (nats); minus the largest probability; own ones."""
        entropy = self.entropy
        return {
            **self.own_scores,
            "entropy": entropy,
            "mutual_information": (entropy - self.expected_entropy).clamp_min(0.0),
            "max_probability": -self.probs.amax(-1),
        }

    def log_prob(self, y: Tensor) -> Tensor:
        """log p(y | x) (R, N) in nats, of int64 classes y (R, N)."""
        return _log_at(self.probs, y)

    def group_log_prob(self, y: Tensor) -> Tensor:
        """log p(y | x) by each group of samples alone, (G, R, N)."""
        return _log_at(self.group_probs, y.expand(len(self.group_probs), *y.shape))

    @property
    def running_class(self) -> Tensor:
        """The most probable class by the samples of the first g groups together, for g = 1 … G: (R, N, G) int64."""
        sizes = group_sizes(self.samples, len(self.group_probs))
        sums = itertools.accumulate(p * n for p, n in zip(self.group_probs, sizes, strict=True))
        return torch.stack([total.argmax(-1) for total in sums], -1)

    def arrays(self) -> dict[str, Tensor]:
        """The mean class probabilities; with several samples also what more and more of them call the class."""
        return {"probs": self.probs} | ({"running_class": self.running_class} if len(self.group_probs) > 1 else {})

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Unchanged: classes have no scale."""
        return self

    def mix(self, members: int) -> Self:
        """Probabilities averaged over members; a member is a group of samples, whatever their number."""
        if members == 1:
            return self
        probs = self.probs.unflatten(0, (-1, members)).transpose(0, 1)  # (K, R, N, C)
        entropy = self.expected_entropy.unflatten(0, (-1, members)).transpose(0, 1)
        return type(self)(self.samples * members, ordered_sum(probs) / members, probs, ordered_sum(entropy) / members)

    def join(self, later: Sequence[Self]) -> Self:
        """Along N."""
        blocks = [self, *later]
        return type(self)(
            self.samples,
            torch.cat([b.probs for b in blocks], 1),
            torch.cat([b.group_probs for b in blocks], 2),
            torch.cat([b.expected_entropy for b in blocks], 1),
            join_facts([b.facts for b in blocks]),
            join_facts([b.own_scores for b in blocks]),
        )


@dataclass(frozen=True)
class GaussianMixture:
    """An equal mixture of M Gaussians for each example, in original units. means, sds: (M, R, N)."""

    means: Tensor
    sds: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """M."""
        return self.means.shape[0]

    @property
    def mean(self) -> Tensor:
        """E[y | x], (R, N)."""
        return ordered_sum(self.means) / self.samples

    @property
    def variance(self) -> Tensor:
        """V[y | x] = E sd² + V mean (law of total variance), (R, N)."""
        within, between = ordered_sum(self.sds.square()), ordered_sum((self.means - self.mean).square())
        return (within + between) / self.samples

    @property
    def scores(self) -> dict[str, Tensor]:
        """The predictive variance."""
        return {"variance": self.variance}

    def log_prob(self, y: Tensor) -> Tensor:
        """log (1/M) Σ_m N(y | mean_m, sd_m²), (R, N), nats."""
        return _mixture_log_prob(self.means, self.sds, y)

    def group_log_prob(self, y: Tensor) -> Tensor:
        """The same for each group of samples, (G, R, N)."""
        groups = min(self.samples, MAX_GROUPS)
        return torch.stack([_mixture_log_prob(self.means[g::groups], self.sds[g::groups], y) for g in range(groups)])

    def arrays(self) -> dict[str, Tensor]:
        """Predictive mean and standard deviation, original units."""
        return {"mean": self.mean, "sd": self.variance.sqrt()}

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Of y·y_sd + y_mean (both (R,)): densities carry the Jacobian 1/y_sd."""
        return type(self)(self.means * y_sd[:, None] + y_mean[:, None], self.sds * y_sd[:, None], self.facts)

    def mix(self, members: int) -> Self:
        """All components of all members."""
        means, sds = (
            t.unflatten(1, (-1, members)).transpose(1, 2).flatten(0, 1) for t in (self.means, self.sds)
        )  # (M, R·K, N) -> (M·K, R, N)
        return type(self)(means, sds)

    def join(self, later: Sequence[Self]) -> Self:
        """Along N."""
        blocks = [self, *later]
        means, sds = torch.cat([b.means for b in blocks], 2), torch.cat([b.sds for b in blocks], 2)
        return type(self)(means, sds, join_facts([b.facts for b in blocks]))


class HasLogits(Protocol):
    """An output with class logits."""

    @property
    def logits(self) -> Tensor:
        """([m,] R, B, C)."""
        ...


class HasMoments(Protocol):
    """An output with a Gaussian's moments."""

    @property
    def mean(self) -> Tensor:
        """([m,] R, B)."""
        ...

    @property
    def sd(self) -> Tensor:
        """Broadcasts to the shape of `mean`."""
        ...


class CategoricalSum:
    """Accumulates class probabilities, sample by sample, into `Categorical`."""

    def __init__(self, samples: int) -> None:
        self.samples, self.added = samples, 0
        self.groups: list[Tensor] = []
        self.entropy: Tensor | None = None

    def add(self, output: HasLogits) -> None:
        """output.logits: ([m,] R, B, C), the next m samples in order, or the only one."""
        logits = output.logits if output.logits.ndim == 4 else output.logits.unsqueeze(0)
        # Both softmaxes go row by row: exp() of the log would round the tail of its memory differently.
        log_probs, probs = logits.float().log_softmax(-1), logits.float().softmax(-1)
        entropy = -(probs * log_probs).sum(-1)
        for p, h in zip(probs, entropy, strict=True):
            self.add_probs(p, h)

    def add_probs(self, probs: Tensor, entropy: Tensor) -> None:
        """The next sample as class probabilities (R, B, C) and their entropy (R, B) in nats."""
        groups = min(self.samples, MAX_GROUPS)
        if self.added < groups:
            self.groups.append(probs.clone())
        else:
            self.groups[self.added % groups] += probs
        self.entropy = entropy.clone() if self.entropy is None else self.entropy + entropy
        self.added += 1

    def finish(self) -> Categorical:
        """The predictive of the samples added, whose number must be `samples`."""
        if self.added != self.samples or self.entropy is None:
            raise ValueError(f"{self.added} samples were added, {self.samples} promised")
        sizes = group_sizes(self.samples, len(self.groups))
        total = ordered_sum(self.groups) / self.samples
        group_probs = torch.stack([p / n for p, n in zip(self.groups, sizes, strict=True)])
        return Categorical(self.samples, total, group_probs, self.entropy / self.samples)


class GaussianStack:
    """Keeps each sample's Gaussian: a mixture's density at an unseen y needs all of them."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.means: list[Tensor] = []
        self.sds: list[Tensor] = []

    def add(self, output: HasMoments) -> None:
        """output.mean, output.sd: ([m,] R, B), the next m samples in order, or the only one."""
        mean, sd = output.mean, output.sd.expand_as(output.mean)
        self.means.append(mean if mean.ndim == 3 else mean.unsqueeze(0))
        self.sds.append(sd if mean.ndim == 3 else sd.unsqueeze(0))

    def finish(self) -> GaussianMixture:
        """The mixture of the samples added."""
        return GaussianMixture(torch.cat(self.means), torch.cat(self.sds))


def join_facts(facts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Facts by example (R, N) follow each other along N; facts by replicate (R,) are the same in every block."""
    return {
        name: torch.cat([f[name] for f in facts], 1) if value.ndim > 1 else value for name, value in facts[0].items()
    }


def group_sizes(samples: int, groups: int) -> list[int]:
    """How many of M samples each group has: sample i belongs to group i mod G."""
    return [len(range(g, samples, groups)) for g in range(groups)]


def _log_at(probs: Tensor, y: Tensor) -> Tensor:
    picked = probs.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return picked.clamp_min(torch.finfo(probs.dtype).tiny).log()


def _mixture_log_prob(means: Tensor, sds: Tensor, y: Tensor) -> Tensor:
    log_density = -0.5 * ((y - means) / sds).square() - sds.log() - 0.5 * math.log(2 * math.pi)
    top = log_density.amax(0)
    return top + ordered_sum((log_density - top).exp()).log() - math.log(len(means))


def ordered_sum(terms: Iterable[Tensor]) -> Tensor:
    """Sum over the leading axis, one term after another: a reduction there rounds by a column's place in memory."""
    return reduce(torch.add, terms)
