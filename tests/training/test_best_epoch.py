"""Each row's best epoch, by held-out rows."""

from __future__ import annotations

import math

import torch

from bdlbench.training.best_epoch import after_epoch, before_the_first

SCORES = {  # by row, after epochs 1 to 6
    "rises": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "falls": [3.0, 2.0, 1.0, 9.0, 9.0, 9.0],
    "waits": [1.0, 0.0, 2.0, 1.0, 1.0, 9.0],
    "is no number": [math.nan] * 6,
    "recovers": [math.nan, 1.0, 2.0, math.nan, 3.0, 1.0],
}
BEST = {"rises": 6, "falls": 1, "waits": 3, "is no number": 1, "recovers": 5}
"""Worked out by hand for a patience of 2."""


def remembered(names, patience=2):
    best = before_the_first(torch.zeros(len(names), 4))
    for epoch in range(1, 7):
        flat = torch.full((len(names), 4), float(epoch))
        scores = torch.tensor([SCORES[name][epoch - 1] for name in names], dtype=torch.float64)
        best = after_epoch(best, flat, scores, epoch, patience)
    return best


def test_every_row_keeps_its_own_best_epoch_and_is_done_after_its_patience():
    best = remembered(list(SCORES))
    assert best["epoch"].tolist() == list(BEST.values())
    assert torch.equal(best["flat"], best["epoch"].unsqueeze(1).expand(-1, 4).float())
    assert best["done"].tolist() == [False, True, True, True, False]


def test_a_row_remembers_the_same_alone():
    together = remembered(list(SCORES))
    for r, name in enumerate(SCORES):
        for key, value in remembered([name]).items():
            torch.testing.assert_close(together[key][r : r + 1], value, rtol=0, atol=0, equal_nan=True)


def test_without_patience_no_row_is_done():
    best = remembered(list(SCORES), 0)
    assert not best["done"].any()
    assert best["epoch"].tolist() == [6, 4, 6, 1, 5]
