"""The jackknife: what each example, or block of examples, contributes to a statistic that is no mean over examples."""

from __future__ import annotations

import numpy as np

from bdlbench.stats.behrens_fisher import Array

BLOCKS = 50
"""The most blocks that examples are divided into."""


def blocks(size: int, most: int = BLOCKS) -> Array:
    """Assign examples to blocks: every `most`-th example belongs to the same one, so that sorted classes are spread.

    Args:
        size: N, the number of examples.
        most: The most blocks.

    Returns:
        The block of each example, (N,) from 0.
    """
    return np.arange(size) % min(size, most)


def pseudo_values(whole: Array, left_out: Array, block: Array) -> Array:
    """Return the pseudo-value h_b·θ − (h_b − 1)·θ_(−b) of each block b, with h_b = N / its size.

    Quenouille 1956; Busing et al. 1999. Of a mean these are the means of the blocks. Blocks hold several examples, as
    for quantiles (Shao & Wu 1989), because a calibration error bends where the gap of a bin changes sign.

    Args:
        whole: θ, the statistic of all N examples, (R,).
        left_out: θ_(−b), the statistic without each block, (R, blocks).
        block: The block of each example, (N,).

    Returns:
        (R, blocks), in the unit of the statistic.
    """
    share = len(block) / np.bincount(block)
    values: Array = share * whole[:, None] - (share - 1) * left_out
    return values


def jackknife_variance(left_out: Array) -> Array:
    """Return (G − 1)/G Σ_g (θ_(−g) − mean)², the variance of θ over groups. Tukey 1958.

    Args:
        left_out: θ_(−g), the statistic without each group, (G, …).

    Returns:
        (…), in the squared unit of the statistic.
    """
    groups = len(left_out)
    variance: Array = (groups - 1) * left_out.var(0)
    return variance
