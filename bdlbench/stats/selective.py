"""Selective classification: what a classifier gains by abstaining."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SelectiveStatistic = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A number of some of the examples: from confidence (N,), correct (N,) and kept (B, N), for each row of kept, (B,)."""


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
    ranked = _ranked(confidence, correct, torch.ones(1, len(confidence), dtype=torch.bool))
    risk: Tensor = (ranked.errors / ranked.answered)[0]
    return risk


def aurc(confidence: Tensor, correct: Tensor, kept: Tensor) -> Tensor:
    """Return the area under the risk–coverage curve, 1/N Σ_k of the error rate among the k most confident examples.

    Geifman, Uziel & El-Yaniv 2019. With examples in random order it is the error rate. Trapezoids, as other code
    has them, give a number that differs by less than 1/N.

    Args:
        confidence: (N,).
        correct: 1 where the class is right, else 0, (N,).
        kept: Which examples each of B selections has, (B, N) bool.

    Returns:
        Area of each selection, (B,) float64.
    """
    ranked = _ranked(confidence, correct, kept)
    return (ranked.errors / ranked.answered).masked_fill(~ranked.kept, 0.0).sum(1) / ranked.kept.sum(1)


def augrc(confidence: Tensor, correct: Tensor, kept: Tensor) -> Tensor:
    """Return the area under the generalised risk–coverage curve: of P(answered and wrong) against the share answered.

    By the trapezoidal rule, which is exact: Σ_k G_k / N − G_N / 2N with G_k the errors among the k most confident
    examples over N. It is (1 − AUROC) · a · (1 − a) + (1 − a)² / 2 with the accuracy a and the AUROC of confidence for
    telling right from wrong. Traub et al. 2024. With examples in random order it is half the error rate.

    Args:
        confidence: (N,).
        correct: 1 where the class is right, else 0, (N,).
        kept: Which examples each of B selections has, (B, N) bool.

    Returns:
        Area of each selection, (B,) float64.
    """
    ranked = _ranked(confidence, correct, kept)
    return (ranked.errors.masked_fill(~ranked.kept, 0.0).sum(1) - ranked.errors[:, -1] / 2) / ranked.kept.sum(1) ** 2


def accuracy_at_coverage(confidence: Tensor, correct: Tensor, kept: Tensor, coverage: float) -> Tensor:
    """Return the accuracy on the k most confident examples, k being the least whole number of at least coverage · N.

    Args:
        confidence: (N,).
        correct: 1 where the class is right, else 0, (N,).
        kept: Which examples each of B selections has, (B, N) bool.
        coverage: The share of the examples that is answered, above 0 and at most 1.

    Returns:
        Accuracy of each selection, (B,) float64; NaN where any confidence is, since its place is unknown.
    """
    ranked = _ranked(confidence, correct, kept)
    answered = (coverage * kept.sum(1, keepdim=True) - 1e-9).ceil()  # 0.9 · 70 is a little more than 63
    errors = ranked.errors.gather(1, (ranked.answered < answered).sum(1, keepdim=True))
    return (1 - errors / answered)[:, 0].masked_fill(ranked.errors[:, -1].isnan(), math.nan)


@dataclass(frozen=True)
class _Ranked:
    """Examples in falling order of confidence, in B selections of them, (B, N) each.

    Attributes:
        kept: Whether the example is in the selection.
        answered: How many of the selection are at or before this place.
        errors: How many of those are wrong, with the errors of equally confident ones spread evenly.
    """

    kept: Tensor
    answered: Tensor
    errors: Tensor


def _ranked(confidence: Tensor, correct: Tensor, kept: Tensor) -> _Ranked:
    levels, level = confidence.neg().unique(return_inverse=True)
    order = level.argsort(stable=True)
    level, kept = level[order], kept[:, order]
    wrong = torch.where(kept, 1 - correct[order].double(), 0.0)
    size, errors = (
        torch.zeros(len(kept), len(levels), dtype=torch.float64).index_add(1, level, part)
        for part in (kept.double(), wrong)
    )
    spread = torch.where(kept, (errors / size)[:, level], 0.0)
    return _Ranked(kept, kept.double().cumsum(1), spread.cumsum(1))
