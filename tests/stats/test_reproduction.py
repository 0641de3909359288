"""The verdict on a published number: hand-worked rows, limits, and how often it is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bdlbench.stats.reproduction import Agreement, Limits, Published, PublishedRow, judge, published

pytestmark = pytest.mark.slow

OPEN = Limits(0.0, math.inf)
RUNS = np.array([1.0, 2.0, 3.0, 4.0, 5.0])  # mean 3, variance 2.5


def one(ours: np.ndarray, theirs: Published, limits: Limits = OPEN) -> Agreement:
    (found,) = judge([PublishedRow(theirs, ours, limits)])
    return found


def test_numbers_keep_their_last_digit_and_the_spread_its_kind() -> None:
    row = published("2.970", 20, "0.19", "standard error")
    assert (row.value, row.half_digit, row.spread, row.spread_half) == (2.97, 0.0005, 0.19, 0.005)
    assert row.variance == pytest.approx(0.19**2)
    assert published("2.97", 20, "0.85", "standard deviation").variance == pytest.approx(0.85**2 / 20)
    assert published("120", 3).half_digit == 0.5
    assert published("-2.46", 20).value == -2.46


def test_a_spread_printed_as_zero_may_be_half_a_digit() -> None:
    assert published("0.00", 20, "0.00", "standard error").variance == pytest.approx(0.005**2)


def test_no_spread_and_a_spread_of_one_run_give_no_variance() -> None:
    assert math.isnan(published("98.1", 1).variance)
    assert math.isnan(published("98.1", 1, "0.2", "standard deviation").variance)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("2.9x", 20), "2.9x"),
        (("nan", 20), "nan"),
        (("inf", 20), "inf"),
        (("2.9", 0), "0"),
        (("2.9", 20, "-0.1", "standard error"), "-0.1"),
        (("2.9", 20, "0.1"), "0.1"),
        (("2.9", 20, "", "standard error"), "nothing"),
    ],
)
def test_what_is_no_published_number_is_refused(arguments: tuple, name: str, refused: Any) -> None:
    with refused(name, error=ValueError):
        published(*arguments)


def test_both_spreads_count() -> None:
    """Like Welch's test where both have many degrees of freedom, which the exact one is close to."""
    ours = np.random.default_rng(0).normal(0.1, 1.0, 400)
    theirs = published("0.0000", 500, "1.20000", "standard deviation")
    welch = stats.ttest_ind_from_stats(ours.mean(), ours.std(ddof=1), 400, 0.0, 1.2, 500, equal_var=False)
    assert one(ours, theirs).corrected_p == pytest.approx(welch.pvalue, rel=1e-2)
    assert 0.01 < welch.pvalue < 0.95  # the comparison above is not one of zeros


def test_without_a_spread_theirs_is_one_more_run() -> None:
    """The prediction interval: t = (3 − 0) / sqrt(2.5·(1 + 1/5)), 4 degrees of freedom."""
    found = one(RUNS, published("0.000000", 1))
    assert found.corrected_p == pytest.approx(2 * stats.t.sf(3 / math.sqrt(3.0), 4), rel=1e-3)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(3.0), rel=1e-3)


@pytest.mark.parametrize(("sd", "of_one_run"), [("4.0", 16.0), ("0.3", 2.5)])
def test_a_standard_deviation_of_unstated_runs_is_that_of_one_more_run_if_larger_than_ours(
    sd: str, of_one_run: float
) -> None:
    """Ours vary by 2.5: the variance is 2.5 / 5 + 4², or + 2.5, of 4 degrees of freedom."""
    found = PublishedRow(published("0.0", 1, sd, "standard deviation"), RUNS, OPEN).difference
    assert (float(found.seed), found.seeds[0].df) == (pytest.approx(0.5 + of_one_run), 4.0)
    alone = PublishedRow(published("0.0", 1, sd, "standard deviation"), RUNS[:1], OPEN).difference
    assert math.isnan(float(alone.seed))


def test_runs_of_theirs_that_vary_more_and_are_not_counted_are_seldom_called_different() -> None:
    """Equal truths, five runs each, theirs vary ten times as much: 40 tables of three rows."""
    rng, tables, alarms = np.random.default_rng(8), 40, 0
    for _ in range(tables):
        rows = []
        for _ in range(3):
            ours, theirs = rng.standard_normal(5), 10 * rng.standard_normal(5)
            printed = published(f"{theirs.mean():.3f}", 1, f"{theirs.std(ddof=1):.3f}", "standard deviation")
            rows.append(PublishedRow(printed, ours, OPEN))
        alarms += any(found.verdict == "not reproduced" for found in judge(rows))
    assert stats.binomtest(alarms, tables, 0.05, alternative="greater").pvalue > 1e-3


def test_one_run_of_ours_is_one_more_like_theirs() -> None:
    found = PublishedRow(published("0.0", 5, "2.0", "standard deviation"), np.array([1.0]), OPEN).difference
    assert (float(found.seed), found.seeds[0].df, float(found.example)) == (pytest.approx(4.0 * (1 + 1 / 5)), 4.0, 0.0)


def test_one_run_on_each_side_says_nothing() -> None:
    found = one(np.array([1.0]), published("9.0", 1))
    assert found.verdict == "inconclusive"
    assert math.isnan(found.corrected_p)
    assert math.isnan(found.margin)


def test_published_splits_are_paired() -> None:
    """Two papers that agree on each split to .1 while splits vary by 10."""
    theirs = 10 * np.random.default_rng(1).standard_normal(20)
    ours = theirs + 0.1 * np.random.default_rng(2).standard_normal(20) + 0.2
    row = published(f"{theirs.mean():.6f}", 20, f"{theirs.std(ddof=1):.6f}", "standard deviation")
    (paired,) = judge([PublishedRow(row, ours, OPEN, by_split=theirs)])
    assert paired.corrected_p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-2, abs=1e-6)
    assert paired.verdict == "not reproduced"
    assert one(ours, row).verdict == "reproduced"  # unpaired nothing of it is seen


def test_values_by_split_are_known_beyond_the_rounding_of_their_mean() -> None:
    """A mean printed as 1 is of .6 to 1.4; its splits say .7, and ours is 1."""
    theirs = 0.7 + 0.01 * np.array([-1.0, 1.0, 0.0, -1.0, 1.0])
    ours = 1.0 + 0.01 * np.array([1.0, -1.0, 0.0, 1.0, -1.0])
    (paired,) = judge([PublishedRow(published("1", 5, "0", "standard error"), ours, OPEN, by_split=theirs)])
    assert paired.verdict == "not reproduced"
    assert one(ours, published("1", 5, "0", "standard error")).verdict == "reproduced"


def test_rounding_is_no_difference() -> None:
    ours = 0.72 + 1e-4 * np.array([-1.0, 0.0, 1.0, 0.0])
    assert one(ours, published("0.7", 20, "0.0001", "standard error")).verdict == "reproduced"
    assert one(ours, published("0.700", 20, "0.0001", "standard error")).verdict == "not reproduced"


def test_not_refused_is_not_reproduced() -> None:
    """Two splits cannot show much: within their margin, but a margin that says nothing."""
    found = one(np.array([2.0, 4.0]), published("3.0", 20, "0.1", "standard error"), Limits(0.01, 1.0))
    assert found.verdict == "inconclusive"
    assert found.margin > 1.0
    assert one(np.array([2.0, 4.0]), published("3.0", 20, "0.1", "standard error")).verdict == "reproduced"


def test_a_difference_that_is_shown_and_immaterial_is_reproduced() -> None:
    ours = 0.51 + 1e-3 * np.sin(np.arange(50.0))
    theirs = published("0.5000", 50, "0.0010", "standard deviation")
    assert one(ours, theirs).verdict == "not reproduced"
    assert one(ours, theirs, Limits(0.02, 1.0)).verdict == "reproduced"


def test_what_leaves_nothing_to_chance_has_every_digit_or_is_not_reproduced() -> None:
    ours = np.array([10.4580, 10.4588])  # mean 10.4584
    rows = [
        PublishedRow(published(value, 2, *spread), ours, OPEN, exact=True)
        for value, *spread in (
            ("10.458",),
            ("10.459",),
            ("10.458", "0.0004", "standard deviation"),  # √(Σ/n)
            ("10.458", "0.0006", "standard deviation"),  # √(Σ/(n − 1))
            ("10.458", "0.0005", "standard deviation"),
            ("10.458", "0.0003", "standard error"),
            ("10.458", "0.0005", "standard error"),
        )
    ]
    met = [True, False, True, True, False, True, False]
    assert [a.verdict for a in judge(rows)] == ["reproduced" if same else "not reproduced" for same in met]


def test_rows_are_corrected_together() -> None:
    """One row at p = .03 is refused alone, and not among ten."""
    t = stats.t.isf(0.015, 4)
    row = published(f"{3 - t * math.sqrt(2.5 / 5):.9f}", 10**9, "0.000001", "standard error")
    calm = published("3.000000", 10**9, "0.000001", "standard error")
    assert one(RUNS, row).corrected_p == pytest.approx(0.03, rel=1e-2)
    assert one(RUNS, row).verdict == "not reproduced"
    many = judge([PublishedRow(row, RUNS, OPEN)] + [PublishedRow(calm, RUNS, OPEN)] * 9)
    assert many[0].corrected_p == pytest.approx(0.3, rel=1e-2)
    assert many[0].verdict != "not reproduced"


@pytest.mark.parametrize(
    ("ours", "theirs", "rows", "shared"),
    [(20, 20, 6, None), (3, 10, 3, None), (5, 1, 1, None), (20, 20, 6, 0.9), (5, 5, 3, 0.6)],
)
def test_it_is_wrong_as_rarely_as_it_says(ours: int, theirs: int, rows: int, shared: float | None) -> None:
    """Equal truths; then one row off by the margin that was stated for it. 120 tables of a fixed stream.

    shared: the correlation of both papers on one split, where their values are paired by split.
    """
    rng, tables = np.random.default_rng(5), 120

    def pairs(shift: float) -> list[Agreement]:
        drawn = []
        for row in range(rows):
            x, y = rng.standard_normal(ours), rng.standard_normal(theirs)
            if shared is not None:
                of_split = math.sqrt(shared) * rng.standard_normal(ours)
                x, y = (of_split + math.sqrt(1 - shared) * noise for noise in (x, y))
            kind = ("standard error", f"{y.std(ddof=1) / math.sqrt(theirs):.3f}") if theirs > 1 else ("none", "")
            printed = published(f"{y.mean():.3f}", theirs, kind[1], kind[0])
            by_split = None if shared is None else y
            drawn.append(PublishedRow(printed, x + (shift if row == 0 else 0.0), OPEN, by_split))
        return judge(drawn)

    alarms = found = 0
    for _ in range(tables):
        equal = pairs(0.0)
        alarms += any(a.verdict == "not reproduced" for a in equal)
        found += pairs(equal[0].margin)[0].verdict == "not reproduced"
    assert stats.binomtest(alarms, tables, 0.05, alternative="greater").pvalue > 1e-3
    assert stats.binomtest(found, tables, 0.80, alternative="less").pvalue > 1e-3
    assert found < tables or rows > 1  # the margin is no larger than it need be
