"""The functions that a posterior over classifiers draws: what each of them makes of all inputs.

A likelihood of several targets at once is a mean over functions of products over targets, so probabilities cannot be
averaged first. Here one network is drawn for all inputs (`joint=True`), and the samples are kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from bdlbench.core.layout import Leaf
from bdlbench.core.streams import Streams
from bdlbench.networks.likelihoods import CategoricalOutput
from bdlbench.posteriors.ensemble import with_model
from bdlbench.protocols import Layer, Model, Posterior


def function_log_probs(posterior: Posterior, x: Tensor, functions: int, rng: Streams) -> Tensor | None:
    """Return how probable each drawn function makes each class.

    Args:
        posterior: The posterior of a classifier.
        x: Inputs (R, N, *S).
        functions: M, how many are drawn; a point has one, an ensemble at least one for each member.
        rng: Streams (R,) of prediction noise.

    Returns:
        Nats, (M, R, N, C) float32; None where the posterior is no network with a layer rule and class logits.
    """
    telling = with_model(posterior, _Model)
    if telling is None:
        return None
    try:
        found: Any = telling.predict(x, functions, rng, joint=True)
    except NoClassLogits:
        return None
    log_probs: Tensor = found.log_probs
    return log_probs


class NoClassLogits(Exception):
    """A network that returns no class logits."""


class _Model:
    """A model whose samples stay apart."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def leaves(self) -> dict[str, Leaf]:
        return self._model.leaves()

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Any:
        output = self._model(layer, x, rng)
        if not isinstance(output, CategoricalOutput):
            raise NoClassLogits
        return _Output(output.logits if output.logits.ndim == 4 else output.logits.unsqueeze(0))


@dataclass(frozen=True)
class _Output:
    logits: Tensor  # (m, R, B, C)

    def accumulator(self, samples: int) -> _Stack:
        return _Stack()


class _Stack:
    def __init__(self) -> None:
        self._log_probs: list[Tensor] = []

    def add(self, output: _Output) -> None:
        self._log_probs.append(output.logits.double().log_softmax(-1).float())

    def finish(self) -> _Functions:
        return _Functions(torch.cat(self._log_probs))


@dataclass(frozen=True)
class _Functions:
    log_probs: Tensor  # (M, R, N, C) float32
    facts: Mapping[str, Tensor] = field(default_factory=dict)  # what a posterior adds of itself; nobody reads it

    def mix(self, members: int) -> Self:
        """Collect the functions of all members: (M, R·K, N, C) -> (M·K, R, N, C)."""
        return type(self)(self.log_probs.unflatten(1, (-1, members)).transpose(1, 2).flatten(0, 1))

    def join(self, later: Sequence[Self]) -> Self:
        return type(self)(torch.cat([self.log_probs, *(block.log_probs for block in later)], 2))
