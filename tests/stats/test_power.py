"""What could have been shown, by the textbook where it has it, and by simulation: scripts/calibration.py."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bdlbench.stats.crossed import Difference
from bdlbench.stats.power import detectable, seeds_to_settle

SCRIPT = Path(__file__).parents[2] / "scripts" / "calibration.py"


@pytest.fixture(scope="module")
def calibration():
    spec = importlib.util.spec_from_file_location("calibration", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(estimate, seed, seed_df, example=0.0, example_df=1.0):
    return Difference(np.array(estimate), np.array(seed), seed_df, np.array(example), example_df)


@pytest.mark.parametrize("dominated", ["seeds", "examples"])
@pytest.mark.parametrize(
    ("seeds", "noise"), [(3, "normal"), (5, "normal"), (3, "skewed"), (5, "skewed"), (20, "skewed")]
)
def test_of_500_null_tables_at_most_one_in_twenty_errs(calibration, seeds, dominated, noise):
    rate = calibration.null_rates(seeds, calibration.DOMINATED[dominated], noise)["ours"]
    assert rate <= stats.binom.isf(0.025, 500, 0.05) / 500


@pytest.mark.parametrize("seeds", [3, 5, 20])
@pytest.mark.parametrize("dominated", ["seeds", "examples"])
def test_a_difference_of_the_reported_size_is_found(calibration, seeds, dominated):
    rate = calibration.found_rate(seeds, calibration.DOMINATED[dominated], "skewed", tables=200)
    assert 0.75 <= rate <= (0.95 if seeds == 3 else 0.88)  # of three seeds little is known: on the safe side


def test_unequal_numbers_of_seeds_without_partners(calibration):
    rate = calibration.unpaired_rate(3, 10, calibration.DOMINATED["seeds"], tables=200)
    assert rate <= stats.binom.isf(0.025, 200, 0.05) / 200


def test_a_t_test_over_seeds_would_not_do(calibration):
    rates = calibration.null_rates(5, calibration.DOMINATED["examples"], "normal", tables=50)
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
