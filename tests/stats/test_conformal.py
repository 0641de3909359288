import math

import numpy as np
import pytest
import torch

from bdlbench.stats.conformal import prediction_sets


def draw(num, classes, seed):
    """Probabilities, and classes drawn from less sharp ones: an overconfident classifier."""
    rng = np.random.default_rng(seed)
    probs = torch.from_numpy(1.5 * rng.standard_normal((num, classes))).softmax(-1)
    true = probs.sqrt() / probs.sqrt().sum(1, keepdim=True)
    y = (rng.random((num, 1)) > true.cumsum(1).numpy()).sum(1).clip(0, classes - 1)
    return probs, torch.from_numpy(y)


def test_sets_by_hand():
    # nine rows whose class has the probabilities 0.1 … 0.9: at level 0.8, k = ⌊0.2 · 10⌋ = 2, so the threshold is 0.2
    right = torch.arange(1, 10).double() / 10
    probs, y = torch.stack([right, 1 - right], 1), torch.zeros(9, dtype=torch.int64)
    test = torch.tensor([[0.2, 0.8], [0.19, 0.81], [0.5, 0.5]], dtype=torch.float64)
    found = prediction_sets(probs, y, test, 0.8)
    assert found.tolist() == [[True, True], [False, True], [True, True]]


def test_too_few_rows_leave_every_class_in():
    probs, y = draw(8, 3, 0)
    test, _ = draw(5, 3, 1)
    assert prediction_sets(probs, y, test, 0.9).all()  # nine rows are the least for which a set can lack a class
    probs, y = draw(9, 3, 0)
    least = probs.gather(1, y[:, None]).min()
    assert torch.equal(prediction_sets(probs, y, test, 0.9), test >= least)


@pytest.mark.parametrize(("num", "level"), [(39, 0.9), (60, 0.8)])
def test_the_true_class_is_in_at_the_promised_rate(num, level):
    """Between the level and 1/(n + 1) above it, on average over calibration rows: within 4 standard errors."""
    rates = []
    for seed in range(300):
        probs, y = draw(num + 100, 4, seed)
        sets = prediction_sets(probs[:num], y[:num], probs[num:], level)
        rates.append(float(sets.gather(1, y[num:, None]).double().mean()))
    error = 4 * np.std(rates) / math.sqrt(len(rates))
    assert level - error < np.mean(rates) < level + 1 / (num + 1) + error


# the classes in all sets of 150 test rows by MAPIE 1.6.0, SplitConformalClassifier(conformity_score="lac", prefit=True)
@pytest.mark.parametrize(
    ("num", "level", "seed", "size"), [(57, 0.9, 0, 494), (99, 0.9, 1, 429), (200, 0.8, 2, 312), (30, 0.95, 3, 544)]
)
def test_mapie(num, level, seed, size):
    probs, y = draw(num, 4, seed)
    test, _ = draw(150, 4, seed + 10)
    assert int(prediction_sets(probs, y, test, level).sum()) == size
