"""Split conformal prediction."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def prediction_sets(probs: Tensor, y: Tensor, test_probs: Tensor, level: float) -> Tensor:
    """Return the classes of each conformal set: those with a probability of at least a threshold.

    Of n calibration rows, the threshold is the k-th smallest probability of the true class, k = ⌊(1 − level)(n + 1)⌋,
    counted from 1; where k = 0, there are too few rows, and each set has all classes. With calibration and test rows in
    random order, a set holds the true class at least at the rate `level` (Vovk, Gammerman & Shafer 2005; Sadinle, Lei &
    Wasserman 2019; `lac` in MAPIE).

    Args:
        probs: Class probabilities of the calibration rows, (n, C).
        y: Their classes, (n,) int64.
        test_probs: Class probabilities of the test rows, (N, C).
        level: The rate, between 0 and 1.

    Returns:
        Which classes each set has, (N, C) bool.
    """
    k = len(y) + 1 - math.ceil(round(level * (len(y) + 1), 9))  # 0.9 · 10 is a little more than 9
    if k < 1:
        return torch.ones_like(test_probs, dtype=torch.bool)
    found = probs.gather(1, y[:, None])[:, 0]
    return test_probs >= found.sort().values[k - 1]
