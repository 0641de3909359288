import numpy as np
import pytest

from bdlbench.stats.holm import holm


def test_by_hand():
    # sorted .005·4, .01·3, .03·2, .04·1, each at least its predecessor
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


def test_what_is_no_test_does_not_count():
    found = holm([0.02, np.nan, 0.04])
    assert found[[0, 2]] == pytest.approx([0.04, 0.04])
    assert np.isnan(found[1])
    assert np.isnan(holm([np.nan])).all()


def test_tables_at_once():
    p = np.random.default_rng(0).uniform(size=(3, 7)) / 20
    assert holm(p) == pytest.approx(np.stack([holm(row) for row in p]))


def test_stepping_down_is_the_same_as_rejecting():
    p = np.random.default_rng(1).uniform(size=200) ** 3 / 50
    order = np.sort(p)
    stops = np.flatnonzero(order > 0.05 / np.arange(len(p), 0, -1))
    assert (holm(p) <= 0.05).sum() == stops[0]
