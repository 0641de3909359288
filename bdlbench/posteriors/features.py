"""The features of a classifier, and the out-of-distribution scores that are made of them after training.

The features are what enters the last linear map, of a model written against a layer rule and of a module alike. A
posterior is given the same model, which also says what it saw: predictions keep their bits, and no forward is made for
features of the test inputs. Scores of logits are computed for each posterior sample and averaged, since each network
has an energy of its own. Features are averaged over the samples of one fit, which share their hidden units, and scored
once; those of the members of an ensemble do not, so each member is scored by its own training features, and the scores
are averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from bdlbench.core.layout import Leaf, LinearOp
from bdlbench.core.streams import Streams
from bdlbench.networks.layers import NoRows
from bdlbench.networks.likelihoods import CategoricalOutput
from bdlbench.posteriors.ensemble import with_model
from bdlbench.posteriors.scaled import ScaledPosterior
from bdlbench.predictives.mixtures import Categorical, Predictive, join_facts
from bdlbench.protocols import Accumulator, Layer, Model, Output, Posterior
from bdlbench.stats import ood_scores
from bdlbench.stats.rows import each_row


def watched(posterior: Posterior, weights: bool = False) -> Posterior | None:
    """Return the posterior whose predictions are `WatchedPredictive`, with features and scores of logits beside them.

    Args:
        posterior: The posterior of a classifier.
        weights: Whether the weights of the last layer are told too. A rule may draw numbers to tell them, so these
            predictions have other bits.

    Returns:
        The posterior, or None where it is no network with a layer rule, such as a closed form.
    """
    if isinstance(posterior, ScaledPosterior):
        inner = watched(posterior.posterior, weights)
        return None if inner is None else replace(posterior, posterior=inner)
    return with_model(posterior, lambda model: _Watched(model, weights))


def scored(
    asked: Sequence[str], train: WatchedPredictive, y: Tensor, sets: Sequence[WatchedPredictive]
) -> list[Categorical]:
    """Return the predictive of each set with the scores that are asked for.

    Args:
        asked: Names of `ood_scores.AFTER_TRAINING`.
        train: What was seen of the training rows, with the weights of the last layer; K·R rows for K members.
        y: Their classes, (R, N).
        sets: What was seen of each set.

    Returns:
        The predictives, in the same order.
    """
    members = len(train.features) // len(y)
    classes = y.repeat_interleave(members, 0)
    kernels: dict[str, Callable[[WatchedPredictive], Tensor]] = {
        "energy": lambda seen: seen.energy,
        "max_logit": lambda seen: seen.max_logit,
        "mahalanobis": lambda seen: each_row(ood_scores.mahalanobis, train.features, classes, seen.features),
        "knn": lambda seen: each_row(ood_scores.nearest_neighbours, train.features, seen.features),
        "vim": lambda seen: each_row(
            ood_scores.virtual_logit, train.features, -train.max_logit, *train.last, seen.features, seen.energy
        ),
    }
    found: list[Categorical] = []
    for seen in sets:
        scores = {
            score: torch.stack([row.mean(0) for row in kernels[score](seen).unflatten(0, (-1, members))])
            for score in asked
        }
        facts = {**seen.predictive.facts, **seen.facts}
        found.append(replace(seen.predictive, own_scores=scores, facts=facts))
    return found


@dataclass(frozen=True)
class WatchedPredictive:
    """Class probabilities, with what entered the last linear map. Rows are those of members: K·R for K members.

    Attributes:
        predictive: The class probabilities of R replicates.
        features: Means over samples, (K·R, N, F).
        energy: Means over samples of the free energy in nats, (K·R, N) float64.
        max_logit: The same of the negative largest logit.
        facts: What a posterior added of itself, (R,) or (R, N).
        last: Means over samples of weights (K·R, C, F) and biases (K·R, C) of the last layer; () where not asked for.
    """

    predictive: Any
    features: Tensor
    energy: Tensor
    max_logit: Tensor
    last: tuple[Tensor, ...] = ()
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """M, as of the class probabilities."""
        return int(self.predictive.samples)

    @property
    def log_probs(self) -> Tensor:
        """Log of the mean class probabilities, (R, N, C), as of the class probabilities."""
        log_probs: Tensor = self.predictive.log_probs
        return log_probs

    def tempered(self, temperature: Tensor) -> Self:
        """Scale the class probabilities; features, and the scores of logits, are those of the network."""
        return replace(self, predictive=self.predictive.tempered(temperature))

    def in_units(self, y_mean: Tensor, y_sd: Tensor) -> Self:
        """Return itself: classes have no scale."""
        return self

    def mix(self, members: int) -> Self:
        """Average probabilities over members; what was seen of each member stays."""
        return replace(self, predictive=self.predictive.mix(members))

    def join(self, later: Sequence[Self]) -> Self:
        """Append what was seen of later examples, along N."""
        blocks = [self, *later]
        return replace(
            self,
            predictive=self.predictive.join([block.predictive for block in later]),
            features=torch.cat([block.features for block in blocks], 1),
            energy=torch.cat([block.energy for block in blocks], 1),
            max_logit=torch.cat([block.max_logit for block in blocks], 1),
            facts=join_facts([block.facts for block in blocks]),
        )


class NoFeatures(Exception):
    """A network whose last linear map has no features of each example, or that returns no class logits."""


class _Watched:
    """A model that says what entered its last linear map."""

    def __init__(self, model: Model, weights: bool) -> None:
        self._model, self._weights = model, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def leaves(self) -> dict[str, Leaf]:
        return self._model.leaves()

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Any:
        rule = _Rule(layer)
        try:
            output = self._model(rule, x, rng)
        except NoRows:  # rows one after the other have a last map each
            raise NoFeatures from None
        if rule.last is None or not isinstance(output, CategoricalOutput):  # several exits have no one last layer
            raise NoFeatures
        name, features, bias = rule.last
        logits = output.logits
        if features.shape[-3:-1] != logits.shape[-3:-1]:
            raise NoFeatures
        last: tuple[Tensor, ...] = ()
        if self._weights:
            weight = layer.leaf(name)
            last = (weight, layer.leaf(bias) if bias else weight.new_zeros(weight.shape[:-1]))
        return _Output(output, logits, features, last)


class _Rule:
    """A layer rule that remembers its last dense map: for whoever asks, it is of the class of the rule."""

    def __init__(self, rule: Layer) -> None:
        self._rule = rule
        self.last: tuple[str, Tensor, str] | None = None

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # models of modules ask which rule acts
        return type(self._rule)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        self.last = (name, x, bias) if op.trailing == 2 else None
        return self._rule(name, op, x, bias)

    def leaf(self, name: str) -> Tensor:
        return self._rule.leaf(name)

    def around(self, rule: Layer) -> Layer:
        """Watch another rule instead."""
        self._rule = rule
        return self


@dataclass(frozen=True)
class _Output:
    """An output with the logits ([M,] R, B, C) and what made them: features ([M,] R, B, F), and the last layer."""

    output: Output
    logits: Tensor
    features: Tensor
    last: tuple[Tensor, ...]

    def accumulator(self, samples: int) -> _Sum:
        return _Sum(self.output.accumulator(samples))


class _Sum:
    """Accumulates outputs in order, one sample at a time, so that the sums do not depend on how these are chunked."""

    def __init__(self, inner: Accumulator) -> None:
        self._inner, self._added, self._sums = inner, 0, list[Tensor]()

    def add(self, seen: _Output) -> None:
        self._inner.add(seen.output)
        logits = seen.logits if seen.logits.ndim == 4 else seen.logits.unsqueeze(0)
        parts = [seen.features.double(), ood_scores.energy(logits), ood_scores.max_logit(logits)]
        parts += [part.double() for part in seen.last]
        axes = (4, 3, 3, 4, 3)
        wide = [part if part.ndim == many else part.unsqueeze(0) for part, many in zip(parts, axes, strict=False)]
        for sample in range(len(logits)):
            now = [part[sample if len(part) > 1 else 0] for part in wide]
            self._sums = [a + b for a, b in zip(self._sums, now, strict=True)] if self._sums else now
        self._added += len(logits)

    def finish(self) -> WatchedPredictive:
        features, energies, largest, *last = (part / self._added for part in self._sums)
        predictive: Predictive = self._inner.finish()
        return WatchedPredictive(predictive, features.float(), energies, largest, tuple(last))
