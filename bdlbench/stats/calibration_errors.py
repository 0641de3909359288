"""Calibration errors by other bins than equally wide ones, by no bins, by class, and less the bias of small samples.

Each is computed of B selections of the examples at once, since a jackknife asks for many.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from bdlbench.stats.calibration import bin_index

GRID = 1000
"""Intervals of the grid on which the smooth error is computed, and the number of its cosines."""

DAMPED = 2.5
"""A cosine of frequency k counts for a kernel of standard deviation σ while kσ is less."""

SMALLEST_BANDWIDTH = DAMPED / GRID
"""The narrowest kernel that this grid resolves."""


def adaptive_calibration_error(confidence: Tensor, correct: Tensor, kept: Tensor, bins: int = 15) -> Tensor:
    """Return the calibration error over bins of equally many examples, Σ_b |Σ_{n ∈ b} (correct − confidence)| / N.

    Of N examples in order of confidence, that of rank i from 0 is in bin ⌊i · bins / N⌋. Among equally confident
    examples those that are right count as spread evenly, which is what a random order gives on average. Nguyen &
    O'Connor 2015; of the most probable class, as Mukhoti et al. 2020 have it.

    Args:
        confidence: Largest class probability of each example, (N,).
        correct: 1 where its class is right, else 0, (N,).
        kept: Which examples each of B selections has, (B, N) bool.
        bins: The number of bins.

    Returns:
        Fractions, (B,) float64; NaN where an input is NaN.
    """
    levels, level = confidence.unique(return_inverse=True)
    order = level.argsort(stable=True)
    level, kept = level[order], kept[:, order]
    gap = (correct.double() - confidence.double())[order]
    size, total = (
        torch.zeros(len(kept), len(levels), dtype=torch.float64).index_add(1, level, part)
        for part in (kept.double(), torch.where(kept, gap, 0.0))
    )
    spread = torch.where(kept, (total / size)[:, level], 0.0)  # (B, N)
    count = kept.sum(1, keepdim=True)
    place = ((kept.cumsum(1) - 1) * bins // count).clamp(0, bins - 1)
    gaps = torch.zeros(len(kept), bins, dtype=torch.float64).scatter_add(1, place, spread)
    return gaps.abs().sum(1) / count[:, 0]


def rms_calibration_error(
    confidence: Tensor, correct: Tensor, kept: Tensor, bins: int = 15, debiased: bool = False
) -> Tensor:
    """Return the root mean squared calibration error, sqrt(Σ_b |B_b|/N · (accuracy_b − confidence_b)²).

    In the bins of `expected_calibration_error`. Its square is too large by the variance of each bin's accuracy. The
    debiased one subtracts the unbiased estimate of it, accuracy_b (1 − accuracy_b) / (|B_b| − 1); where that leaves
    less than 0, it is 0. A bin of one example has no such estimate, and keeps its plain term. Kumar, Liang & Ma 2019,
    definition 5.1 (arXiv:1909.10155), for the squared error.

    Args:
        confidence: Largest class probability of each example, (N,).
        correct: 1 where its class is right, else 0, (N,).
        kept: Which examples each of B selections has, (B, N) bool.
        bins: The number of bins.
        debiased: Whether the bias is subtracted.

    Returns:
        Fractions, (B,) float64; NaN where an input is NaN.
    """
    index = bin_index(confidence, bins)
    size, sure, right = (
        torch.zeros(len(kept), bins, dtype=torch.float64).index_add(1, index, torch.where(kept, value.double(), 0.0))
        for value in (torch.ones_like(confidence), confidence, correct)
    )
    accuracy = right / size.clamp_min(1)
    squared = (accuracy - sure / size.clamp_min(1)) ** 2
    if debiased:
        squared = squared - accuracy * (1 - accuracy) / (size - 1).clamp_min(1)  # 0 in a bin of one example
    mean = (size * squared).sum(1) / size.sum(1)
    return torch.where(mean < 0, 0.0, mean).sqrt()  # clamp_min would hide a NaN of no examples


def smooth_calibration_error(confidence: Tensor, correct: Tensor, kept: Tensor) -> Tensor:
    """Return the smooth calibration error: the σ at which smECE_σ = σ.

    smECE_σ = ∫₀¹ |1/N Σ_n (correct_n − confidence_n) K_σ(t, confidence_n)| dt, with the Gaussian kernel of standard
    deviation σ that is reflected at 0 and 1. It falls in σ; so there is one such σ, and no bins to choose. Where
    smECE_σ is below the narrowest σ of the grid already, it is returned at that one. Błasiok & Nakkiran 2023, section 3
    (arXiv:2309.12236). As in their code, each gap is first divided between the two next points of a grid.

    A reflected kernel is diagonal in the cosines of [0, 1]: K_σ(t, f) = 1 + 2 Σ_k e^(−(πkσ)²/2) cos πkt cos πkf.

    Args:
        confidence: Largest class probability of each example, (N,).
        correct: 1 where its class is right, else 0, (N,).
        kept: Which examples each of B selections has, (B, N) bool.

    Returns:
        Fractions, (B,) float64; NaN where an input is NaN.
    """
    place = (confidence.double().nan_to_num(0.0) * GRID).clamp(0, GRID)
    left = place.long().clamp_max(GRID - 1)
    share = place - left
    gap = torch.where(kept, correct.double() - confidence.double(), 0.0)  # (B, N)
    gaps = torch.zeros(len(kept), GRID + 1, dtype=torch.float64)
    gaps = gaps.index_add(1, left, gap * (1 - share)).index_add(1, left + 1, gap * share)
    cosines = _cosines()  # (K, T)
    waves = gaps / kept.sum(1, keepdim=True) @ cosines.mT  # (B, K)
    frequency = math.pi * torch.arange(GRID + 1, dtype=torch.float64)
    times = torch.where(frequency > 0, 2.0, 1.0)
    width = torch.full((GRID + 1,), 1 / GRID, dtype=torch.float64)
    width[[0, -1]] /= 2  # of trapezoids

    def at(bandwidth: Tensor) -> Tensor:
        terms = min(GRID, math.ceil(DAMPED / float(bandwidth.min()))) + 1  # all others are damped by e^−30
        damping = (-((frequency[:terms] * bandwidth[:, None]) ** 2) / 2).exp()
        return (waves[:, :terms] * times[:terms] * damping @ cosines[:terms]).abs() @ width

    low, high = torch.full((len(kept),), SMALLEST_BANDWIDTH, dtype=torch.float64), torch.ones(len(kept)).double()
    narrowest = at(low)
    for _ in range(40):
        middle = (low + high) / 2
        above = at(middle) > middle
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(narrowest > SMALLEST_BANDWIDTH, low, narrowest)


@lru_cache(1)
def _cosines() -> Tensor:
    """Return cos(πkt) at the points t of the grid, (K, T) float64."""
    steps = torch.arange(GRID + 1)
    return (math.pi * (steps[:, None] * steps % (2 * GRID)).double() / GRID).cos()


def classwise_calibration_error(probs: Tensor, y: Tensor, bins: int = 15) -> Tensor:
    """Return the mean over classes c of Σ_b |Σ_{n ∈ B_cb} ([y_n = c] − p_nc)| / N, where p_nc is in bin b of class c.

    In the bins of `expected_calibration_error`, by the probability of each class instead of the largest one. Kull et
    al. 2019, equation 3; the static calibration error of Nixon et al. 2019.

    Args:
        probs: Class probabilities (N, C).
        y: Classes (N,) int64.
        bins: The number of bins.

    Returns:
        A fraction, () float64; NaN where an input is NaN.
    """
    gaps = _class_gaps(probs, y, torch.zeros_like(y), bins)  # (C·bins, 1)
    return gaps.abs().sum() / probs.numel()


def classwise_without_blocks(probs: Tensor, y: Tensor, block: Tensor, bins: int = 15) -> Tensor:
    """Return `classwise_calibration_error` of the examples outside each block.

    Args:
        probs: Class probabilities (N, C).
        y: Classes (N,) int64.
        block: The block of each example, (N,) int64 from 0.
        bins: The number of bins.

    Returns:
        Fractions, (blocks,) float64.
    """
    gaps = _class_gaps(probs, y, block, bins)
    left = len(y) - torch.bincount(block)
    error: Tensor = (gaps.sum(1, keepdim=True) - gaps).abs().sum(0) / (left * probs.shape[1])
    return error


def _class_gaps(probs: Tensor, y: Tensor, block: Tensor, bins: int) -> Tensor:
    """Return the sum of [y = c] − p_c by class and bin, and by block: (C·bins, blocks) float64."""
    classes, blocks = probs.shape[1], int(block.max()) + 1
    cell = torch.arange(classes) * bins + bin_index(probs, bins)  # (N, C)
    gap = torch.nn.functional.one_hot(y, classes) - probs.double()
    cell = (cell * blocks + block[:, None]).flatten()
    found: Tensor = torch.bincount(cell, gap.flatten(), classes * bins * blocks).unflatten(0, (-1, blocks))
    return found
