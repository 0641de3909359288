"""Bayesian linear regression of the lecture: Gaussian prior, Gaussian noise, everything in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, Leaf, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels import gaussian
from bdlbench.networks.blocks import affine, dense_leaves, flatten
from bdlbench.networks.likelihoods import output
from bdlbench.posteriors.fitting import GaussianPrior, gaussian_prior
from bdlbench.predictives.mixtures import GaussianMixture
from bdlbench.protocols import Layer, Moments, Output
from bdlbench.stats.rows import each_finite_row


@dataclass(frozen=True)
class BayesianLinearRegression:
    """Bayesian linear regression: y ~ N(w·x + b, noise_sd²), each of w and b ~ N(0, prior_sd²) (the lecture's example).

    The posterior is N(μ, Λ⁻¹) with Λ = XᵀX / noise_sd² + I / prior_sd², where X has a column of ones for b; the
    predictive is N(μ·x, xᵀΛ⁻¹x + noise_sd²). Bishop 2006, §3.3.
    """

    signature: Signature
    prior_sd: PerRow = option(1.0, "standard deviation of the prior of w and b", low=0, open_ends=True)
    noise_sd: PerRow = option(1.0, "standard deviation of the noise, on the model's scale", low=0, open_ends=True)

    def unsupported(self) -> str | None:
        """Refuse all targets but one number."""
        fits = self.signature.likelihood == "gaussian" and self.signature.outputs == 1
        return None if fits else "linear regression fits one number with Gaussian noise"

    def leaves(self) -> dict[str, Leaf]:
        """Return fc1.weight and fc1.bias."""
        return dense_leaves("fc1", prod(self.signature.input_shape), 1, first=True)

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, *input_shape)."""
        return output(self.signature, affine(layer, "fc1", flatten(x, len(self.signature.input_shape))), self.noise_sd)

    def prior(self, layout: Layout, like: Tensor) -> GaussianPrior:
        """Return N(0, prior_sd²) on every weight and on the bias."""
        return gaussian_prior(layout, self.prior_sd, "none", like)

    def exact(self, data: Data) -> GaussianPosterior:
        """Return N(μ, Λ⁻¹) in float64, one row after another, so that a row's bits do not depend on the others."""
        noise_sds, prior_sds = (_numbers(value, data.rows) for value in (self.noise_sd, self.prior_sd))
        rows = [
            _row(_with_ones(x), y.double().clone(), noise_sd, prior_sd)
            for x, y, noise_sd, prior_sd in zip(data.x, data.y, noise_sds, prior_sds, strict=True)
        ]
        mean, covariance, bound, evidence = (torch.stack(parts) for parts in zip(*rows, strict=True))
        noise_sd = torch.tensor(noise_sds, dtype=torch.float64, device=data.x.device)
        return GaussianPosterior(mean, covariance, bound, evidence, noise_sd, data.x.dtype)

    def exact_update(self, posterior: GaussianPosterior, data: Data) -> GaussianPosterior:
        """Return the posterior of earlier and further data, in float64, one row after another.

        The evidence of all data is that of the earlier ones times that of the further ones given these.
        """
        rows = []
        for r, noise_sd in enumerate(posterior.noise_sd.tolist()):
            x, y, before = _with_ones(data.x[r]), data.y[r].double().clone(), posterior.mean[r].clone()
            spread = posterior.covariance[r].clone()
            mean, covariance = gaussian.linear_update(x, y, noise_sd, before, spread)
            expected = gaussian.linear_expected_log_likelihood(x, y, noise_sd, mean, covariance)
            divergence = gaussian.gaussian_kl(mean, covariance, before, spread)
            rows.append(
                (mean, covariance, expected - divergence, gaussian.linear_density(x, y, noise_sd, before, spread))
            )
        mean, covariance, bound, evidence = (torch.stack(parts) for parts in zip(*rows, strict=True))
        bound, evidence = posterior.bound + bound, posterior.log_evidence + evidence
        return replace(posterior, mean=mean, covariance=covariance, bound=bound, log_evidence=evidence)


@dataclass(frozen=True)
class GaussianPosterior:
    """N(mean, covariance) of the weights followed by the bias.

    Attributes:
        mean: (R, P) float64.
        covariance: (R, P, P) float64.
        bound: The ELBO in nats, (R,), computed as such; here it equals the evidence.
        log_evidence: (R,) nats.
        noise_sd: (R,).
        dtype: The type of the state.
        facts: None.
    """

    mean: Tensor
    covariance: Tensor
    bound: Tensor
    log_evidence: Tensor
    noise_sd: Tensor
    dtype: torch.dtype
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The means of weight (R, 1, D) and bias (R, 1), and the covariance (R, P, P)."""
        weight, bias = self.mean[:, None, :-1], self.mean[:, -1:]
        named = {"fc1.weight.mean": weight, "fc1.bias.mean": bias, "covariance": self.covariance}
        return {name: value.to(self.dtype) for name, value in named.items()}

    def moments(self) -> Moments:
        """Return mean and covariance: they are the whole posterior."""
        return Moments(self.mean, self.covariance, gaussian=True)

    def kl(self, other: Moments) -> Tensor:
        """Return KL(the Gaussian `other` ‖ this posterior) in nats, (R,)."""
        return each_finite_row(gaussian.gaussian_kl, other.mean, other.covariance, self.mean, self.covariance)

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Return {}: nothing is timed."""
        return {}

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> GaussianMixture:
        """Predict N(μ·x, xᵀΛ⁻¹x + noise_sd²) in closed form, whatever `samples` and `joint` say."""
        rows = [
            (design @ mean, ((design @ covariance) * design).sum(-1) + noise_sd**2)
            for design, mean, covariance, noise_sd in zip(
                map(_with_ones, x),
                *(map(Tensor.clone, t) for t in (self.mean, self.covariance)),
                self.noise_sd.tolist(),
                strict=True,
            )
        ]
        means, variances = (torch.stack(parts).unsqueeze(0) for parts in zip(*rows, strict=True))  # (1, R, N)
        return GaussianMixture(means.to(x.dtype), variances.sqrt().to(x.dtype))


def _row(x: Tensor, y: Tensor, noise_sd: float, prior_sd: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean, covariance, ELBO and evidence of one row: x (N, P), y (N,)."""
    mean, covariance = gaussian.linear_posterior(x, y, noise_sd, prior_sd)
    expected = gaussian.linear_expected_log_likelihood(x, y, noise_sd, mean, covariance)
    prior = prior_sd**2 * torch.eye(len(mean), dtype=x.dtype, device=x.device)
    divergence = gaussian.gaussian_kl(mean, covariance, torch.zeros_like(mean), prior)
    return mean, covariance, expected - divergence, gaussian.linear_evidence(x, y, noise_sd, prior_sd)


def _with_ones(x: Tensor) -> Tensor:
    """Return inputs (N, *input_shape) as a float64 design matrix (N, P) whose last column is ones."""
    features = x.double().flatten(1)
    return torch.cat([features, features.new_ones(len(x), 1)], 1)


def _numbers(value: PerRow, rows: int) -> list[float]:
    """List one number for each row."""
    numbers: list[float] = torch.as_tensor(value, dtype=torch.float64).expand(rows).tolist()
    return numbers


models = {"bayesian_linear_regression": BayesianLinearRegression}
