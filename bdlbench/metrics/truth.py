"""Distances from the process that drew the data, where a data set knows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bdlbench.predictives.mixtures import Predicted, by_vectors, entropy, ordered_sum
from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import row_means


@dataclass(frozen=True)
class TrueKL:
    """KL(true class probabilities ‖ the method's), mean over test inputs: what a method lacks of the oracle's NLL.

    It is the marginal KL of Osband et al. 2022 (τ = 1). They draw one class for each input; here the mean over classes
    is taken as it is, which is the same number with less noise. A probability of 0 counts as in `nll`. Undefined unless
    the data set knows the class probabilities of its test inputs.
    """

    summary: ClassVar[str] = "KL of the predicted class probabilities from the true ones, mean over test inputs"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R, N)}."""
        p, q = _true_log_probs(evaluation), _class_log_probs(evaluation.test)
        if p is None or q is None:
            return {}
        q = q.masked_fill(q == -math.inf, math.log(torch.finfo(torch.float32).tiny))
        terms = torch.where(p > -math.inf, by_vectors(torch.exp, p) * (p - q), 0.0)  # (R, N, C)
        return {"": ordered_sum(terms.unbind(-1))}


@dataclass(frozen=True)
class OracleNLL:
    """−log p(y | x) of the test targets by the process that drew them: the noise, below which no method can be."""

    summary: ClassVar[str] = "negative log-likelihood of the process that drew the test set: the noise"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R, N)}."""
        if evaluation.truth is None:
            return {}
        return {"": 0.0 - evaluation.truth.predicted.log_prob(evaluation.y).double()}


@dataclass(frozen=True)
class OracleEntropy:
    """Mean entropy of the true class probabilities: the NLL that the oracle has on average over targets."""

    summary: ClassVar[str] = "entropy of the true class probabilities, mean over test inputs"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self.by_example(evaluation))

    def by_example(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R, N)}."""
        p = _true_log_probs(evaluation)
        return {} if p is None else {"": entropy(p)}


def _true_log_probs(evaluation: Evaluation) -> Tensor | None:
    """Return the true log p(c | x) of test inputs, (R, N, C) float64; None where the data set does not know them."""
    return None if evaluation.truth is None else _class_log_probs(evaluation.truth.predicted)


def _class_log_probs(predicted: Predicted) -> Tensor | None:
    """Return log p(c | x), (R, N, C) float64; None where it is no predictive of classes."""
    found = predicted.arrays().get("log_probs")
    return None if found is None else found.double()


metrics: dict[str, Metric] = {
    "testbed_kl": TrueKL(),
    "oracle_nll": OracleNLL(),
    "oracle_entropy": OracleEntropy(),
}
