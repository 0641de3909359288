"""Gaussians with full covariances, in closed form, of ONE replicate: means (P,), covariances (P, P)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear_posterior(x: Tensor, y: Tensor, noise_sd: float, prior_sd: float) -> tuple[Tensor, Tensor]:
    """Mean (P,) and covariance (P, P) of w given y = X w + noise, with w ~ N(0, prior_sd² I) and noise of `noise_sd`.

    Λ = XᵀX / noise_sd² + I / prior_sd², Σ = Λ⁻¹, mean = Σ Xᵀy / noise_sd². x: (N, P), y: (N,). Bishop 2006, eq. 3.50 f.
    """
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky(x.mT @ x / noise_sd**2 + identity / prior_sd**2)
    mean = torch.cholesky_solve((x.mT @ y / noise_sd**2).unsqueeze(-1), factor).squeeze(-1)
    return mean, torch.cholesky_inverse(factor)


def linear_evidence(x: Tensor, y: Tensor, noise_sd: float, prior_sd: float) -> Tensor:
    """log p(y | X) = log N(y; 0, noise_sd² I + prior_sd² X Xᵀ) in nats, (). Bishop 2006, eq. 3.86."""
    mean, covariance = linear_posterior(x, y, noise_sd, prior_sd)
    misfit = ((y - x @ mean) / noise_sd).square().sum() + (mean / prior_sd).square().sum()
    scales = 2 * (len(y) * math.log(noise_sd) + len(mean) * math.log(prior_sd))
    return 0.5 * (torch.logdet(covariance) - misfit - scales - len(y) * math.log(2 * math.pi))


def linear_expected_log_likelihood(x: Tensor, y: Tensor, noise_sd: float, mean: Tensor, covariance: Tensor) -> Tensor:
    """E log N(y; X w, noise_sd² I) over w ~ N(mean, covariance), in nats, ()."""
    spread = torch.trace(x @ covariance @ x.mT)
    misfit = ((y - x @ mean).square().sum() + spread) / noise_sd**2
    return -0.5 * misfit - len(y) * (math.log(noise_sd) + 0.5 * math.log(2 * math.pi))


def gaussian_kl(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """KL(N(mean, covariance) ‖ N(other_mean, other_covariance)) in nats, (). Both covariances positive definite.

    ½ [tr(S₂⁻¹S₁) + (m₂ − m₁)ᵀ S₂⁻¹ (m₂ − m₁) − P + log |S₂| − log |S₁|].
    """
    factor = torch.linalg.cholesky(other_covariance)
    own = torch.linalg.cholesky(covariance)
    ratio = torch.linalg.solve_triangular(factor, own, upper=False)  # S₂^-½ S₁^½
    shift = torch.linalg.solve_triangular(factor, (other_mean - mean).unsqueeze(-1), upper=False)
    log_volumes = factor.diagonal().log().sum() - own.diagonal().log().sum()
    total: Tensor = 0.5 * (ratio.square().sum() + shift.square().sum() - len(mean)) + log_volumes
    return total


def gaussian_w2(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """The Wasserstein-2 distance of N(mean, covariance) and N(other_mean, other_covariance), (): not its square.

    W₂² = |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₂^½ S₁ S₂^½)^½). Covariances may be singular. Olkin & Pukelsheim 1982.
    """
    values, vectors = torch.linalg.eigh(other_covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    shared = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum()
    squared = (mean - other_mean).square().sum() + torch.trace(covariance) + torch.trace(other_covariance) - 2 * shared
    distance: Tensor = squared.clamp_min(0).sqrt()
    return distance


def normal_pair_kl(mean: Tensor, sd: Tensor, other_mean: Tensor, other_sd: Tensor) -> Tensor:
    """KL(N(mean, sd²) ‖ N(other_mean, other_sd²)) in nats, elementwise."""
    ratio, shift = sd / other_sd, (mean - other_mean) / other_sd
    return 0.5 * (ratio.square() + shift.square() - 1) - ratio.log()
