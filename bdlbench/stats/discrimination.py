"""How well a score ranks positives above negatives. Ties are exact: equal scores never depend on their order."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

Statistic = Callable[[Tensor, Tensor], Tensor]
"""(scores of the positives (P,), scores of the negatives (N,)) -> () float64. Higher scores claim to be positive."""


def _of_sorted(statistic: Statistic) -> Statistic:
    """Hands over float64 scores in ascending order; NaN where a score is NaN or either class is empty."""

    @wraps(statistic)
    def checked(positive: Tensor, negative: Tensor) -> Tensor:
        scores = (positive.double(), negative.double())
        if any(s.numel() == 0 or bool(s.isnan().any()) for s in scores):
            return scores[0].new_tensor(math.nan)
        return statistic(*(s.sort().values for s in scores))

    return checked


@_of_sorted
def auroc(positive: Tensor, negative: Tensor) -> Tensor:
    """Area under the ROC curve, P(s⁺ > s⁻) + ½ P(s⁺ = s⁻): the Mann–Whitney U of midranks over P·N.

    positive: (P,), negative: (N,). Returns () float64. Counted in integers. Hanley & McNeil 1982.
    """
    below = torch.searchsorted(negative, positive)  # (P,) negatives under each positive
    up_to = torch.searchsorted(negative, positive, right=True)  # (P,) and level with it
    return (below + up_to).sum().double() / (2 * len(positive) * len(negative))


@_of_sorted
def average_precision(positive: Tensor, negative: Tensor) -> Tensor:
    """Area under the precision–recall curve as the step sum Σ_k (recall_k − recall_{k−1}) precision_k.

    Each positive raises recall by 1/P at the threshold that is its own score, so this is the mean over positives of
    TP/(TP + FP) there. positive: (P,), negative: (N,). Returns () float64. Equal to scikit-learn's
    average_precision_score; linear interpolation would be too good (Davis & Goadrich 2006).
    """
    true = len(positive) - torch.searchsorted(positive, positive)  # (P,) positives at or above
    false = len(negative) - torch.searchsorted(negative, positive)  # (P,) negatives at or above
    return (true.double() / (true + false)).mean()


@_of_sorted
def fpr_at_95_tpr(positive: Tensor, negative: Tensor) -> Tensor:
    """The smallest false positive rate of a threshold whose true positive rate is at least 95 %.

    positive: (P,), negative: (N,). Returns () float64. A score at the threshold is called positive; no interpolation.
    Liang et al. 2018 (arXiv:1706.02690), who call the in-distribution set positive.
    """
    needed = -(-95 * len(positive) // 100)  # ⌈0.95 P⌉, in integers
    below = torch.searchsorted(negative, positive[len(positive) - needed])
    return (len(negative) - below).double() / len(negative)


def without_blocks(statistic: Statistic, positive: Tensor, negative: Tensor, block: Tensor, positives: bool) -> Tensor:
    """A statistic of this file without each block of the positives, or else of the negatives: (blocks,) float64.

    positive: (P,), negative: (N,); block: int64 from 0, of each score of that class. Scores are sorted once. NaN where
    a score is NaN or no other is left. The AUROC is a sum over pairs (a U statistic of two samples; Hoeffding 1948), so
    that a block takes its own pairs with it: (U − U_block) / (P·N − P_block·N).
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
