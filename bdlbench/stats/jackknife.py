"""Statistics that are no mean over examples, as if they were: what each example, or block of them, contributes."""

from __future__ import annotations

import numpy as np

from bdlbench.stats.behrens_fisher import Array

BLOCKS = 50


def blocks(size: int, most: int = BLOCKS) -> Array:
    """(N,) the block of each example: every `most`-th belongs together, so that sorted classes are spread."""
    return np.arange(size) % min(size, most)


def pseudo_values(whole: Array, left_out: Array, block: Array) -> Array:
    """h_b·θ − (h_b − 1)·θ_(−b) for each block b, h_b = N / its size: (R, blocks). Quenouille 1956; Busing et al. 1999.

    whole: (R,) the statistic of all N examples; left_out: (R, blocks) without each block; block: (N,) that of each
    example. Of a mean these are the means of the blocks. Blocks of several examples, as for quantiles (Shao & Wu 1989),
    and since calibration errors bend where a bin's gap changes sign.
    """
    share = len(block) / np.bincount(block)
    values: Array = share * whole[:, None] - (share - 1) * left_out
    return values


def jackknife_variance(left_out: Array) -> Array:
    """(G − 1)/G Σ_g (θ_(−g) − mean)² of (G, …), the variance of θ over groups. Tukey 1958."""
    groups = len(left_out)
    variance: Array = (groups - 1) * left_out.var(0)
    return variance
