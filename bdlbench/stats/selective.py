"""What a classifier that may abstain gains by it."""

from __future__ import annotations

import torch
from torch import Tensor


def risk_coverage(confidence: Tensor, correct: Tensor) -> Tensor:
    """The error rate among the k most confident examples, for k = 1 … N: coverage k/N, risk Σ_{n ≤ k} error_n / k.

    confidence, correct: (N,). Returns (N,) float64. Among equals in confidence errors count as spread evenly, which is
    what a random order gives on average. El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017, eq. 1 and 2.
    """
    _, index, sizes = confidence.neg().unique(return_inverse=True, return_counts=True)
    errors = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, index, 1 - correct.double())
    spread = (errors / sizes).repeat_interleave(sizes)
    risk: Tensor = spread.cumsum(0) / torch.arange(1, len(confidence) + 1, dtype=torch.float64)
    return risk
