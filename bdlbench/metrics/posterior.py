"""Distances from the exact posterior; they are defined only on conjugate models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bdlbench.kernels.gaussian import gaussian_w2, normal_pair_kl
from bdlbench.predictives.mixtures import Categorical, GaussianMixture, Predicted, ordered_sum
from bdlbench.protocols import Evaluation, Metric
from bdlbench.stats.rows import each_finite_row, each_row

HERMITE_NODES = 40
"""Gauss-Hermite nodes for the KL of a Gaussian from a mixture of Gaussians."""


@dataclass(frozen=True)
class PosteriorKL:
    """KL(q ‖ exact posterior) of the weights. Undefined unless q is Gaussian: points and masks have no density."""

    summary: ClassVar[str] = "KL of the approximate posterior of the weights from the exact one, where q is Gaussian"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        q, reference = evaluation.moments, evaluation.reference
        return {} if reference is None or q is None or not q.gaussian else {"": reference.posterior.kl(q)}


@dataclass(frozen=True)
class PosteriorW2:
    """Wasserstein-2 distance between the Gaussians with the moments of q and of the exact posterior of the weights.

    If both posteriors are Gaussian, this is their distance; a point counts as a Gaussian of width zero. Otherwise it is
    a lower bound (Gelbrich 1990).
    """

    summary: ClassVar[str] = "Gaussian Wasserstein-2 distance of the weights' posterior from the exact one, by moments"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "weight units"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        q = evaluation.moments
        exact = evaluation.reference.posterior.moments() if evaluation.reference else None
        if q is None or exact is None:
            return {}
        return {"": each_finite_row(gaussian_w2, q.mean, q.covariance, exact.mean, exact.covariance)}


@dataclass(frozen=True)
class PosteriorSD:
    """Root mean variance of the weights under the method's posterior: how unsure of them it is. A point has 0."""

    summary: ClassVar[str] = "root mean variance of the weights' posterior: how unsure of them the method is"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "weight units"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        q = evaluation.moments
        if evaluation.reference is None or q is None:
            return {}
        return {"": each_finite_row(lambda mean, covariance: covariance.diagonal().mean().sqrt(), q.mean, q.covariance)}


@dataclass(frozen=True)
class ElboGap:
    """log evidence − ELBO = KL(q ‖ exact posterior), with the ELBO that the method reports, Monte Carlo or not."""

    summary: ClassVar[str] = "log evidence minus the method's ELBO of the training data"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        bound, reference = evaluation.bound, evaluation.reference
        if bound is None or reference is None:
            return {}
        return {"": reference.posterior.log_evidence - bound.double()}


@dataclass(frozen=True)
class PredictiveKL:
    """KL(exact predictive ‖ the method's predictive), mean over test inputs.

    Defined only if the model has an exact posterior, and only when a method is trained, because records do not keep the
    exact predictive. Both predictives must be of classes; or the exact one is a Gaussian and the method's is a Gaussian
    or an equal mixture of Gaussians. For any other predictive, such as a density of images, it is undefined.

    For classes, the KL is a sum; it is infinite if the method gives probability 0 to a possible class. For two
    Gaussians it has a closed form. For a mixture of M Gaussians, it is computed by Gauss-Hermite quadrature, and
    includes the Monte-Carlo error of the M samples.
    """

    summary: ClassVar[str] = "KL of the predictive (classes, Gaussian, mixture) from the exact one, mean over inputs"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        if evaluation.reference is None:
            return {}
        divergence = predictive_kl(evaluation.reference.test, evaluation.test)
        return {} if divergence is None else {"": each_row(torch.mean, divergence)}


def predictive_kl(exact: Predicted, other: Predicted) -> Tensor | None:
    """Compute KL(exact ‖ other) for each input, (R, N) float64 nats; None if the two are of different kinds."""
    if isinstance(exact, Categorical) and isinstance(other, Categorical):
        p = exact.log_probs.exp()
        terms = torch.where(p > 0, p * (exact.log_probs - other.log_probs), 0.0)  # (R, N, C)
        return ordered_sum(terms.unbind(-1))
    if not isinstance(exact, GaussianMixture) or not isinstance(other, GaussianMixture) or exact.samples > 1:
        return None
    (mean, *_), (sd, *_) = exact.components()
    means, sds = other.components()
    if other.samples == 1:
        return normal_pair_kl(mean, sd, means[0], sds[0])
    return -_normal_entropy(sd) - _expected_log_prob(mean, sd, GaussianMixture(means, sds))


def _normal_entropy(sd: Tensor) -> Tensor:
    return sd.log() + 0.5 * math.log(2 * math.pi * math.e)


def _expected_log_prob(mean: Tensor, sd: Tensor, other: GaussianMixture) -> Tensor:
    """Compute E log p_other(y) over y ~ N(mean, sd²), (R, N), one node after another."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
    total = torch.zeros_like(mean)
    for node, weight in zip(nodes.tolist(), (weights / math.sqrt(2 * math.pi)).tolist(), strict=True):
        total = total + weight * other.log_prob(mean + sd * node)
    return total


metrics: dict[str, Metric] = {
    "posterior_kl": PosteriorKL(),
    "posterior_w2": PosteriorW2(),
    "posterior_sd": PosteriorSD(),
    "elbo_gap": ElboGap(),
    "predictive_kl": PredictiveKL(),
}
