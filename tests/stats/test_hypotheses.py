"""Statements about means: hand-worked p-values, limits, and how often a verdict is wrong."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bdlbench.stats.hypotheses import MeanEstimate, Statement, judge, over_replicates, over_splits, over_trials

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("calibration", ROOT / "scripts" / "hypotheses_calibration.py")
calibration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(calibration)

RUNS = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # mean 3, variance 2.5


def test_the_tails_are_students() -> None:
    statement = Statement("mean", over_replicates(RUNS), low=2.0)
    right = stats.ttest_1samp(RUNS, 2.0, alternative="greater").pvalue
    assert statement.p_outside == pytest.approx(right, rel=1e-12)
    assert statement.p_inside == pytest.approx(1 - right, rel=1e-12)
    low, high = statement.interval()
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, 3.0, math.sqrt(0.5)), rel=1e-9)


def test_between_two_bounds_both_must_be_shown() -> None:
    """Two one-sided tests: Schuirmann 1987."""
    statement = Statement("mean", over_replicates(RUNS), 2.0, 9.0)
    assert statement.p_outside == pytest.approx(stats.ttest_1samp(RUNS, 2.0, alternative="greater").pvalue)
    outside = Statement("mean", over_replicates(RUNS), 0.0, 1.0)
    refuted = stats.ttest_1samp(RUNS, 1.0, alternative="greater").pvalue
    assert outside.p_inside == pytest.approx(2 * refuted)


def test_overlapping_training_sets_widen_the_interval() -> None:
    plain, corrected = over_replicates(RUNS), over_splits(RUNS, 1 / 3)
    assert plain.variance == pytest.approx(0.5)
    assert corrected.variance == pytest.approx((1 / 5 + 1 / 3) * 2.5)


@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0, 3.0], [3.0, math.nan, 3.1]])
def test_without_a_variance_nothing_is_shown_or_refuted(values: list[float]) -> None:
    for low in (0.0, 10.0):
        found = judge([Statement("mean", over_replicates(values), low=low)])
        assert found.verdict == "inconclusive"


def test_a_statement_without_variance_blocks_holds_but_not_its_opposite() -> None:
    sure = Statement("sure", MeanEstimate(5.0, 0.01, 10), low=0.0)
    unknown = Statement("unknown", over_replicates([1.0]), low=0.0)
    false = Statement("false", MeanEstimate(-5.0, 0.01, 10), low=0.0)
    assert judge([sure]).verdict == "holds"
    assert judge([sure, unknown]).verdict == "inconclusive"
    assert judge([sure, unknown]).deciding == 1
    told = judge([sure, unknown, false])
    assert (told.verdict, told.deciding) == ("does not hold", 2)


def test_many_statements_need_more_to_refute_one() -> None:
    weak = Statement("weak", MeanEstimate(-2.0, 1.0, 1000), low=0.0)  # one-sided p = 2.3 %
    sure = [Statement("sure", MeanEstimate(50.0, 1.0, 1000), low=0.0)] * 3
    assert judge([weak]).verdict == "does not hold"
    assert judge([weak, *sure]).verdict == "inconclusive"


def test_a_share_is_binomial() -> None:
    """Five of ten above a tenth: Σ_{k ≥ 5} C(10, k) 0.1ᵏ 0.9¹⁰⁻ᵏ = 0.0016349; a t interval is of another law."""
    five = Statement("share", over_trials([True, False] * 5), low=0.1)
    assert five.p_outside == pytest.approx(0.0016349374, rel=1e-9)
    assert five.p_inside == pytest.approx(stats.binom.cdf(5, 10, 0.1))
    assert five.interval() == pytest.approx((stats.beta.ppf(0.025, 5, 6), stats.beta.ppf(0.975, 6, 5)))


def test_none_and_all_of_the_trials_say_something_too() -> None:
    """Where Student's t sees equal numbers, without variance."""
    every, none = over_trials([True] * 10), over_trials([False] * 10)
    assert every.interval(0.05) == pytest.approx((0.025**0.1, 1.0))
    assert none.interval(0.05) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert judge([Statement("share", every, low=0.1)]).verdict == "holds"
    assert judge([Statement("share", none, low=0.3)]).verdict == "does not hold"  # 0.7¹⁰ = 2.8 %
    assert judge([Statement("share", none, low=0.1)]).verdict == "inconclusive"  # 0.9¹⁰ = 35 %
    assert judge([Statement("share", every, 0.1, 0.9)]).verdict == "inconclusive"


def test_there_is_no_hypothesis_without_a_statement() -> None:
    with pytest.raises(ValueError):
        judge([])


@pytest.mark.parametrize(
    ("low", "high"), [(-math.inf, math.inf), (math.inf, math.inf), (2.0, 1.0), (1.0, 1.0), (math.nan, 1.0)]
)
def test_bounds_that_state_nothing_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError):
        Statement("anything", MeanEstimate(0.0, 1.0, 9), low, high)


@pytest.mark.slow
@pytest.mark.parametrize("replicates", [3, 20])
@pytest.mark.parametrize("statements", [1, 12])
def test_a_verdict_is_wrong_at_most_as_often_as_it_says(replicates: int, statements: int) -> None:
    trials = 400
    found = calibration.rates(calibration.Design(statements, replicates), trials)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert found.falsely_holds <= allowed
    assert found.falsely_refused <= allowed
    assert found.found >= 0.8
