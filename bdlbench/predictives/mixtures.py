"""What a posterior predicts, reduced over its M samples as they arrive. The only place that averages over M.

PROBABILITIES are averaged, never logits. What is stored are their logarithms, added by log(exp a + exp b), because
float32 cannot hold a probability below 1e-38. Sample i belongs to group i mod G, G = min(M, 10); the group means are
stored so that the Monte-Carlo variance of any metric can be estimated. Samples are added one at a time and in order, so
the result does not depend on how they were chunked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from bdlbench.predictives.proper_scores import mixture_crps

MAX_GROUPS = 10
"""The most groups of samples."""

COMPONENTS_AT_ONCE = 1 << 20
"""Numbers of a mixture's components that are held in float64 at once, 8 MiB."""


class Predicted(Protocol):
    """What a metric may read of the predictions of R replicates on N inputs. A stored record can answer it too."""

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
        """Out-of-distribution scores by name, (R, N) each, higher = more out of distribution."""
        ...

    def log_prob(self, y: Tensor) -> Tensor:
        """Return the log predictive density or probability of targets y.

        Args:
            y: Targets (R, N), in original units.

        Returns:
            Nats, (R, N).
        """
        ...

    def group_log_prob(self, y: Tensor) -> Tensor:
        """Return the log predictive density or probability of targets y by each group of samples alone.

        Args:
            y: Targets (R, N), in original units.

        Returns:
            Nats, (G, R, N).
        """
        ...

    def arrays(self) -> dict[str, Tensor]:
        """Return the arrays that describe the predictive: {name: (R, N, …)}.

        All are stored per example in float32, except `probs`: of classes it is exp(`log_probs`), computed again when a
        record is read.
        """
        ...


@runtime_checkable
class OfNumbers(Protocol):
    """A predictive of a real target that tells its distribution, and a record of one that has kept what it told."""

    def cdf(self, y: Tensor) -> Tensor | None:
        """Return P(target ≤ y | x) of y (R, N) in original units: (R, N) float64; None where it is not known."""
        ...

    def crps(self, y: Tensor) -> Tensor | None:
        """Return the continuous ranked probability score of y (R, N), in its units: (R, N) float64; None as above."""
        ...


class Predictive(Predicted, Protocol):
    """The posterior predictive of R replicates on N inputs."""

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Return the predictive on the scale of y·y_sd + y_mean. Classes have no scale.

        Args:
            y_mean: Shifts (R,).
            y_sd: Factors (R,).

        Returns:
            The predictive in original units.
        """
        ...

    def mix(self, members: int) -> Self:
        """Merge each `members` consecutive rows into one equal mixture: (R·members, …) -> (R, …).

        Args:
            members: K, the members of one ensemble.

        Returns:
            The mixture of R replicates.
        """
        ...

    def join(self, later: Sequence[Self]) -> Self:
        """Append the predictives of later examples, along N.

        Args:
            later: Predictives of the same replicates on later examples.

        Returns:
            The predictive of all examples.
        """
        ...


@runtime_checkable
class OfClasses(Protocol):
    """A predictive of classes, which can be made more or less sure."""

    @property
    def log_probs(self) -> Tensor:
        """Log of the mean class probabilities in nats, (R, N, C) float64."""
        ...

    def tempered(self, temperature: Tensor) -> Predictive:
        """Return the predictive whose class probabilities are softmax(log p / T), groups of samples alike.

        What is told of the samples, such as the mutual information, stays.

        Args:
            temperature: T of each row, (R,).

        Returns:
            The predictive.
        """
        ...


@dataclass(frozen=True)
class Categorical:
    """Mean class probabilities of M samples.

    Attributes:
        samples: M.
        log_probs: Log of the mean probabilities of all samples in nats, (R, N, C) float64.
        group_log_probs: The same for each group of samples, (G, R, N, C) float32.
        expected_entropy: Mean entropy of the samples in nats, (R, N) float64.
        facts: What the method knows of itself, (R,) or (R, N).
        own_scores: Out-of-distribution scores (R, N) that came with predictions made elsewhere; a mixture has none.
        dtype: The type in which probabilities are stored and scored.
    """

    samples: int
    log_probs: Tensor
    group_log_probs: Tensor
    expected_entropy: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    own_scores: Mapping[str, Tensor] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32

    @property
    def probs(self) -> Tensor:
        """Mean class probabilities, (R, N, C) in `dtype`, as they are stored."""
        return by_vectors(torch.exp, self.log_probs.to(self.dtype))

    @property
    def entropy(self) -> Tensor:
        """H[E_θ p(y | x, θ)] in nats, (R, N) float64."""
        return entropy(self.log_probs)

    @property
    def scores(self) -> dict[str, Tensor]:
        """Predictive entropy; mutual information H[E p] − E H[p]; log(1 − the largest probability); own scores.

        In nats and float64, because examples near certainty differ by less than float32 can resolve.
        """
        entropy = self.entropy
        return {
            **self.own_scores,
            "entropy": entropy,
            "mutual_information": (entropy - self.expected_entropy).clamp_min(0.0),
            "max_probability": log_others(self.log_probs),
        }

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log p(y | x) in nats, (R, N), of classes y (R, N) int64, from stored values and thus in `dtype`."""
        return log_at(self.log_probs.to(self.dtype), y)

    def group_log_prob(self, y: Tensor) -> Tensor:
        """Return log p(y | x) in nats by each group of samples alone, (G, R, N)."""
        return log_at(self.group_log_probs, y.expand(len(self.group_log_probs), *y.shape))

    @property
    def running_class(self) -> Tensor:
        """The most probable class by the samples of the first g groups together, for g = 1 … G: (R, N, G) int64."""
        sizes = group_sizes(self.samples, len(self.group_log_probs))
        weighted = (log + math.log(n) for log, n in zip(self.group_log_probs, sizes, strict=True))
        return torch.stack([total.argmax(-1) for total in itertools.accumulate(weighted, torch.logaddexp)], -1)

    def arrays(self) -> dict[str, Tensor]:
        """Return the mean class probabilities, and `running_class` where there are several groups."""
        found = with_probs({"log_probs": self.log_probs.to(self.dtype)})
        return found | ({"running_class": self.running_class} if len(self.group_log_probs) > 1 else {})

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Return itself: classes have no scale."""
        return self

    def tempered(self, temperature: Tensor) -> Self:
        """Return softmax(log p / T) of the mean and of each group's mean; the mutual information stays what it is."""
        by_row = temperature.double().reshape(-1, 1, 1)  # (R, 1, 1)
        log_probs, entropies = normalised(self.log_probs / by_row)
        groups, _ = normalised(self.group_log_probs.double() / by_row)
        of_samples = entropies - (self.entropy - self.expected_entropy)
        return replace(self, log_probs=log_probs, group_log_probs=groups.float(), expected_entropy=of_samples)

    def mix(self, members: int) -> Self:
        """Average probabilities over members; each member counts as one group of samples, however many it has."""
        if members == 1:
            return self
        logs = self.log_probs.unflatten(0, (-1, members)).transpose(0, 1)  # (K, R, N, C)
        entropy = ordered_sum(self.expected_entropy.unflatten(0, (-1, members)).transpose(0, 1)) / members
        return type(self)(self.samples * members, log_mean(logs), logs.float(), entropy)

    def join(self, later: Sequence[Self]) -> Self:
        """Append the predictives of later examples, along N."""
        blocks = [self, *later]
        return type(self)(
            self.samples,
            torch.cat([b.log_probs for b in blocks], 1),
            torch.cat([b.group_log_probs for b in blocks], 2),
            torch.cat([b.expected_entropy for b in blocks], 1),
            join_facts([b.facts for b in blocks]),
            join_facts([b.own_scores for b in blocks]),
        )


@dataclass(frozen=True)
class GaussianMixture:
    """An equal mixture of M Gaussians for each example.

    With M = 10,000 a second copy of the means does not fit beside the first one. They are kept once, as the network
    made them, joined without a copy, and brought to original units some samples at a time. Everything is computed in
    float64: where a mean is 1e6 standard deviations from 0, float32 rounds it by 0.03 of one.

    Attributes:
        means: (M, R, N) of the first examples.
        sds: Standard deviations (M, R, N), of the same.
        facts: What the method knows of itself, (R,) or (R, N).
        y_mean: Original units are means · y_sd + y_mean: (R,) float64. None where means are in them already.
        y_sd: (R,) float64, or None.
        later: The mixtures of later examples, which follow along N.
    """

    means: Tensor
    sds: Tensor
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    y_mean: Tensor | None = None
    y_sd: Tensor | None = None
    later: tuple[GaussianMixture, ...] = ()

    @property
    def samples(self) -> int:
        """M."""
        return self.means.shape[0]

    @property
    def mean(self) -> Tensor:
        """E[y | x], (R, N)."""
        return self._of_parts(lambda part: _sum_of_samples(means for means, _ in part._chunks()) / part.samples)

    @property
    def variance(self) -> Tensor:
        """V[y | x] = E sd² + V mean (law of total variance), (R, N)."""

        def of_part(part: GaussianMixture) -> Tensor:
            mean = _sum_of_samples(means for means, _ in part._chunks()) / part.samples
            within = _sum_of_samples(sds.square() for _, sds in part._chunks())
            between = _sum_of_samples((means - mean).square() for means, _ in part._chunks())
            return (within + between) / part.samples

        return self._of_parts(of_part)

    @property
    def scores(self) -> dict[str, Tensor]:
        """The predictive variance."""
        return {"variance": self.variance}

    def log_prob(self, y: Tensor) -> Tensor:
        """Return log (1/M) Σ_m N(y | mean_m, sd_m²) in nats, (R, N)."""
        return self._of_parts(lambda part, own: part._log_prob(own, slice(None)), y)

    def group_log_prob(self, y: Tensor) -> Tensor:
        """Return the log-density of y by each group of samples in nats, (G, R, N)."""
        groups = min(self.samples, MAX_GROUPS)
        every = [slice(g, None, groups) for g in range(groups)]
        return self._of_parts(lambda part, own: torch.stack([part._log_prob(own, group) for group in every]), y)

    def cdf(self, y: Tensor) -> Tensor:
        """Return P(target ≤ y | x) = (1/M) Σ_m Φ((y − mean_m) / sd_m), (R, N)."""

        def of_part(part: GaussianMixture, y: Tensor) -> Tensor:
            below = (torch.special.ndtr((y.double() - means) / sds) for means, sds in part._chunks())
            return _sum_of_samples(below) / part.samples

        return self._of_parts(of_part, y)

    def crps(self, y: Tensor) -> Tensor:
        """Return the continuous ranked probability score of y, (R, N) in its units (`predictives.proper_scores`)."""

        def of_part(part: GaussianMixture, y: Tensor) -> Tensor:
            rows = [part._row(r) for r in range(len(y))]
            return torch.stack([mixture_crps(*row._whole(), own.double()) for row, own in zip(rows, y, strict=True)])

        return self._of_parts(of_part, y)

    def components(self) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations of all examples in original units, (M, R, N) float64 each."""
        every: list[GaussianMixture] = [self, *self.later]
        means, sds = zip(*(part._whole() for part in every), strict=True)
        return torch.cat(means, -1), torch.cat(sds, -1)

    def arrays(self) -> dict[str, Tensor]:
        """Return predictive mean and standard deviation, in original units."""
        return {"mean": self.mean, "sd": self.variance.sqrt()}

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Return the mixture of y·y_sd + y_mean, y_mean and y_sd (R,). Densities carry the Jacobian 1/y_sd."""
        shift, scale = y_mean.double(), y_sd.double()
        if self.y_mean is not None and self.y_sd is not None:
            shift, scale = self.y_mean * scale + shift, self.y_sd * scale
        later = tuple(part.in_units(y_mean, y_sd) for part in self.later)
        return replace(self, y_mean=shift, y_sd=scale, later=later)

    def mix(self, members: int) -> Self:
        """Collect all components of all members."""
        if members == 1:
            return self
        y_mean, y_sd = (None if value is None else value[::members] for value in (self.y_mean, self.y_sd))
        means, sds = (
            t.unflatten(1, (-1, members)).transpose(1, 2).flatten(0, 1)
            for t in (self.means, self.sds.expand_as(self.means))
        )  # (M, R·K, N) -> (M·K, R, N)
        return type(self)(means, sds, {}, y_mean, y_sd, tuple(part.mix(members) for part in self.later))

    def join(self, later: Sequence[Self]) -> Self:
        """Append the predictives of later examples, along N, without a copy."""
        parts: list[GaussianMixture] = [self, *later]
        flat = [one for part in parts for one in (replace(part, later=()), *part.later)]
        return replace(self, facts=join_facts([part.facts for part in parts]), later=tuple(flat[1:]))

    def _of_parts(self, tell: Callable[..., Tensor], *of_examples: Tensor) -> Tensor:
        """Join along N what `tell(part, *its part of each tensor (…, N))` returns of each part."""
        parts: list[GaussianMixture] = [self, *self.later]
        split = [tensor.split([part.means.shape[-1] for part in parts], -1) for tensor in of_examples]
        return torch.cat([tell(part, *(column[i] for column in split)) for i, part in enumerate(parts)], -1)

    def _chunks(self, group: slice = slice(None)) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield means and sds of this part, (m, R, N) float64 in original units, some samples at a time, in order."""
        means, sds = self.means[group], self.sds.expand_as(self.means)[group]
        size = max(1, COMPONENTS_AT_ONCE // max(1, means[0].numel()))
        for some, their_sds in zip(means.split(size), sds.split(size), strict=True):
            if self.y_mean is None or self.y_sd is None:
                yield some.double(), their_sds.double()
            else:
                yield some * self.y_sd[:, None] + self.y_mean[:, None], their_sds * self.y_sd[:, None]

    def _log_prob(self, y: Tensor, group: slice) -> Tensor:
        """Return the log-density of this part by some of its samples: over the largest term, so that none overflows."""
        density = (normal_log_prob(means, sds, y) for means, sds in self._chunks(group))
        top = reduce(torch.maximum, (chunk.amax(0) for chunk in density))
        density = (normal_log_prob(means, sds, y) for means, sds in self._chunks(group))
        total = _sum_of_samples((chunk - top).exp() for chunk in density)
        return top + total.log() - math.log(len(self.means[group]))

    def _row(self, r: int) -> GaussianMixture:
        """Return this part of replicate r alone."""
        y_mean, y_sd = (None if value is None else value[r : r + 1] for value in (self.y_mean, self.y_sd))
        means, sds = (t[:, r : r + 1] for t in (self.means, self.sds.expand_as(self.means)))
        return GaussianMixture(means, sds, {}, y_mean, y_sd)

    def _whole(self) -> tuple[Tensor, Tensor]:
        """Return means and sds of this part in original units, (M, R, N) float64 each."""
        means, sds = zip(*self._chunks(), strict=True)
        return torch.cat(means), torch.cat(sds)


class HasLogits(Protocol):
    """An output with class logits."""

    @property
    def logits(self) -> Tensor:
        """Class logits ([m,] R, B, C)."""
        ...


class HasMoments(Protocol):
    """An output with the moments of a Gaussian."""

    @property
    def mean(self) -> Tensor:
        """([m,] R, B)."""
        ...

    @property
    def sd(self) -> Tensor:
        """Standard deviation; broadcasts to the shape of `mean`."""
        ...


class CategoricalSum:
    """Accumulates class probabilities, sample by sample, into a `Categorical`, in float64."""

    def __init__(self, samples: int) -> None:
        self.samples, self.added = samples, 0
        self.groups: list[Tensor] = []
        self.entropy: Tensor | None = None

    def add(self, output: HasLogits) -> None:
        """Add the next m samples in order, or the only one.

        Args:
            output: Has `logits` ([m,] R, B, C).
        """
        logits = output.logits if output.logits.ndim == 4 else output.logits.unsqueeze(0)
        for log_probs, entropies in zip(*normalised(logits.double()), strict=True):
            self.add_log_probs(log_probs, entropies)

    def add_log_probs(self, log_probs: Tensor, entropies: Tensor) -> None:
        """Add the next sample.

        Args:
            log_probs: Log class probabilities in nats, (R, B, C) float64.
            entropies: Their entropies in nats, (R, B) float64.
        """
        groups = min(self.samples, MAX_GROUPS)
        if self.added < groups:
            self.groups.append(log_probs)
        else:
            g = self.added % groups
            self.groups[g] = by_vectors(torch.logaddexp, self.groups[g], log_probs)
        self.entropy = entropies if self.entropy is None else self.entropy + entropies
        self.added += 1

    def finish(self) -> Categorical:
        """Return the predictive of the samples added.

        Returns:
            Mean class probabilities.

        Raises:
            ValueError: The number of samples added is not `samples`.
        """
        if self.added != self.samples or self.entropy is None:
            fewer = "; a posterior that is one point is `point_posterior`, or says deterministic=True"
            words = f"{self.added} samples were added, {self.samples} promised"
            raise ValueError(words + fewer * (self.added < self.samples))
        sizes = group_sizes(self.samples, len(self.groups))
        total = log_mean(self.groups) + math.log(len(self.groups) / self.samples)
        groups = torch.stack([(log - math.log(n)).float() for log, n in zip(self.groups, sizes, strict=True)])
        return Categorical(self.samples, total, groups, self.entropy / self.samples)


class GaussianStack:
    """Keeps each sample's Gaussian: the density of a mixture at an unseen y needs all of them.

    In one piece from the start: 10,000 small tensors among those of the network leave a heap of ten times their size.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.added = 0
        self.means: Tensor | None = None  # (M, R, B)
        self.sds: Tensor | None = None  # (M, R, B), with 1 for R or B where all have the same

    def add(self, output: HasMoments) -> None:
        """Add the next m samples in order, or the only one: output.mean ([m,] R, B), output.sd, which broadcasts."""
        mean = output.mean if output.mean.ndim == 3 else output.mean.unsqueeze(0)
        sd = output.sd if output.sd.ndim == output.mean.ndim else output.sd.expand(len(mean), *output.sd.shape)
        sd = sd if sd.ndim == 3 else sd.unsqueeze(0)
        if self.means is None or self.sds is None:
            self.means = mean.new_empty(self.samples, *mean.shape[1:])
            self.sds = sd.new_empty(self.samples, *sd.shape[1:])
        self.means[self.added : self.added + len(mean)] = mean
        self.sds[self.added : self.added + len(mean)] = sd
        self.added += len(mean)

    def finish(self) -> GaussianMixture:
        """Return the mixture of the samples added, whose number must be `samples`."""
        if self.added != self.samples or self.means is None or self.sds is None:
            raise ValueError(f"{self.added} samples were added, {self.samples} promised")
        return GaussianMixture(self.means, self.sds.expand_as(self.means))


def join_facts(facts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join facts of blocks: those by example (R, N) along N; those by replicate (R,) are the same in every block."""
    return {
        name: torch.cat([f[name] for f in facts], 1) if value.ndim > 1 else value for name, value in facts[0].items()
    }


def group_sizes(samples: int, groups: int) -> list[int]:
    """Return how many of M samples each group has: sample i belongs to group i mod G."""
    return [len(range(g, samples, groups)) for g in range(groups)]


def log_at(log_probs: Tensor, y: Tensor) -> Tensor:
    """Return the log-probability of class y in nats, (…), from log_probs (…, C) and y (…) int64.

    A probability of exactly 0 counts as the smallest normal float32, 1.2e-38: rounding has lost it.
    """
    found = log_probs.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return found.masked_fill(found == -math.inf, math.log(torch.finfo(torch.float32).tiny))


def with_probs(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the arrays, and for each named `[….]log_probs` its exponential, named `[….]probs`."""
    logs = {name: value for name, value in arrays.items() if name.rpartition(".")[2] == "log_probs"}
    return {
        **arrays,
        **{name.removesuffix("log_probs") + "probs": by_vectors(torch.exp, value) for name, value in logs.items()},
    }


def without_probs(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `with_probs`: leave out the arrays that it adds."""
    derived = [name.removesuffix("log_probs") + "probs" for name in arrays if name.rpartition(".")[2] == "log_probs"]
    return {name: value for name, value in arrays.items() if name not in derived}


def by_vectors(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Apply an elementwise function to tensors of one shape, in whole vectors.

    Torch rounds the last elements of a tensor, which do not fill a vector, by other code than whole vectors. The last
    bit of an element would then depend on how many elements there are, and that of a row on the other rows. Here
    padding makes all vectors whole.
    """
    shape, count = tensors[0].shape, tensors[0].numel()
    padded = [torch.nn.functional.pad(x.reshape(-1), (0, -count % VECTOR_ELEMENTS)) for x in tensors]
    return function(*padded)[:count].view(shape)


def log_mean(log_terms: Iterable[Tensor]) -> Tensor:
    """Return log (1/M) Σ_m exp over M terms of one shape (or a leading axis), added one after another."""
    terms = list(log_terms)
    return reduce(partial(by_vectors, torch.logaddexp), terms) - math.log(len(terms))


def log_sum(log_terms: Tensor) -> Tensor:
    """Return log Σ exp over the last axis: (…, C) -> (…); −∞ where all terms are."""
    top = log_terms.amax(-1, keepdim=True).clamp_min(torch.finfo(log_terms.dtype).min)
    total = by_vectors(torch.exp, log_terms - top).sum(-1)
    return by_vectors(torch.log, total) + top.squeeze(-1)


VECTOR_ELEMENTS = 64
"""A number of elements that the vector length of every processor divides, unrolled or not."""

# Where a network is sure, 1 − p is far below one rounding error of p, yet only 1 − p tells its examples apart. So the
# largest probability is never subtracted from one; the probabilities of the other classes are added up.


def normalised(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log softmax(logits) (…, C) and its entropy (…), in nats, of logits (…, C).

    With gaps g = logits − max ≤ 0 and r = Σ exp(g) over all classes except the first largest: log p = g − log(1 + r)
    and H = log(1 + r) − Σ exp(g) g / (1 + r).
    """
    top, first = logits.max(-1, keepdim=True)
    gaps = logits - top
    weights = by_vectors(torch.exp, gaps)
    rest = weights.scatter(-1, first, 0.0).sum(-1)
    log_total = by_vectors(torch.log1p, rest)
    spread = by_vectors(torch.special.entr, weights).sum(-1)
    return gaps - log_total.unsqueeze(-1), log_total + spread / (1 + rest)


def log_others(log_probs: Tensor) -> Tensor:
    """Return log(1 − the largest probability) in nats, as the sum of all other probabilities: (…, C) -> (…)."""
    first = log_probs.argmax(-1, keepdim=True)
    return log_sum(log_probs.scatter(-1, first, -math.inf))


def entropy(log_probs: Tensor) -> Tensor:
    """Return −Σ_c p_c log p_c in nats: (…, C) -> (…).

    Where the largest p is above ½, its logarithm is computed as log(1 − the sum of the others).
    """
    first = log_probs.argmax(-1, keepdim=True)
    probs = by_vectors(torch.exp, log_probs)
    rest = probs.scatter(-1, first, 0.0).sum(-1)
    log_top = torch.where(rest < 0.5, by_vectors(torch.log1p, -rest), log_probs.gather(-1, first).squeeze(-1))
    others = by_vectors(torch.special.entr, probs).scatter(-1, first, 0.0).sum(-1)
    return others - (1 - rest) * log_top


def normal_log_prob(mean: Tensor, sd: Tensor, y: Tensor) -> Tensor:
    """Return log N(y; mean, sd²) in nats, elementwise and in float64, because y − mean cancels digits."""
    gap = (y.double() - mean.double()) / sd.double()
    return -0.5 * gap.square() - sd.double().log() - 0.5 * math.log(2 * math.pi)


def ordered_sum(terms: Iterable[Tensor]) -> Tensor:
    """Sum over the leading axis, one term after another, so that the bits do not depend on a column's place in memory.

    Args:
        terms: Tensors of one shape, or a tensor with a leading axis.

    Returns:
        Their sum.
    """
    return reduce(torch.add, terms)


def _sum_of_samples(chunks: Iterable[Tensor]) -> Tensor:
    """Sum all samples of all chunks (m, …), one after another."""
    return ordered_sum(sample for chunk in chunks for sample in chunk)
