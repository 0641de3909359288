import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from bdlbench.stats.rank_tests import cliques, friedman, mean_ranks, pairs, probability_of_improvement, wilcoxon


def test_mean_ranks_by_hand():
    assert mean_ranks(np.array([[1.0, 2.0, 3.0], [5.0, 4.0, 5.0]])).tolist() == [1.75, 1.5, 2.75]


def test_friedman_by_its_formula():
    values = np.random.default_rng(0).normal(size=(8, 4))
    ranks, n, k = mean_ranks(values), 8, 4
    chi2 = 12 * n / (k * (k + 1)) * ((ranks**2).sum() - k * (k + 1) ** 2 / 4)
    assert friedman(values) == pytest.approx(stats.chi2.sf(chi2, k - 1))
    assert math.isnan(friedman(values[:, :2]))
    assert friedman(np.ones((4, 3))) == 1


def test_wilcoxon_of_n_blocks_has_a_smallest_p():
    for n in (3, 5, 6, 8):
        assert wilcoxon(np.zeros(n), np.arange(1.0, n + 1)) == pytest.approx(2 / 2**n)
    assert wilcoxon(np.ones(4), np.ones(4)) == 1


def test_wilcoxon_with_ties_over_all_signs():
    gaps = np.array([1.0, 1.0, -2.0, 3.0, 3.0, 3.0])
    ranks = stats.rankdata(np.abs(gaps))
    sums = [abs(np.dot(signs, ranks)) for signs in product([-1, 1], repeat=6)]
    expected = np.mean([s >= abs(np.dot(np.sign(gaps), ranks)) - 1e-9 for s in sums])
    assert wilcoxon(gaps, np.zeros(6)) == pytest.approx(expected)
    assert wilcoxon(np.append(gaps, 0.0), np.zeros(7)) == pytest.approx(expected)  # a zero says nothing


def test_wilcoxon_without_ties_is_scipys():
    x = np.random.default_rng(1).normal(size=9)
    assert wilcoxon(x, np.zeros(9)) == pytest.approx(stats.wilcoxon(x, mode="exact").pvalue)


def test_cliques():
    apart = {frozenset(p) for p in [(0, 2), (0, 3), (1, 3)]}
    assert cliques(range(4), apart) == [(0, 1), (1, 2), (2, 3)]
    assert cliques(range(3), set()) == [(0, 1, 2)]
    assert cliques(range(3), {frozenset(p) for p in pairs(3)}) == []
    assert cliques(range(3), {frozenset((0, 1))}) == [(1, 2)]


def test_probability_of_improvement():
    low, high = [np.array([1.0, 2.0]), np.array([0.0, 0.0])], [np.array([3.0, 4.0]), np.array([0.0, 0.0])]
    p, below, above = probability_of_improvement(low, high)
    assert p == 0.75  # always better on the first, always tied on the second
    assert below < 0.75 < above
    assert probability_of_improvement(low[:1], high[:1])[2] == 1


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize(("blocks", "seeds"), [(2, 3), (2, 5), (6, 3), (6, 10)])
def test_its_interval_covers(truth, blocks, seeds):
    rng = np.random.default_rng([blocks, seeds])
    shift = math.sqrt(2) * stats.norm.ppf(truth)
    hits, tables = 0, 200
    for _ in range(tables):
        a, b = rng.normal(size=(blocks, seeds)), rng.normal(shift, 1, size=(blocks, seeds))
        _, low, high = probability_of_improvement(list(a), list(b))
        hits += low <= truth <= high
    assert hits >= stats.binom.isf(0.999, tables, 0.93)  # 92 to 98 % seen in 400 tables each
