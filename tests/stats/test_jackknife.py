import math

import numpy as np
import pytest
import torch

from bdlbench.stats.discrimination import auroc, without_blocks
from bdlbench.stats.jackknife import blocks, jackknife_variance, pseudo_values


def test_blocks_spread_what_is_sorted():
    assert blocks(7, most=3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert blocks(3).tolist() == [0, 1, 2]


def test_of_a_mean_they_are_the_means_of_blocks():
    x = np.random.default_rng(0).normal(size=(2, 103))
    block = blocks(103)
    left_out = np.stack([x[:, block != b].mean(1) for b in range(50)], axis=1)
    found = pseudo_values(x.mean(1), left_out, block)
    expected = [x[:, block == b].mean(1) for b in range(50)]
    assert found == pytest.approx(np.stack(expected, axis=1))


def test_the_variance_of_an_auroc_is_delongs():
    """Two samples, their jackknife variances added, against DeLong, DeLong & Clarke-Pearson 1988 by its placements."""
    rng = np.random.default_rng(1)
    high, low = rng.normal(1, 1, 50), rng.normal(size=40)
    wins = (high[:, None] > low).astype(float)
    delong = wins.mean(1).var(ddof=1) / 50 + wins.mean(0).var(ddof=1) / 40

    scores = torch.from_numpy(high), torch.from_numpy(low)
    whole = auroc(*scores)[None].numpy()
    parts = []
    for positives in (True, False):
        block = blocks(50 if positives else 40)
        left_out = without_blocks(auroc, *scores, torch.from_numpy(block), positives)
        parts.append(pseudo_values(whole, left_out[None].numpy(), block))
    assert sum(p.var(ddof=1) / p.size for p in parts) == pytest.approx(delong, rel=1e-9)


def test_jackknife_variance_of_a_mean():
    x = np.random.default_rng(2).normal(size=10)
    left_out = (x.sum() - x) / 9
    assert jackknife_variance(left_out) == pytest.approx(x.var(ddof=1) / 10)
    assert math.isclose(float(jackknife_variance(np.ones(10))), 0)
