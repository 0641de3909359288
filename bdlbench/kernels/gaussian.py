"""Closed forms for Gaussians with full covariances, of ONE replicate: means (P,), covariances (P, P)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def least_squares(x: Tensor, y: Tensor, precision: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the w and b that minimise Σ_n (y_n − w·x_n − b)², and the noise that makes y most likely with them.

    w = X̃⁺ ỹ with X̃ and ỹ the centred x and y, b = ȳ − w·x̄, σ² = (1/N) Σ_n (y_n − w·x_n − b)². Bishop 2006, eq. 3.17,
    3.19 and 3.21. Of collinear inputs the shortest w is taken: directions that rounding of the inputs alone could have
    made count as none, as they would fit noise.

    Args:
        x: Inputs, (N, D).
        y: Targets, (N,).
        precision: The relative rounding error of an input.

    Returns:
        w (D,), b () and σ (), in the unit of y.
    """
    middle, mean = x.mean(0), y.mean()
    w = torch.linalg.pinv(x - middle, rtol=precision * max(x.shape)) @ (y - mean)
    b = mean - middle @ w
    return w, b, (y - x @ w - b).square().mean().sqrt()


def linear_posterior(x: Tensor, y: Tensor, noise_sd: float, prior_sd: float) -> tuple[Tensor, Tensor]:
    """Return the posterior of w given y = X w + noise, with w ~ N(0, prior_sd² I) and noise ~ N(0, noise_sd² I).

    Λ = XᵀX / noise_sd² + I / prior_sd², Σ = Λ⁻¹, mean = Σ Xᵀy / noise_sd². Bishop 2006, eq. 3.50 f.

    Args:
        x: Inputs X, (N, P).
        y: Targets, (N,).
        noise_sd: Standard deviation of the noise, in the unit of y.
        prior_sd: Standard deviation of each weight under the prior.

    Returns:
        Mean (P,) and covariance (P, P) of w.
    """
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky(x.mT @ x / noise_sd**2 + identity / prior_sd**2)
    mean = torch.cholesky_solve((x.mT @ y / noise_sd**2).unsqueeze(-1), factor).squeeze(-1)
    return mean, torch.cholesky_inverse(factor)


def linear_evidence(x: Tensor, y: Tensor, noise_sd: float, prior_sd: float) -> Tensor:
    """Return log p(y | X) = log N(y; 0, noise_sd² I + prior_sd² X Xᵀ). Bishop 2006, eq. 3.86.

    Args:
        x: Inputs X, (N, P).
        y: Targets, (N,).
        noise_sd: Standard deviation of the noise, in the unit of y.
        prior_sd: Standard deviation of each weight under the prior.

    Returns:
        The log-evidence in nats, ().
    """
    mean, covariance = linear_posterior(x, y, noise_sd, prior_sd)
    misfit = ((y - x @ mean) / noise_sd).square().sum() + (mean / prior_sd).square().sum()
    scales = 2 * (len(y) * math.log(noise_sd) + len(mean) * math.log(prior_sd))
    return 0.5 * (torch.logdet(covariance) - misfit - scales - len(y) * math.log(2 * math.pi))


def linear_update(x: Tensor, y: Tensor, noise_sd: float, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the posterior of w given y = X w + noise, with w ~ N(m₀, S₀) and noise ~ N(0, noise_sd² I).

    Λ = S₀⁻¹ + XᵀX / noise_sd², Σ = Λ⁻¹, mean = m₀ + Σ Xᵀ(y − X m₀) / noise_sd². Bishop 2006, eq. 3.50 f.

    Args:
        x: Inputs X, (N, P).
        y: Targets, (N,).
        noise_sd: Standard deviation of the noise, in the unit of y.
        mean: m₀, (P,).
        covariance: S₀, (P, P), positive definite.

    Returns:
        Mean (P,) and covariance (P, P) of w.
    """
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    factor = torch.linalg.cholesky(precision + x.mT @ x / noise_sd**2)
    shift = torch.cholesky_solve((x.mT @ (y - x @ mean) / noise_sd**2).unsqueeze(-1), factor).squeeze(-1)
    return mean + shift, torch.cholesky_inverse(factor)


def linear_density(x: Tensor, y: Tensor, noise_sd: float, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return log p(y | X) = log N(y; X m₀, noise_sd² I + X S₀ Xᵀ), with w ~ N(m₀, S₀).

    It is log N(y; X m, noise_sd² I) + log N(m; m₀, S₀) − log N(m; m, Σ) of the posterior N(m, Σ) (Chib 1995, eq. 6),
    which needs no matrix of N × N.

    Args:
        x: Inputs X, (N, P).
        y: Targets, (N,).
        noise_sd: Standard deviation of the noise, in the unit of y.
        mean: m₀, (P,).
        covariance: S₀, (P, P), positive definite.

    Returns:
        Nats, ().
    """
    after, spread = linear_update(x, y, noise_sd, mean, covariance)
    factor = torch.linalg.cholesky(covariance)
    shift = torch.linalg.solve_triangular(factor, (after - mean).unsqueeze(-1), upper=False)
    misfit = ((y - x @ after) / noise_sd).square().sum() + shift.square().sum()
    log_volumes = 0.5 * torch.logdet(spread) - factor.diagonal().log().sum()
    total: Tensor = log_volumes - 0.5 * misfit - len(y) * (math.log(noise_sd) + 0.5 * math.log(2 * math.pi))
    return total


def linear_expected_log_likelihood(x: Tensor, y: Tensor, noise_sd: float, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return E log N(y; X w, noise_sd² I) over w ~ N(mean, covariance).

    Args:
        x: Inputs X, (N, P).
        y: Targets, (N,).
        noise_sd: Standard deviation of the noise, in the unit of y.
        mean: Mean of w, (P,).
        covariance: Covariance of w, (P, P).

    Returns:
        Nats, ().
    """
    spread = torch.trace(x @ covariance @ x.mT)
    misfit = ((y - x @ mean).square().sum() + spread) / noise_sd**2
    return -0.5 * misfit - len(y) * (math.log(noise_sd) + 0.5 * math.log(2 * math.pi))


def gaussian_kl(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return KL(N(m₁, S₁) ‖ N(m₂, S₂)) = ½ [tr(S₂⁻¹S₁) + (m₂ − m₁)ᵀ S₂⁻¹ (m₂ − m₁) − P + log |S₂| − log |S₁|].

    Args:
        mean: m₁, (P,).
        covariance: S₁, (P, P), positive definite.
        other_mean: m₂, (P,).
        other_covariance: S₂, (P, P), positive definite.

    Returns:
        The divergence in nats, ().
    """
    factor = torch.linalg.cholesky(other_covariance)
    own = torch.linalg.cholesky(covariance)
    ratio = torch.linalg.solve_triangular(factor, own, upper=False)  # S₂^-½ S₁^½
    shift = torch.linalg.solve_triangular(factor, (other_mean - mean).unsqueeze(-1), upper=False)
    log_volumes = factor.diagonal().log().sum() - own.diagonal().log().sum()
    total: Tensor = 0.5 * (ratio.square().sum() + shift.square().sum() - len(mean)) + log_volumes
    return total


def gaussian_w2(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Return the Wasserstein-2 distance of N(m₁, S₁) and N(m₂, S₂), not its square.

    W₂² = |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₂^½ S₁ S₂^½)^½). Olkin & Pukelsheim 1982.

    Args:
        mean: m₁, (P,).
        covariance: S₁, (P, P); may be singular.
        other_mean: m₂, (P,).
        other_covariance: S₂, (P, P); may be singular.

    Returns:
        The distance in the unit of the means, ().
    """
    values, vectors = torch.linalg.eigh(other_covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    shared = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum()
    squared = (mean - other_mean).square().sum() + torch.trace(covariance) + torch.trace(other_covariance) - 2 * shared
    distance: Tensor = squared.clamp_min(0).sqrt()
    return distance


def normal_pair_kl(mean: Tensor, sd: Tensor, other_mean: Tensor, other_sd: Tensor) -> Tensor:
    """Return KL(N(mean, sd²) ‖ N(other_mean, other_sd²)), elementwise.

    Args:
        mean: Means of the first distribution.
        sd: Standard deviations of the first, positive.
        other_mean: Means of the second.
        other_sd: Standard deviations of the second, positive.

    Returns:
        Divergences in nats, in the broadcast shape.
    """
    ratio, shift = sd / other_sd, (mean - other_mean) / other_sd
    return 0.5 * (ratio.square() + shift.square() - 1) - ratio.log()
