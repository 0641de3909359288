"""What could have been shown, by the textbook where it has it, and by simulation: scripts/calibration.py."""

import importlib.util
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bdlbench.stats.crossed import Difference, seed_part
from bdlbench.stats.power import detectable, seeds_to_settle

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "scripts" / "calibration.py"


@pytest.fixture(scope="module")
def calibration():
    spec = importlib.util.spec_from_file_location("calibration", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(estimate, seed, seed_df, example=0.0, example_df=1.0):
    return Difference(np.array(estimate), (seed_part(np.array(seed), seed_df),), np.array(example), example_df)


def at_most(rate, tables):
    """The largest share of tables that a test of 5 % shows, but for one simulation in forty."""
    assert rate <= stats.binom.isf(0.025, tables, 0.05) / tables


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize("kind", ["normal, mostly seeds", "normal, mostly examples", "skewed, mostly seeds"])
def test_of_500_null_tables_at_most_one_in_twenty_errs(calibration, seeds, kind):
    at_most(calibration.null_rates(calibration.CASES[kind], seeds, 300, 500)["ours"], 500)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("accuracy", "persistent", "examples"), [(0.98, 0.0, 50), (0.98, 0.9, 50), (0.95, 0.5, 300), (0.999, 0.0, 1000)]
)
def test_nor_do_a_few_errors_raise_alarms(calibration, seeds, accuracy, persistent, examples):
    """Equally many errors for every seed, by chance, are no certainty: 21 to 78 % of tables had an alarm."""
    draw = partial(calibration.errors, accuracy, persistent)
    at_most(calibration.null_rates(draw, seeds, examples, 400)["ours"], 400)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.2, 0.5, 2.0])
def test_nor_do_counts(calibration, seeds, spread):
    at_most(calibration.null_rates(partial(calibration.counts, spread), seeds, 1, 400)["ours"], 400)


@pytest.mark.parametrize("kind", ["ECE", "AUROC"])
def test_nor_do_statistics_that_are_jackknifed(calibration, kind):
    at_most(calibration.null_rates(calibration.JACKKNIFED[kind], 3, 300, 60)["ours"], 60)


def test_heavy_tails_that_are_symmetric_do_no_harm(calibration):
    at_most(calibration.null_rates(calibration.CASES["t(2.5), mostly examples"], 5, 300, 400)["ours"], 400)


def test_where_few_examples_skew_a_mean_it_is_said(calibration):
    """Bahadur & Savage 1956: nothing can be done for the interval, so a warning stands where it fails."""
    lognormal = calibration.null_rates(calibration.CASES["lognormal(2), mostly examples"], 5, 300, 100)
    assert lognormal["covered"] < 0.9 < lognormal["few"]
    assert calibration.null_rates(calibration.CASES["normal, mostly examples"], 5, 300, 100)["few"] < 0.01


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize(
    ("accuracy", "persistent", "examples"), [(0.98, 0.5, 50), (0.98, 0.9, 300), (0.999, 0.9, 1000)]
)
def test_falsely_equivalent_at_the_margin(calibration, seeds, accuracy, persistent, examples):
    draw = partial(calibration.errors, accuracy, persistent)
    at_most(calibration.falsely_equivalent_rate(draw, seeds, examples, 0.02, 400), 400)


@pytest.mark.parametrize("seeds", [3, 5, 20])
@pytest.mark.parametrize("kind", ["skewed, mostly seeds", "skewed, mostly examples"])
def test_a_difference_of_the_reported_size_is_found(calibration, seeds, kind):
    rate = calibration.found_rate(calibration.CASES[kind], seeds, 300, 200)
    assert 0.74 <= rate <= (0.95 if seeds == 3 else 0.88)  # of three seeds little is known: on the safe side


@pytest.mark.parametrize(("seeds_a", "seeds_b", "ratio"), [(3, 3, 10), (3, 10, 1), (2, 5, 1)])
def test_seeds_without_partners(calibration, seeds_a, seeds_b, ratio):
    """Unequal numbers and unequal variances: Welch's t errs in 11 % of tables; a plan by two parts found 27 to 44 %."""
    wrong, found = calibration.unpaired_rates(seeds_a, seeds_b, ratio, calibration.DOMINATED["seeds"], 200)
    at_most(wrong, 200)
    assert 0.7 <= found <= 0.95


@pytest.mark.parametrize("true", [0.0, 3.0])
def test_fresh_runs_of_the_advised_size_settle(calibration, true):
    rate, _ = calibration.settled_rate(5, 1.5, true)
    assert 0.72 <= rate <= 0.9


@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (5, 3), (10, 5)])
def test_equal_methods_keep_their_bold(calibration, methods, seeds):
    lost, best = calibration.bold_rates(methods, seeds, 200)
    at_most(lost, 200)
    at_most(best, 200)


def test_a_t_test_over_seeds_would_not_do(calibration):
    rates = calibration.null_rates(calibration.CASES["normal, mostly examples"], 5, 300, 50)
    assert rates["over seeds"] > 0.5 > 10 * rates["ours"] / 2


def test_with_many_degrees_of_freedom_it_is_the_textbooks():
    expected = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    assert detectable(difference(0, 4.0, 5000.0), 0.05) == pytest.approx(2 * expected, rel=0.01)
    assert detectable(difference(0, 0.0, 4.0, 4.0, 9999.0), 0.05) == pytest.approx(2 * expected, rel=0.01)


def test_nothing_to_detect():
    assert math.isnan(detectable(difference(0, 0.0, 4.0), 0.05))  # nothing varies: nothing is known
    assert math.isnan(detectable(difference(0, math.nan, 1.0), 0.05))


def test_seeds_that_settle_are_the_textbooks_where_the_variance_is_known():
    """Two one-sided tests at a true difference of 0: (t_{1−level/2} + t_{(1 + power)/2})²·σ²/margin² replicates."""
    found = difference(7.0, 4.0 / 1000, 999.0)  # σ = 2; what was seen of the difference has no say
    z = stats.norm.isf(0.05 / 24) + stats.norm.isf(0.1)
    assert seeds_to_settle(found, 1000, 1.0, 0.05 / 12) == pytest.approx((2 * z) ** 2, rel=0.08)


def test_what_seeds_cannot_settle():
    assert seeds_to_settle(difference(0.0, 0.5, 4.0), 5, 0.0, 0.05) == math.inf  # no margin: nothing to plan for
    assert seeds_to_settle(difference(1.0, 0.5, 4.0, example=1.0, example_df=299.0), 5, 1.0, 0.05) == math.inf
    assert seeds_to_settle(difference(0.0, 0.5, 4.0), 5, 1.0, 0.05) < 60
    assert math.isnan(seeds_to_settle(difference(1.0, math.nan, 1.0), 1, 0.5, 0.05))
