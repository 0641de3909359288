"""Correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values so that rejecting those up to α keeps the chance of any false rejection at most α. Holm 1979.

    The i-th smallest becomes max over j ≤ i of min(1, (m − j + 1)·p_j).

    Args:
        p_values: (…, m). NaN means no test.

    Returns:
        Adjusted p-values (…, m). NaN stays NaN, and m does not count it.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, axis=-1)  # NaN last
    tests = (~np.isnan(p)).sum(-1, keepdims=True)
    factors = np.maximum(tests - np.arange(p.shape[-1]), 1)
    ordered = np.take_along_axis(p, order, -1)
    running = np.maximum.accumulate(np.minimum(ordered * factors, 1.0), axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, running, -1)
    return adjusted
