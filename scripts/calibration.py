"""Simulate tables with a known truth, to measure how often `compare`, `table` and `rank` are wrong.

    python scripts/calibration.py docs/statistics.md

A table has 12 cells, each with R seeds × N test examples on two sides. *False alarm*: no cell has a true difference,
but after Holm's correction at least one is called different. *Coverage*: how often the 95 % interval of one cell holds
the truth. *Found*: a table reports the smallest difference that it could have shown in its first cell; a new table has
a true difference of that size there, and calls it different. *Falsely equivalent*: all cells differ by exactly the
margin, and at least one is called equivalent. The streams are fixed; a run takes about twenty minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import special, stats

from bdlbench.compare.differences import leaders, told_apart
from bdlbench.compare.measured import ExampleLayout, Measured
from bdlbench.core.spec import Replicate
from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.calibration import calibration_error_without_blocks, expected_calibration_error
from bdlbench.stats.crossed import Difference, SeedPart, Side, crossed, pooled, seed_part
from bdlbench.stats.discrimination import auroc, without_blocks
from bdlbench.stats.holm import holm
from bdlbench.stats.jackknife import blocks, pseudo_values
from bdlbench.stats.power import detectable, seeds_to_settle
from bdlbench.stats.rank_tests import probability_of_improvement

CELLS, TABLES, LEVEL = 12, 600, 0.05
AT_ONCE = 5_000_000
"""The numbers of one side in a simulated table."""

SEEDS, EXAMPLES = (2, 3, 5, 10, 20), (50, 300, 1000, 10_000)
MARKS = ("<!-- calibration -->", "<!-- end calibration -->")

Draw = Callable[[np.random.Generator, int, int, int, float], tuple[Side, Side]]
"""(rng, tables, seeds, examples, true difference) -> both sides of all cells, (tables, cells, …)."""


class Effects(NamedTuple):
    """Standard deviations of a seed's, an example's and their own joint effect on the difference."""

    seed: float
    example: float
    residual: float


DOMINATED = {"seeds": Effects(1.0, 3.0, 3.0), "examples": Effects(0.05, 5.0, 2.0), "both": Effects(0.3, 5.0, 3.0)}

Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: rng.standard_exponential(shape) - rng.standard_exponential(shape),
    "lopsided": lambda rng, shape: rng.standard_exponential(shape) - 1,
    "t(2.5)": lambda rng, shape: rng.standard_t(2.5, shape) / np.sqrt(5),
    "lognormal(1)": lambda rng, shape: np.exp(rng.standard_normal(shape)) - np.exp(0.5),
    "lognormal(2)": lambda rng, shape: (np.exp(2 * rng.standard_normal(shape)) - np.exp(2.0)) / 20,
}


def continuous(
    effects: Effects,
    noise: str,
    rng: np.random.Generator,
    tables: int,
    seeds: int,
    examples: int,
    true: float = 0.0,
) -> tuple[Side, Side]:
    """Draw A = 0 and B, the difference: μ + a_r + b_s + ε_rs."""
    make, lead = NOISES[noise], (tables, CELLS)
    d = true + effects.seed * rng.standard_normal((*lead, seeds, 1))
    d = d + effects.example * make(rng, (*lead, 1, examples)) + effects.residual * make(rng, (*lead, seeds, examples))
    return Side(np.zeros(d.shape[:-1]), (np.zeros(d.shape),)), Side(d.mean(-1), (d,))


def errors(
    accuracy: float,
    persistent: float,
    rng: np.random.Generator,
    tables: int,
    seeds: int,
    examples: int,
    true: float = 0.0,
) -> tuple[Side, Side]:
    """Draw right or wrong: a share of an example's outcomes is the same for all seeds of a side, the rest are new."""
    sides = []
    for rate in (1 - accuracy, 1 - accuracy + true):
        alone = rng.random((tables, CELLS, seeds, examples)) < rate
        kept = rng.random((tables, CELLS, 1, examples)) < rate
        same = rng.random((tables, CELLS, 1, examples)) < persistent
        right = 1.0 - np.where(same, kept, alone)
        sides.append(Side(right.mean(-1), (right,)))
    return sides[0], sides[1]


def counts(
    spread: float, rng: np.random.Generator, tables: int, seeds: int, examples: int, true: float = 0.0
) -> tuple[Side, Side]:
    """Draw whole numbers without examples, such as active units."""
    a, b = np.round(20.5 + spread * rng.standard_normal((2, tables, CELLS, seeds)))
    return Side(a), Side(b + true)


def calibration_errors(
    rng: np.random.Generator, tables: int, seeds: int, examples: int, true: float = 0.0
) -> tuple[Side, Side]:
    """Draw the ECE of overconfident classifiers, jackknifed over blocks."""
    sides = []
    for _ in range(2):
        lead = (tables, CELLS)
        logit = (
            2 + 1.5 * rng.standard_normal((*lead, 1, examples)) + 0.5 * rng.standard_normal((*lead, seeds, examples))
        )
        logit = logit + 0.1 * rng.standard_normal((*lead, seeds, 1))
        right = rng.random((*lead, 1, examples)) < special.expit(0.7 * logit)
        confidence = torch.from_numpy(np.maximum(special.expit(logit), 0.5))
        correct = torch.from_numpy(right.astype(float)).expand_as(confidence)
        sides.append(_jackknifed(confidence.flatten(0, 2), correct.flatten(0, 2), (*lead, seeds)))
    return sides[0], sides[1]


def _jackknifed(confidence: torch.Tensor, correct: torch.Tensor, lead: tuple[int, ...]) -> Side:
    block = torch.from_numpy(blocks(confidence.shape[-1]))
    whole = np.array([float(expected_calibration_error(*row)) for row in zip(confidence, correct, strict=True)])
    without = np.stack(
        [calibration_error_without_blocks(*row, block).numpy() for row in zip(confidence, correct, strict=True)]
    )
    pseudo = pseudo_values(whole, without, block.numpy())
    return Side(whole.reshape(lead), (pseudo.reshape(*lead, -1),))


def rankings(rng: np.random.Generator, tables: int, seeds: int, examples: int, true: float = 0.0) -> tuple[Side, Side]:
    """Draw the AUROC of equally many test and out-of-distribution examples, each jackknifed over its blocks."""
    sides, lead = [], (tables, CELLS)
    block = torch.from_numpy(blocks(examples))
    for _ in range(2):
        drift = 0.2 * rng.standard_normal((*lead, seeds, 1))
        outside, inside = (
            (shift + rng.standard_normal((*lead, 1, examples)) + 0.5 * rng.standard_normal((*lead, seeds, examples)))
            for shift in (1.5 + drift, 0.0)
        )
        rows = [(torch.from_numpy(p), torch.from_numpy(n)) for p, n in zip(_flat(outside), _flat(inside), strict=True)]
        whole = np.array([float(auroc(*row)) for row in rows])
        parts = []
        for population in (0, 1):
            without = np.stack([without_blocks(auroc, *row, block, population == 0).numpy() for row in rows])
            parts.append(pseudo_values(whole, without, block.numpy()).reshape(*lead, seeds, -1))
        sides.append(Side(whole.reshape(*lead, seeds), tuple(parts)))
    return sides[0], sides[1]


def _flat(rows: Array) -> Array:
    return rows.reshape(-1, rows.shape[-1])


CASES: dict[str, Draw] = {
    **{f"normal, mostly {name}": partial(continuous, effects, "normal") for name, effects in DOMINATED.items()},
    **{f"{noise}, mostly seeds": partial(continuous, DOMINATED["seeds"], noise) for noise in ("skewed", "lopsided")},
    **{f"{noise}, mostly examples": partial(continuous, DOMINATED["examples"], noise) for noise in list(NOISES)[1:]},
    **{
        f"errors, accuracy {accuracy}, {100 * kept:.0f} % persistent": partial(errors, accuracy, kept)
        for accuracy in (0.95, 0.98, 0.999)
        for kept in (0.0, 0.5, 0.9)
    },
}
WITHOUT_EXAMPLES = {f"counts, sd {spread}": partial(counts, spread) for spread in (0.2, 0.5, 2.0)}
JACKKNIFED: dict[str, Draw] = {"ECE": calibration_errors, "AUROC": rankings}


def pairs(seeds: int) -> list[tuple[int, int]]:
    return [(r, r) for r in range(seeds)]


def chunks(tables: int, seeds: int, examples: int) -> Iterator[int]:
    size = max(1, min(tables, AT_ONCE // (CELLS * seeds * examples)))
    for start in range(0, tables, size):
        yield min(size, tables - start)


def null_rates(draw: Draw, seeds: int, examples: int, tables: int = TABLES, stream: int = 0) -> dict[str, float]:
    """Return the shares of null tables with a false alarm, by us and by alternatives, and of covered cells."""
    rng = np.random.default_rng([stream, seeds, examples])
    wrong = dict.fromkeys(("ours", "satterthwaite", "over seeds"), 0)
    covered = few = 0.0
    for count in chunks(tables, seeds, examples):
        a, b = draw(rng, count, seeds, examples, 0.0)
        found = crossed(a, b, pairs(seeds))
        p = found.p_value()
        gaps = b.values - a.values
        with np.errstate(divide="ignore", invalid="ignore"):
            t = gaps.mean(-1) / (gaps.std(-1, ddof=1) / np.sqrt(seeds))
        others = {"satterthwaite": satterthwaite(found), "over seeds": 2 * special.stdtr(seeds - 1, -np.abs(t))}
        for name, values in {"ours": p, **others}.items():
            wrong[name] += int((holm(values) <= LEVEL).any(-1).sum())
        covered += float((~(p <= LEVEL)).mean(-1).sum())
        few += float((found.skewness > 0.1).mean(-1).sum())
    return {name: n / tables for name, n in wrong.items()} | {"covered": covered / tables, "few": few / tables}


def satterthwaite(found: Difference) -> Array:
    """Return p by a single t whose degrees of freedom are estimated (Satterthwaite 1946)."""
    seed = sum((part.seen for part in found.seeds[1:]), found.seeds[0].seen)
    _, seed_df = pooled([part.variance for part in found.seeds], [part.df for part in found.seeds])
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = seed**2 / seed_df + found.example**2 / found.example_df
        df = (seed + found.example) ** 2 / spread
        return 2 * special.stdtr(df, -np.abs(found.estimate) / np.sqrt(seed + found.example))


def found_rate(draw: Draw, seeds: int, examples: int, tables: int = TABLES, stream: int = 1) -> float:
    """Return how often a true difference of the reported smallest detectable size is called different."""
    rng = np.random.default_rng([stream, seeds, examples])
    shown = 0
    for _ in range(tables):
        first = crossed(*draw(rng, 1, seeds, examples, 0.0), pairs(seeds))
        size = detectable(_cell(first), LEVEL / CELLS)
        p = crossed(*draw(rng, 1, seeds, examples, size), pairs(seeds)).p_value()[0]
        p[1:] = 1 - 1e-9  # the others have no effect
        shown += bool(holm(p)[0] <= LEVEL)
    return shown / tables


def _cell(found: Difference, table: int = 0, cell: int = 0) -> Difference:
    """Return one of many cells."""

    def one(x: Array) -> Array:
        return np.asarray(x)[table, cell] if np.ndim(x) == 2 else x

    seeds = tuple(SeedPart(*map(one, part)) for part in found.seeds)
    parts = (one(found.estimate), seeds, one(found.example), one(found.example_df))
    return Difference(*parts, found.binary, one(found.skewness))


def falsely_equivalent_rate(
    draw: Draw, seeds: int, examples: int, margin: float, tables: int = TABLES, stream: int = 3
) -> float:
    """Return the share of tables with any cell called equivalent, where all differ by the margin."""
    rng = np.random.default_rng([stream, seeds, examples])
    wrong = 0
    for count in chunks(tables, seeds, examples):
        p = crossed(*draw(rng, count, seeds, examples, margin), pairs(seeds)).equivalence_p_value(margin)
        wrong += int((holm(p) <= LEVEL).any(-1).sum())
    return wrong / tables


def unpaired(
    seeds_a: int, seeds_b: int, ratio: float, effects: Effects, tables: int, rng: np.random.Generator, true: float = 0.0
) -> Difference:
    """Draw sides without pairs: B's seed effect is `ratio` times A's; lopsided, with shared examples."""
    sides = []
    for seeds, scale in ((seeds_a, 1.0), (seeds_b, ratio)):
        part = Effects(effects.seed * scale, 0.0, effects.residual)
        sides.append(continuous(part, "lopsided", rng, tables, seeds, 300)[1])
    shared = true + effects.example * NOISES["lopsided"](rng, (tables, CELLS, 1, 300))
    a, b = sides
    return crossed(a, Side(b.values + shared.mean(-1), (b.examples[0] + shared,)), [])


def unpaired_rates(
    seeds_a: int, seeds_b: int, ratio: float, effects: Effects, tables: int = TABLES, stream: int = 2
) -> tuple[float, float]:
    """Return false alarms, and how often a difference of the detectable size is found."""
    rng = np.random.default_rng([stream, seeds_a, seeds_b, int(ratio)])
    wrong = found = 0
    for _ in range(tables // 20):
        table = unpaired(seeds_a, seeds_b, ratio, effects, 20, rng)
        wrong += int((holm(table.p_value()) <= LEVEL).any(-1).sum())
        for i in range(20):
            size = detectable(_cell(table, i), LEVEL / CELLS)
            again = unpaired(seeds_a, seeds_b, ratio, effects, 1, rng, size)
            found += bool(again.p_value()[0, 0] * CELLS <= LEVEL)
    return wrong / tables, found / tables


def settled_rate(seeds: int, margin: float, true: float, tables: int = 300, stream: int = 4) -> tuple[float, float]:
    """Return how often a fresh run of the advised size settles one cell of 12, and the median advice."""
    rng = np.random.default_rng([stream, seeds])
    settled, advised, level = 0, [], LEVEL / CELLS
    effects = Effects(1.0, 3.0, 3.0)
    for _ in range(tables):
        d = continuous(effects, "normal", rng, 1, seeds, 1000)
        planned = seeds_to_settle(_cell(crossed(*d, pairs(seeds))), seeds, margin, level)
        advised.append(planned)
        count = int(min(planned, 1000))
        fresh = true + rng.standard_normal(count) * np.hypot(effects.seed, effects.residual / np.sqrt(1000))
        found = _alone(fresh, effects, rng, true)
        beyond, within = float(found.p_value(margin)), float(found.equivalence_p_value(margin))
        settled += beyond <= level or within <= level
    return settled / tables, float(np.median(advised))


def _alone(means: Array, effects: Effects, rng: np.random.Generator, true: float) -> Difference:
    """Draw a difference from its sufficient statistics instead of 1000 examples × many seeds."""
    count, examples = len(means), 1000
    part = effects.example**2 / examples
    seen = means.var(ddof=1) / count
    shift = np.sqrt(part) * rng.standard_normal()
    least = effects.residual**2 / examples / count
    return Difference(
        np.array(means.mean() + shift),
        (seed_part(np.array(max(seen, least)), count - 1.0),),
        np.array(part * rng.chisquare(examples - 1) / (examples - 1)),
        examples - 1.0,
    )


def sequential_rate(tables: int = 1500, stream: int = 5) -> tuple[float, float]:
    """Return false verdicts at margin 0 of one metric: at 5 seeds, and at any of 5, 10, … 40 of the same ones."""
    rng = np.random.default_rng(stream)
    once = ever = 0
    for _ in range(tables):
        d = continuous(Effects(1.0, 0.5, 1.0), "normal", rng, 1, 40, 300)[1].examples[0][0, :1]
        p = [
            float(
                crossed(
                    Side(np.zeros((1, n)), (np.zeros((1, n, 300)),)), Side(d[:, :n].mean(-1), (d[:, :n],)), pairs(n)
                ).p_value()[0]
            )
            for n in range(5, 41, 5)
        ]
        once += p[0] <= LEVEL
        ever += min(p) <= LEVEL
    return once / tables, ever / tables


def bold_rates(methods: int, seeds: int, tables: int = TABLES, stream: int = 6) -> tuple[float, float]:
    """Return how often some of equal methods lose their bold, and how often a method better by two errors does."""
    rng = np.random.default_rng([stream, methods, seeds])
    lost = best = 0
    for _ in range(tables):
        shared = 2 * rng.standard_exponential((1, 1, 300))
        own = rng.standard_exponential((methods, 1, 300)) + rng.standard_exponential((methods, seeds, 300))
        loss = shared + own + 0.1 * rng.standard_normal((methods, seeds, 1))
        lost += len(_bold(loss)) < methods
        loss[0] -= 0.15
        best += "0" not in _bold(loss)
    return lost / tables, best / tables


def _bold(loss: Array) -> frozenset[str]:
    """Return the names of the methods that a table sets in bold; loss is (methods, seeds, examples)."""
    rows = [Replicate(seed, 0) for seed in range(loss.shape[1])]
    measured = {
        str(k): Measured(
            {r: float(x.mean()) for r, x in zip(rows, table, strict=True)},
            {r: (x,) for r, x in zip(rows, table, strict=True)},
            {},
        )
        for k, table in enumerate(loss)
    }
    return leaders(measured, told_apart(measured, "lower", ExampleLayout()))


def improvement_coverage(truth: float, blocks_: int, seeds: int, tables: int = TABLES, stream: int = 7) -> float:
    """Return how often the interval of `rank` holds the probability of improvement."""
    rng = np.random.default_rng([stream, blocks_, seeds])
    shift, hits = np.sqrt(2) * stats.norm.ppf(truth), 0
    for _ in range(tables):
        a, b = rng.normal(size=(blocks_, seeds)), rng.normal(shift, 1, size=(blocks_, seeds))
        _, low, high = probability_of_improvement(list(a), list(b))
        hits += low <= truth <= high
    return hits / tables


# the document


def percent(*rates: float) -> str:
    return " · ".join(f"{100 * rate:.1f}" for rate in rates)


def _row(*cells: str) -> str:
    print(*cells, sep="\t", flush=True)
    return "| " + " | ".join(cells) + " |"


def main_rows() -> Iterator[str]:
    for name, draw in CASES.items():
        for examples in EXAMPLES:
            tables = TABLES if examples < 10_000 else 200
            cells, few = [], 0.0
            for seeds in SEEDS:
                null = null_rates(draw, seeds, examples, tables)
                true = not name.startswith("errors") and examples == 300
                size = [found_rate(draw, seeds, examples, 200)] if true else []
                cells.append(percent(null["ours"], null["covered"], *size))
                few = max(few, null["few"])
            yield _row(name, str(examples), *cells, percent(few))


def other_rows() -> Iterator[str]:
    for name, draw in WITHOUT_EXAMPLES.items():
        nulls = [null_rates(draw, seeds, 1, TABLES) for seeds in SEEDS]
        yield _row(name, "—", *(percent(null["ours"], null["covered"]) for null in nulls), "—")
    for name, draw in JACKKNIFED.items():
        for examples in (300, 1000):
            nulls = [null_rates(draw, seeds, examples, 100) for seeds in SEEDS[:4]]
            yield _row(name, str(examples), *(percent(n["ours"], n["covered"]) for n in nulls), "—", "—")


def equivalence_rows() -> Iterator[str]:
    for accuracy in (0.95, 0.98, 0.999):
        for kept in (0.0, 0.5, 0.9):
            for examples in EXAMPLES[:3]:
                draw = partial(errors, accuracy, kept)
                rates = [falsely_equivalent_rate(draw, seeds, examples, 0.02) for seeds in SEEDS]
                name = f"errors, accuracy {accuracy}, {100 * kept:.0f} % persistent, margin .02"
                yield _row(name, str(examples), *map(percent, rates))
    for noise in ("normal", "skewed", "t(2.5)"):
        for dominated, effects in DOMINATED.items():
            margin = 4 * np.sqrt(effects.seed**2 / 5 + effects.example**2 / 300 + effects.residual**2 / 1500)
            draw = partial(continuous, effects, noise)
            rates = [falsely_equivalent_rate(draw, seeds, 300, margin) for seeds in SEEDS]
            yield _row(f"{noise}, mostly {dominated}", "300", *map(percent, rates))


def sections() -> Iterator[str]:
    """Return all tables."""
    heads = " | ".join(f"{seeds} seeds" for seeds in SEEDS)
    lines = " | ".join("--:" for _ in SEEDS)
    yield "False alarms · coverage · found (at N = 300), in per cent; rests on few: cells with that warning.\n"
    yield f"| differences | N | {heads} | rests on few |"
    yield f"| :-- | --: | {lines} | --: |"
    yield from main_rows()
    yield from other_rows()
    yield "\nTables with any cell falsely equivalent, all differing by just the margin, in per cent:\n"
    yield f"| differences | N | {heads} |"
    yield f"| :-- | --: | {lines} |"
    yield from equivalence_rows()
    yield "\nWithout partners, lopsided, 300 examples; false alarms · found, in per cent:\n"
    yield "| seeds | sd of B's seeds | mostly seeds | mostly examples | both |\n| :-- | --: | --: | --: | --: |"
    for a, b, ratio in ((3, 3, 1), (3, 3, 10), (5, 5, 1), (5, 5, 10), (2, 5, 1), (3, 10, 1), (10, 3, 10)):
        rates = [unpaired_rates(a, b, ratio, effects, 200) for effects in DOMINATED.values()]
        yield _row(f"{a} against {b}", f"× {ratio}", *(percent(*pair) for pair in rates))
    yield "\nFresh runs of the advised number of seeds that settle, in per cent; the margin is 1.5 standard deviations"
    yield "of a seed:\n"
    yield "| seeds at first | true difference | settled | median advice |\n| --: | :-- | --: | --: |"
    for seeds in (3, 5, 10):
        for name, true in (("0", 0.0), ("twice the margin", 3.0)):
            rate, advice = settled_rate(seeds, 1.5, true)
            yield _row(str(seeds), name, percent(rate), f"{advice:.0f}")
    once, ever = sequential_rate()
    yield f"\nOf null comparisons of one metric, {percent(once)} % are called different at five seeds, and"
    yield f"{percent(ever)} % later, where five more are added up to 40: plan a fresh run, not more of the same.\n"
    yield "| bold | 3 seeds | 5 seeds | 10 seeds |\n| :-- | --: | --: | --: |"
    for methods in (2, 5, 10):
        rates = [bold_rates(methods, seeds) for seeds in (3, 5, 10)]
        yield _row(
            f"{methods} methods: some of equals not bold · the best not bold", *(percent(*pair) for pair in rates)
        )
    yield "\nCoverage of the interval of P(first better), in per cent:\n"
    yield "| data sets, seeds | .5 | .8 | .95 | .99 |\n| :-- | --: | --: | --: | --: |"
    for blocks_, seeds in ((2, 2), (2, 3), (2, 5), (6, 3), (6, 5), (6, 10)):
        rates = [improvement_coverage(truth, blocks_, seeds) for truth in (0.5, 0.8, 0.95, 0.99)]
        yield _row(f"{blocks_}, {seeds}", *map(percent, rates))


def main(path: Path) -> None:
    """Write the tables between the marks of the document."""
    table = list(sections())
    text = path.read_text("utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    path.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(table) + f"\n\n{MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
