"""How far predicted class probabilities can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bdlbench.stats.rows import each_row


def top_class(probs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability of each example, and whether its class is right.

    Args:
        probs: Class probabilities (…, C).
        y: Classes (…) int64.

    Returns:
        (confidence, correct), (…) each. `correct` is 1.0 or 0.0 in float64, and NaN where the confidence is NaN. Of
        equal probabilities the first class counts.
    """
    confidence, label = probs.max(-1)
    correct = (label == y).double()
    return confidence, correct.masked_fill(confidence.isnan(), math.nan)


def each_top_class(statistic: Callable[[Tensor, Tensor], Tensor], probs: Tensor | None, y: Tensor) -> dict[str, Tensor]:
    """Compute a statistic of confidence and correctness, one replicate at a time.

    Args:
        statistic: From confidence (N,) and correct (N,), as `top_class` has them, to (…).
        probs: Class probabilities (R, N, C); None of predictions that are of no classes.
        y: Classes (R, N) int64.

    Returns:
        {"": (R, …) float64}, as a metric returns its only value; {} without probabilities.
    """
    return {} if probs is None else {"": each_row(statistic, *top_class(probs, y))}


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    """Return the expected calibration error, Σ_b |B_b|/N · |mean of correct − mean of confidence in bin b|.

    It is computed as Σ_b |Σ_{n ∈ B_b} (correct − confidence)| / N. Bin b of equal width holds ((b − 1)/bins, b/bins],
    with edges rounded to the dtype of `confidence`; a confidence that rounding put above 1 stays in the last bin.
    Naeini et al. 2015; Guo et al. 2017, eq. 3 (arXiv:1706.04599). torchmetrics closes its bins on the left and gives a
    confidence of exactly 1 a bin of its own, so both agree only while no confidence lies on an edge.

    Args:
        confidence: Largest class probability of each example, (N,).
        correct: 1 where its class is right, else 0, (N,).
        bins: The number of bins.

    Returns:
        A fraction, () float64; NaN where an input is NaN or N = 0.
    """
    index = bin_index(confidence, bins)
    gap = correct.double() - confidence.double()
    return torch.stack([gap[index == b].sum().abs() for b in range(bins)]).sum() / len(gap)


def calibration_error_without_blocks(confidence: Tensor, correct: Tensor, block: Tensor, bins: int = 15) -> Tensor:
    """Return `expected_calibration_error` of the examples outside each block.

    It follows from sums of gaps by bin and block: Σ_bin |T_bin − S_(bin, block)| / (N − N_block).

    Args:
        confidence: Largest class probability of each example, (N,).
        correct: 1 where its class is right, else 0, (N,).
        block: The block of each example, (N,) int64 from 0.
        bins: The number of bins.

    Returns:
        Fractions, (blocks,) float64.
    """
    size = torch.bincount(block)  # (blocks,)
    cell = bin_index(confidence, bins) * len(size) + block
    gaps = torch.bincount(cell, correct.double() - confidence.double(), bins * len(size)).unflatten(0, (bins, -1))
    error: Tensor = (gaps.sum(1, keepdim=True) - gaps).abs().sum(0) / (len(block) - size)
    return error


def bin_index(confidence: Tensor, bins: int) -> Tensor:
    """Return which of `bins` equal-width bins (lo, hi] each confidence lies in.

    Args:
        confidence: (…).
        bins: The number of bins.

    Returns:
        Bins from 0, (…) int64.
    """
    inner = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins  # (bins − 1,)
    return torch.bucketize(confidence.contiguous(), inner.to(confidence.dtype))


def brier_score(probs: Tensor, y: Tensor) -> Tensor:
    """Return the Brier score 1/N Σ_n Σ_c (p_nc − [y_n = c])², summed over classes and averaged over examples.

    Brier 1950. For two classes half of it is often quoted.

    Args:
        probs: Class probabilities (N, C).
        y: Classes (N,) int64.

    Returns:
        A number between 0 and 2, () float64.
    """
    return squared_errors(probs, y).mean()


def squared_errors(probs: Tensor, y: Tensor) -> Tensor:
    """Return Σ_c (p_c − [y = c])² of each example.

    Args:
        probs: Class probabilities (…, C).
        y: Classes (…) int64.

    Returns:
        (…) float64.
    """
    return (probs.double() - one_hot(y, probs.shape[-1])).square().sum(-1)


class Reliability(NamedTuple):
    """A reliability diagram, (bins,) float64 each.

    Attributes:
        size: How many examples each bin holds.
        confidence: Their mean confidence.
        accuracy: The share of them that is right.
    """

    size: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """Return what a reliability diagram shows, in the bins of `expected_calibration_error`.

    Σ_b size_b/N · |accuracy_b − confidence_b| is the expected calibration error. DeGroot & Fienberg 1983;
    Niculescu-Mizil & Caruana 2005.

    Args:
        confidence: Largest class probability of each example, (N,).
        correct: 1 where its class is right, else 0, (N,).
        bins: The number of bins.

    Returns:
        Size, mean confidence and accuracy of each bin; NaN where a bin is empty.
    """
    index = bin_index(confidence, bins)
    size, sure, right = (
        torch.zeros(bins, dtype=torch.float64).index_add(0, index, value.double())
        for value in (torch.ones_like(confidence), confidence, correct)
    )
    return Reliability(size, sure / size, right / size)


def proportion_interval(successes: Tensor, trials: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Return Jeffreys' equal-tailed interval of a proportion, the quantiles of Beta(k + ½, n − k + ½).

    The lower end is 0 at k = 0 and the upper end 1 at k = n. Brown, Cai & DasGupta 2001, §4.1.

    Args:
        successes: k, (…); fractions are allowed.
        trials: n, (…).
        level: Confidence.

    Returns:
        (low, high), (…) float64 each.
    """
    from scipy.special import betaincinv  # slow to import, and scoring does not need it

    k, n = successes.double().numpy(), trials.double().numpy()
    low, high = (betaincinv(k + 0.5, n - k + 0.5, tail) for tail in ((1 - level) / 2, (1 + level) / 2))
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    return low.masked_fill(successes == 0, 0.0), high.masked_fill(successes == trials, 1.0)
