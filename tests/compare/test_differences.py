"""Verdicts of made-up differences, by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pytest

from bdlbench.compare import differences
from bdlbench.compare.differences import (
    LEVEL,
    Apart,
    Better,
    Finding,
    find,
    judge,
    leaders,
    monte_carlo_variance,
    told_apart,
)
from bdlbench.compare.measured import ExampleLayout, Measured
from bdlbench.core.spec import Replicate
from bdlbench.stats.holm import holm

WHOLE = ExampleLayout()


def measured(values: Sequence[float], examples: Sequence[Sequence[float]] = (), first: int = 0) -> Measured:
    seeds = [Replicate(first + i) for i in range(len(values))]
    kept = {seed: (np.array(row),) for seed, row in zip(seeds, examples, strict=False)}
    return Measured(dict(zip(seeds, values, strict=True)), kept, {})


def finding(
    gaps: Sequence[float],
    margin: float = 0.0,
    better: str = "lower",
    layout: ExampleLayout = WHOLE,
) -> Finding:
    a, b = measured([0.0] * len(gaps)), measured(gaps)
    return find("nll", "nats", "higher" if better == "higher" else "lower", a, b, layout, margin)


UP = [1.0, 1.1, 0.9, 1.05, 0.95]
AROUND = [0.1, -0.1, 0.05, -0.05, 0.01]


@pytest.mark.parametrize(
    ("gaps", "margin", "better", "verdict"),
    [
        (UP, 0.0, "lower", "worse"),
        (UP, 0.0, "higher", "better"),
        (UP, 0.5, "lower", "worse"),
        (UP, 1.0, "lower", "inconclusive"),  # it may be beyond the margin, or not
        (UP, 1.5, "lower", "equivalent"),
        (AROUND, 0.0, "lower", "inconclusive"),
        (AROUND, 0.5, "lower", "equivalent"),
        ([0.0] * 5, 0.0, "lower", "inconclusive"),  # no variance, no verdict
        ([1.5] * 5, 0.0, "lower", "inconclusive"),
    ],
)
def test_verdicts(gaps: list[float], margin: float, better: str, verdict: str) -> None:
    (judged,) = judge([finding(gaps, margin, better)])
    assert judged.verdict == verdict
    assert (judged.seeds > 0) == (verdict == "inconclusive" and judged.testable)


@pytest.mark.parametrize(("gap", "verdict"), [(6e-8, "inconclusive"), (1e-4, "worse")])
def test_a_difference_of_rounding_is_no_verdict_however_sure(gap: float, verdict: str) -> None:
    a, b = measured([1.0] * 5), measured([1 + gap * x for x in UP])
    (judged,) = judge([find("nll", "nats", "lower", a, b, WHOLE)])
    assert judged.corrected_p < 1e-3
    assert judged.verdict == verdict


def test_what_is_told_apart_alone_may_drown_among_many() -> None:
    weak = finding([0.5, 0.6, 0.1, 0.3, 0.4])
    assert judge([weak])[0].verdict == "worse"
    many = judge([weak, *[finding(AROUND)] * 11])[0]
    assert (many.verdict, many.p_value) == ("inconclusive", weak.p_value)
    assert many.corrected_p == pytest.approx(12 * weak.p_value)
    assert many.detectable > judge([weak])[0].detectable


def test_what_cannot_be_tested_does_not_count() -> None:
    broken = finding([0.1, math.nan, 0.2])
    single = finding([1.0])
    judged = judge([finding(UP), broken, single])
    assert judged[0].corrected_p == pytest.approx(judged[0].p_value)
    assert [j.verdict for j in judged[1:]] == ["inconclusive", "inconclusive"]
    assert all(math.isnan(j.corrected_p) and math.isnan(j.detectable) for j in judged[1:])
    assert math.isnan(broken.estimate) and single.population == "nothing beyond these numbers"


def test_populations() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 20))
    a, b = measured(rows.mean(1) * 0, rows * 0), measured(rows.mean(1), rows)
    assert find("x", "", "lower", a, b, WHOLE).population == "new seeds and new test examples"
    partly = measured(rows.mean(1), rows[:2])  # of one replicate no predictions were kept
    assert find("x", "", "lower", a, partly, WHOLE).population == "new seeds, these test examples"
    shorter = measured(rows.mean(1), rows[:, :7])
    assert find("x", "", "lower", a, shorter, WHOLE).population == "new seeds, these test examples"
    one = find("x", "", "lower", measured([0.0], rows[:1] * 0), measured(rows[:1].mean(1), rows[:1]), WHOLE)
    assert one.population == "new test examples, these trained networks"
    assert one.interval == pytest.approx(2.093 * rows[0].std(ddof=1) / math.sqrt(20), rel=1e-3)  # t, 19 degrees
    assert not one.testable and judge([one])[0].verdict == "inconclusive"


def test_overlapping_splits() -> None:
    seeds = [Replicate(s, s // 2) for s in range(6)]  # two seeds on each of three splits
    a = Measured({r: 0.0 for r in seeds}, {}, {})
    b = Measured(dict(zip(seeds, [1.0, 3.0, 1.0, 1.0, 3.0, 3.0], strict=True)), {}, {})  # split means 2, 1, 3
    found = find("x", "", "lower", a, b, ExampleLayout(nested=0.25))
    assert found.population == "new splits of this data set"
    assert float(found.difference.standard_error) == pytest.approx(math.sqrt((1 / 3 + 0.25) * 1.0))
    assert math.isnan(find("x", "", "lower", a, b, ExampleLayout(nested=math.nan)).p_value)


def test_pairs_are_counted_and_the_rest_is_unpaired() -> None:
    a, b = measured([0.0, 0.1, 0.2, 0.1]), measured([0.2, 0.1, 0.4], first=2)
    found = find("x", "", "lower", a, b, WHOLE)
    assert (found.replicates, found.pairs) == ((4, 3), 2)
    assert found.estimate == pytest.approx(0.7 / 3 - 0.1)


def test_monte_carlo_part_by_hand() -> None:
    """Of two replicates; the jackknife of two groups is half the squared difference of what is left: ¼ (x₁ − x₂)²."""
    r = [Replicate(0), Replicate(1)]
    none = np.array([])
    a = Measured({r[0]: 0.0, r[1]: 0.0}, {}, {r[0]: none, r[1]: none})
    b = Measured({r[0]: 1.0, r[1]: 1.0}, {}, {r[0]: np.array([0.0, 2.0]), r[1]: np.array([1.0, 1.0])})
    assert monte_carlo_variance(a, b) == pytest.approx(0.25 * 2.0**2 / 2**2)
    assert monte_carlo_variance(a, a) == 0
    assert math.isnan(monte_carlo_variance(a, Measured({r[0]: 1.0}, {}, {})))
    assert monte_carlo_variance(b, b) == 0  # the same noise on both sides cancels


def test_the_monte_carlo_part_is_a_part_of_the_seed_part() -> None:
    """Two estimates: where seeds differ by rounding the first may come out larger, and is no 300 % of the second."""
    a, b = measured([1.0, 1.0, 1.0]), measured([1.0, 1.0 + 1e-9, 1.0 - 1e-9])
    noisy = Measured(b.values, {}, {r: np.array([0.9, 1.0, 1.1]) for r in b.values})
    quiet = Measured(a.values, {}, {r: np.zeros(0) for r in a.values})
    found = find("nll", "nats", "lower", quiet, noisy, WHOLE, 0.0)
    assert 0 < found.monte_carlo <= float(found.difference.seed) < monte_carlo_variance(quiet, noisy)


def by_seed(values: Mapping[int, float]) -> Measured:
    return Measured({Replicate(seed): value for seed, value in values.items()}, {}, {})


def leading(named: Mapping[str, Measured], better: Better) -> frozenset[str]:
    return leaders(named, told_apart(named, better, WHOLE))


def test_leaders_are_those_that_no_other_is_better_than() -> None:
    best = {seed: 0.9 + 0.01 * seed for seed in range(5)}
    near = {seed: value - 0.01 * (-1) ** seed for seed, value in best.items()}
    far = {seed: value - 0.2 - 0.001 * seed for seed, value in best.items()}
    contenders = {"best": best, "near": near, "far": far, "alone": {7: 0.8}, "nan": dict.fromkeys(best, math.nan)}
    named = {name: by_seed(values) for name, values in contenders.items()}
    assert leading(named, "higher") == {"best", "near"}
    assert leading(named, "lower") == {"far"}
    assert leading({"nan": named["nan"]}, "higher") == set()


def test_who_is_told_apart_by_a_test_and_who_by_the_order_alone() -> None:
    better, worse = {seed: 0.9 + 0.01 * seed for seed in range(5)}, {seed: 0.7 + 0.009 * seed for seed in range(5)}
    named = {"better": by_seed(better), "worse": by_seed(worse), "alone": by_seed({7: 0.8})}
    assert set(told_apart(named, "higher", WHOLE)) == {
        Apart("worse", "better", tested=True),
        Apart("worse", "alone", tested=False),
        Apart("alone", "better", tested=False),
    }


def test_leaders_of_one_replicate() -> None:
    named = {"a": by_seed({0: 0.9}), "b": by_seed({0: 0.899}), "c": by_seed({0: 0.9})}
    assert leading(named, "higher") == {"a", "c"}


def test_leaders_that_do_not_vary_count_as_they_are() -> None:
    named = {"exact": by_seed({0: 0.0, 1: 0.0}), "map": by_seed({0: 0.3, 1: 0.3}), "vi": by_seed({0: 0.1, 1: 0.5})}
    assert leading(named, "lower") == {"exact", "vi"}


def drawn_rows(rng: np.random.Generator, layout: ExampleLayout) -> dict[str, Measured]:
    """Rows as people have them: few replicates, shared or not, with examples or without, counts, ties, not finite."""
    rows = {}
    populations, examples, sort = rng.integers(0, 3), rng.integers(1, 20), rng.integers(0, 3)
    for name in "abcdefg"[: rng.integers(1, 8)]:
        seeds = rng.choice(5, rng.integers(1, 5), replace=False).tolist()
        replicates = [Replicate(seed, seed if layout.nested is not None else 0) for seed in seeds]
        shift = rng.normal() * rng.choice([0, 3, 30])
        kept: dict[Replicate, tuple[np.ndarray, ...]] = {}
        if rng.random() < 0.8 and sort < 2:
            draws = (rng.normal(size=(len(seeds), populations, examples)) + shift) if sort else None
            draws = rng.random((len(seeds), populations, examples)) < 0.5 if draws is None else draws
            kept = {r: tuple(draws[i].astype(float)) for i, r in enumerate(replicates)}
        plain = {r: float(round(rng.normal() * 3 + shift) if sort == 2 else rng.normal() + shift) for r in replicates}
        values = {r: float(kept[r][0].mean()) if kept.get(r) else plain[r] for r in replicates}
        if rng.random() < 0.1:
            values = dict.fromkeys(values, float(rng.choice([1.0, math.nan])))
        rows[name] = Measured(values, kept, {})
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("nested", [None, 0.1, math.nan])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:Degrees of freedom", "ignore:Mean of empty")
def test_many_pairs_at_once_are_as_one_pair_at_a_time(nested: float | None) -> None:
    rng, layout, tested = np.random.default_rng(0), ExampleLayout(nested), 0
    for _ in range(40):
        rows = drawn_rows(rng, layout)
        means = {name: row.mean for name, row in rows.items() if math.isfinite(row.mean)}
        pairs = list(combinations(sorted(means, key=lambda name: -means[name]), 2))
        alone = [differences._difference(rows[worse], rows[above], layout)[0] for worse, above in pairs]
        sure = [bool(d.without_spread) and float(d.estimate) != 0 for d in alone]
        p = holm([math.nan if known else float(d.p_value()) for d, known in zip(alone, sure, strict=True)])
        expected = {pair for pair, known, one in zip(pairs, sure, p, strict=True) if known or one <= LEVEL}
        apart = told_apart(rows, "lower", layout)
        assert {(pair.worse, pair.better) for pair in apart if pair.tested} == expected
        lost = {w for (w, a), one in zip(pairs, p, strict=True) if math.isnan(one) and means[w] != means[a]}
        assert leaders(rows, apart) == means.keys() - lost - {worse for worse, _ in expected}
        tested += len(expected)
    assert tested > 5 or nested is not None


def test_a_large_table_asks_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred rows are 4,950 pairs: their values are gathered, and their variances found, row by row."""
    asked: list[int] = []
    plain = differences.crossed
    monkeypatch.setattr(differences, "crossed", lambda a, b, s: asked.append(len(a.values)) or plain(a, b, s))
    rng = np.random.default_rng(0)
    rows = {str(k): by_seed(dict(enumerate(rng.normal(size=3)))) for k in range(100)}
    told_apart(rows, "lower", WHOLE)
    assert len(asked) <= 2
    assert asked[0] == 4950
    assert sum(asked) < 5500  # few pairs come near enough to a verdict for an exact p
