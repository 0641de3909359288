"""How far predicted class probabilities can be trusted."""

from __future__ import annotations

import math

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
    inner = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins  # (bins − 1,)
    index = torch.bucketize(confidence, inner.to(confidence.dtype))
    gap = correct.double() - confidence.double()
    return torch.stack([gap[index == b].sum().abs() for b in range(bins)]).sum() / len(gap)


def brier_score(probs: Tensor, y: Tensor) -> Tensor:
    """1/N Σ_n Σ_c (p_nc − [y_n = c])²: summed over classes, averaged over examples; between 0 and 2.

    probs: (N, C), y: (N,) int64. Returns () float64. Brier 1950 (half of it is often quoted for two classes).
    """
    return squared_errors(probs, y).mean()


def squared_errors(probs: Tensor, y: Tensor) -> Tensor:
    """Σ_c (p_c − [y = c])²: probs (…, C), y (…) int64. Returns (…) float64."""
    return (probs.double() - one_hot(y, probs.shape[-1])).square().sum(-1)
