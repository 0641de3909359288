"""The objective of a classifier trained together with a density of its inputs, few of which have a label."""

from __future__ import annotations

import torch
from torch import Tensor

from bdlbench.core.layout import PerRow, per_row


def partly_labelled_bound(joint: Tensor, logits: Tensor, y: Tensor, weight: PerRow) -> Tensor:
    """Return the contribution of each example to the objective of M2: Kingma et al. 2014, eqs. 6 to 9, signs turned.

        label known     −L(x, y) + weight · log q(y | x)                        ≤ log p(x, y) where weight ≥ 0
        label unknown   −U(x) = Σ_c q(c | x) (−L(x, c)) + H(q(y | x))           ≤ log p(x)

    Args:
        joint: −L(x, c), a lower bound of log p(x, y = c) in nats, ([M,] R, B, C).
        logits: Logits of q(y | x), ([M,] R, B, C).
        y: The class, or −1 where it is unknown, (R, B) int64.
        weight: Weight of the classifier's log-likelihood, a number or (R,).

    Returns:
        Nats, ([M,] R, B).
    """
    probs, log_probs = logits.softmax(-1), logits.log_softmax(-1)
    unknown = (probs * (joint - log_probs)).sum(-1)
    known = _of_class(joint, y) + per_row(weight, joint, 2) * _of_class(log_probs, y)
    return torch.where(y < 0, unknown, known)


def _of_class(values: Tensor, y: Tensor) -> Tensor:
    """Select values (…, B, C) of class y (R, B); of class 0 where y is −1: (…, B)."""
    index = y.clamp_min(0).expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)
