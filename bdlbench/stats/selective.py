"""Selective classification: what a classifier gains by abstaining."""

from __future__ import annotations

import torch
from torch import Tensor


def risk_coverage(confidence: Tensor, correct: Tensor) -> Tensor:
    """Return the error rate among the k most confident examples, for k = 1 … N.

    The risk is Σ_{n ≤ k} error_n / k at coverage k/N. Among equally confident examples errors count as spread evenly,
    which is what a random order gives on average. El-Yaniv & Wiener 2010; Geifman & El-Yaniv 2017, eq. 1 and 2.

    Args:
        confidence: (N,).
        correct: 1 where the class is right, else 0, (N,).

    Returns:
        Error rates, (N,) float64.
    """
    _, index, sizes = confidence.neg().unique(return_inverse=True, return_counts=True)
    errors = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, index, 1 - correct.double())
    spread = (errors / sizes).repeat_interleave(sizes)
    risk: Tensor = spread.cumsum(0) / torch.arange(1, len(confidence) + 1, dtype=torch.float64)
    return risk
