"""How well a score ranks positives above negatives. Ties are exact: the order of equal scores never matters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

Statistic = Callable[[Tensor, Tensor], Tensor]
"""(scores of the positives (P,), scores of the negatives (N,)) -> () float64. A higher score claims to be positive."""


def _of_sorted(statistic: Statistic) -> Statistic:
    """Hand over float64 scores in ascending order; return NaN where a score is NaN or either class is empty."""

    @wraps(statistic)
    def checked(positive: Tensor, negative: Tensor) -> Tensor:
        scores = (positive.double(), negative.double())
        if any(s.numel() == 0 or bool(s.isnan().any()) for s in scores):
            return scores[0].new_tensor(math.nan)
        return statistic(*(s.sort().values for s in scores))

    return checked


@_of_sorted
def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the area under the ROC curve, P(s⁺ > s⁻) + ½ P(s⁺ = s⁻).

    This is the Mann–Whitney U of midranks over P·N, counted in integers. Hanley & McNeil 1982.

    Args:
        positive: Scores of the positives, (P,).
        negative: Scores of the negatives, (N,).

    Returns:
        A fraction, () float64; NaN where a score is NaN or a class is empty.
    """
    below = torch.searchsorted(negative, positive)  # (P,) negatives under each positive
    up_to = torch.searchsorted(negative, positive, right=True)  # (P,) negatives under each positive or equal to it
    return (below + up_to).sum().double() / (2 * len(positive) * len(negative))


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation of pairs, Spearman 1904, with the mean of the ranks for equal values.

    Args:
        a: One value of each pair, (N,).
        b: The other, (N,).

    Returns:
        From −1 to 1, () float64; NaN where a value is NaN or all values of a side are equal.
    """
    centred = []
    for values in (a.double(), b.double()):
        if bool(values.isnan().any()):
            return values.new_tensor(math.nan)
        _, index, counts = values.unique(return_inverse=True, return_counts=True)
        ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[index]  # (N,) from 1
        centred.append(ranks - (len(values) + 1) / 2)
    first, second = centred
    correlation: Tensor = (first * second).sum() / ((first**2).sum() * (second**2).sum()).sqrt()
    return correlation


@_of_sorted
def average_precision(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the area under the precision–recall curve as the step sum Σ_k (recall_k − recall_{k−1}) precision_k.

    Each positive raises recall by 1/P at the threshold that is its own score, so this is the mean over positives of
    TP/(TP + FP) there. Equal to scikit-learn's `average_precision_score`. Linear interpolation would be too optimistic
    (Davis & Goadrich 2006).

    Args:
        positive: Scores of the positives, (P,).
        negative: Scores of the negatives, (N,).

    Returns:
        A fraction, () float64; NaN where a score is NaN or a class is empty.
    """
    true = len(positive) - torch.searchsorted(positive, positive)  # (P,) positives at or above
    false = len(negative) - torch.searchsorted(negative, positive)  # (P,) negatives at or above
    return (true.double() / (true + false)).mean()


@_of_sorted
def fpr_at_95_tpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the smallest false positive rate of a threshold whose true positive rate is at least 95 %.

    A score at the threshold is called positive; there is no interpolation. Liang et al. 2018 (arXiv:1706.02690), who
    call the in-distribution set positive.

    Args:
        positive: Scores of the positives, (P,).
        negative: Scores of the negatives, (N,).

    Returns:
        A fraction, () float64; NaN where a score is NaN or a class is empty.
    """
    needed = -(-95 * len(positive) // 100)  # ⌈0.95 P⌉, in integers
    below = torch.searchsorted(negative, positive[len(positive) - needed])
    return (len(negative) - below).double() / len(negative)


def without_blocks(statistic: Statistic, positive: Tensor, negative: Tensor, block: Tensor, positives: bool) -> Tensor:
    """Compute a statistic of this file without each block of one class.

    Scores are sorted once. The AUROC is a sum over pairs (a U statistic of two samples; Hoeffding 1948), so leaving out
    a block removes its own pairs: (U − U_block) / (P·N − P_block·N).

    Args:
        statistic: `auroc`, `average_precision` or `fpr_at_95_tpr`.
        positive: Scores of the positives, (P,).
        negative: Scores of the negatives, (N,).
        block: The block of each score of the class that loses blocks, int64 from 0.
        positives: Whether the positives lose blocks; otherwise the negatives do.

    Returns:
        (blocks,) float64; NaN where a score is NaN or no score is left.
    """
    size = torch.bincount(block)  # (blocks,)
    (scores, order), others = (positive if positives else negative).double().sort(), negative if positives else positive
    others = others.double().sort().values
    if len(size) < 2 or not len(others) or bool(scores.isnan().any() | others.isnan().any()):
        return torch.full(size.shape, math.nan, dtype=torch.float64)
    block = block[order]
    if statistic is auroc:
        twice = (torch.searchsorted(others, scores) + torch.searchsorted(others, scores, right=True)).double()
        wins = (twice.sum() - torch.bincount(block, twice)) / (2 * len(others) * (len(scores) - size))
        return wins if positives else 1 - wins
    of_sorted: Statistic = inspect.unwrap(statistic)
    kept = [scores[block != b] for b in range(len(size))]
    return torch.stack([of_sorted(rest, others) if positives else of_sorted(others, rest) for rest in kept])
