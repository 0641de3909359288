"""The objective of a classifier trained together with a density of its inputs, of which few have a label."""

from __future__ import annotations

import torch
from torch import Tensor

from bdlbench.core.layout import PerRow, per_row


def partly_labelled_bound(joint: Tensor, logits: Tensor, y: Tensor, weight: PerRow) -> Tensor:
    """What each example adds to the objective in nats, ([M,] R, B): Kingma et al. 2014 (M2), eqs. 6 to 9, signs turned.

    joint ([M,] R, B, C): −L(x, c), a bound of log p(x, y = c); logits (the same shape) of q(y | x); y (R, B): the
    class, or −1 where it is unknown; weight: a number or (R,).

        known     −L(x, y) + weight · log q(y | x)                        ≤ log p(x, y) where weight ≥ 0
        unknown   −U(x) = Σ_c q(c | x) (−L(x, c)) + H(q(y | x))           ≤ log p(x)
    """
    probs, log_probs = logits.softmax(-1), logits.log_softmax(-1)
    unknown = (probs * (joint - log_probs)).sum(-1)
    known = _of_class(joint, y) + per_row(weight, joint, 2) * _of_class(log_probs, y)
    return torch.where(y < 0, unknown, known)


def _of_class(values: Tensor, y: Tensor) -> Tensor:
    """values (…, B, C) of class y (R, B), of class 0 where y is −1: (…, B)."""
    index = y.clamp_min(0).expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)
