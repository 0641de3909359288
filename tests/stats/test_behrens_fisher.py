import math

import numpy as np
import pytest
from scipy import stats

from bdlbench.stats.behrens_fisher import critical, critical_at, p_value


@pytest.mark.parametrize("df", [1, 2, 4.5, 19])
@pytest.mark.parametrize("t", [0.5, 2.0, 30.0])
def test_one_part_alone_is_students_t(df, t):
    assert p_value(t, [1, 0], [df, 299]) == pytest.approx(2 * stats.t.sf(t, df), rel=1e-4)


@pytest.mark.parametrize("t", [0.5, 2.0, 4.0])
def test_the_other_part_alone_is_too(t):
    assert p_value(-2 * t, [0, 4], [2, 299]) == pytest.approx(2 * stats.t.sf(t, 299), rel=1e-3)


@pytest.mark.parametrize("estimate", [1.0, 3.0, 8.0])
def test_both_parts_by_monte_carlo(estimate):
    rng = np.random.default_rng(0)
    spread = 0.3 * 2 / rng.chisquare(2, 400_000) + 0.7 * 44 / rng.chisquare(44, 400_000)
    draws = 2 * stats.norm.sf(estimate / np.sqrt(spread))
    assert abs(p_value(estimate, [0.3, 0.7], [2, 44]) - draws.mean()) < 4 * draws.std() / math.sqrt(len(draws))


@pytest.mark.parametrize("estimate", [1.0, 3.0, 8.0])
def test_three_parts_by_monte_carlo(estimate):
    rng = np.random.default_rng(1)
    parts, dfs = [0.2, 0.5, 0.3], [2, 9, 44]
    spread = sum(part * df / rng.chisquare(df, 400_000) for part, df in zip(parts, dfs, strict=True))
    draws = 2 * stats.norm.sf(estimate / np.sqrt(spread))
    assert abs(p_value(estimate, parts, dfs) - draws.mean()) < 4 * draws.std() / math.sqrt(len(draws))


def test_a_third_part_that_is_nothing_changes_nothing():
    assert p_value(3.0, [0.4, 0.6, 0.0], [2, 9, 44]) == pytest.approx(p_value(3.0, [0.4, 0.6], [2, 9]), rel=1e-3)
    assert p_value(3.0, [0.4, 0.0, 0.6], [2, 9, 44]) == pytest.approx(p_value(3.0, [0.4, 0.6], [2, 44]), rel=1e-3)


def test_it_lies_between_the_two():
    p = p_value(4.0, [np.linspace(0, 1, 11), 1 - np.linspace(0, 1, 11)], [2, 299])
    assert (np.diff(p) > 0).all()


def test_edges():
    assert p_value(0.0, [1, 1], [2, 9]) == pytest.approx(1)
    assert p_value(0.0, [0, 0], [2, 9]) == pytest.approx(1)
    assert p_value(1.0, [0, 0], [2, 9]) == pytest.approx(0)
    assert math.isnan(p_value(1.0, [math.nan, 1], [2, 9]))


@pytest.mark.parametrize("level", [0.05, 0.05 / 12])
def test_critical_is_the_inverse(level):
    shares = np.array([0.0, 0.2, 1.0])
    parts = [shares, 1 - shares]
    assert p_value(critical(parts, [4, 299], level), parts, [4, 299]) == pytest.approx([level] * 3, rel=1e-6)
    assert critical([1.0, 0.0], [4, 299], level) == pytest.approx(stats.t.isf(level / 2, 4), rel=1e-4)


def test_the_curve_is_fine_enough_to_interpolate():
    between = np.linspace(0.003, 0.997, 40)
    expected = critical([between, 1 - between], [2, 299], 0.05 / 12)
    assert critical_at([between], (2.0, 299.0), 0.05 / 12) == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_so_is_the_surface_of_three_parts():
    first, second = np.random.default_rng(0).dirichlet([1, 1, 1], size=30).T[:2]
    expected = critical([first, second, 1 - first - second], [2, 9, 299], 0.05 / 12)
    assert critical_at([first, second], (2.0, 9.0, 299.0), 0.05 / 12) == pytest.approx(expected, rel=0.03)
