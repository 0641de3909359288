"""How far predicted class probabilities can be trusted."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def top_class(probs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability of each example, and whether its class is y: 1.0 or 0.0, float64.

    probs: (…, C), y: (…) int64. Returns (…) and (…). Of equal probabilities the first class counts. NaN where a
    probability of the example is NaN.
    """
    confidence, label = probs.max(-1)
    correct = (label == y).double()
    return confidence, correct.masked_fill(confidence.isnan(), math.nan)


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    """Σ_b |B_b|/N · |mean of correct − mean of confidence in bin b| = Σ_b |Σ_{n ∈ B_b} (correct − confidence)| / N.

    confidence, correct: (N,). Returns () float64, a fraction; NaN where an input is NaN or N = 0.
    Bin b of equal width holds ((b − 1)/bins, b/bins], the edges rounded to the dtype of `confidence`; rounding beyond
    1 stays in the last bin. Naeini et al. 2015; Guo et al. 2017, eq. 3 (arXiv:1706.04599). torchmetrics closes its bins
    on the left and gives a confidence of exactly 1 a bin of its own: equal only while no confidence lies on an edge.
    """
    index = bin_index(confidence, bins)
    gap = correct.double() - confidence.double()
    return torch.stack([gap[index == b].sum().abs() for b in range(bins)]).sum() / len(gap)


def calibration_error_without_blocks(confidence: Tensor, correct: Tensor, block: Tensor, bins: int = 15) -> Tensor:
    """`expected_calibration_error` of the examples outside each block: (blocks,) float64.

    confidence, correct: (N,); block: (N,) int64 from 0. Sums of gaps by bin and block tell them all:
    Σ_bin |T_bin − S_(bin, block)| / (N − N_block).
    """
    size = torch.bincount(block)  # (blocks,)
    cell = bin_index(confidence, bins) * len(size) + block
    gaps = torch.bincount(cell, correct.double() - confidence.double(), bins * len(size)).unflatten(0, (bins, -1))
    error: Tensor = (gaps.sum(1, keepdim=True) - gaps).abs().sum(0) / (len(block) - size)
    return error


def bin_index(confidence: Tensor, bins: int) -> Tensor:
    """Which of `bins` equal-width bins (lo, hi] each confidence (…) lies in, from 0: (…) int64."""
    inner = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins  # (bins − 1,)
    return torch.bucketize(confidence.contiguous(), inner.to(confidence.dtype))


def brier_score(probs: Tensor, y: Tensor) -> Tensor:
    """1/N Σ_n Σ_c (p_nc − [y_n = c])²: summed over classes, averaged over examples; between 0 and 2.

    probs: (N, C), y: (N,) int64. Returns () float64. Brier 1950 (half of it is often quoted for two classes).
    """
    return squared_errors(probs, y).mean()


def squared_errors(probs: Tensor, y: Tensor) -> Tensor:
    """Σ_c (p_c − [y = c])²: probs (…, C), y (…) int64. Returns (…) float64."""
    return (probs.double() - one_hot(y, probs.shape[-1])).square().sum(-1)


class Reliability(NamedTuple):
    """Of each bin: how many examples it holds, their mean confidence, their accuracy; (bins,) float64 each."""

    size: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """What a reliability diagram shows, in the bins of `expected_calibration_error`; NaN where a bin is empty.

    confidence, correct: (N,). Σ_b size_b/N · |accuracy_b − confidence_b| is the expected calibration error.
    DeGroot & Fienberg 1983; Niculescu-Mizil & Caruana 2005.
    """
    index = bin_index(confidence, bins)
    size, sure, right = (
        torch.zeros(bins, dtype=torch.float64).index_add(0, index, value.double())
        for value in (torch.ones_like(confidence), confidence, correct)
    )
    return Reliability(size, sure / size, right / size)


def proportion_interval(successes: Tensor, trials: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Jeffreys' equal-tailed interval of a proportion: quantiles of Beta(k + ½, n − k + ½), 0 at k = 0 and 1 at k = n.

    successes, trials: (…), fractions allowed. Returns (…) float64 each. Brown, Cai & DasGupta 2001, §4.1.
    """
    from scipy.special import betaincinv  # slow to import, and not needed to score

    k, n = successes.double().numpy(), trials.double().numpy()
    low, high = (betaincinv(k + 0.5, n - k + 0.5, tail) for tail in ((1 - level) / 2, (1 + level) / 2))
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    return low.masked_fill(successes == 0, 0.0), high.masked_fill(successes == trials, 1.0)
