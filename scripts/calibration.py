"""Is `compare` as sure as it says? Simulated tables without any difference, and with one of the size it could show.

    python scripts/calibration.py docs/statistics.md

A table has 12 cells, each with R seeds × 300 test examples, d_rs = μ + a_r + b_s + ε_rs. Null: μ = 0 everywhere, and
the figure is the share of 500 tables in which Holm's correction leaves any cell called different. Found: each of 500
tables reports the smallest difference that it could have shown in its first cell; a new table has a true difference of
that size there, and the figure is the share in which it is called different. For contrast, on the same null tables:
Satterthwaite's t with the same variance, and a paired t-test over seeds, which takes the test examples as given.

Skewed: the log-likelihoods of two methods, each with an exponential example effect and residual (skewness 2),
subtracted; lopsided: the difference itself has that skewness. Fixed streams; about two minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import special

from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.crossed import Difference, Side, crossed
from bdlbench.stats.holm import holm
from bdlbench.stats.power import detectable

CELLS, EXAMPLES, TABLES, LEVEL, CHUNK = 12, 300, 500, 0.05, 25
SEEDS = (3, 5, 20)
MARKS = ("<!-- calibration -->", "<!-- end calibration -->")

Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]
NOISES: dict[str, Noise] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed": lambda rng, shape: rng.standard_exponential(shape) - rng.standard_exponential(shape),
    "lopsided": lambda rng, shape: rng.standard_exponential(shape) - 1,
}


class Effects(NamedTuple):
    """Standard deviations of a_r, b_s and ε_rs."""

    seed: float
    example: float
    residual: float


DOMINATED = {"seeds": Effects(1.0, 3.0, 3.0), "examples": Effects(0.05, 5.0, 2.0), "both": Effects(0.3, 5.0, 3.0)}


def draw(rng: np.random.Generator, tables: int, seeds: int, effects: Effects, noise: str) -> Array:
    """(tables, cells, seeds, examples) differences around 0."""
    make, lead = NOISES[noise], (tables, CELLS)
    by_seed = effects.seed * rng.standard_normal((*lead, seeds, 1))
    by_example = effects.example * make(rng, (*lead, 1, EXAMPLES))
    return by_seed + by_example + effects.residual * make(rng, (*lead, seeds, EXAMPLES))


def analyse(d: Array) -> Difference:
    """B − A where B is d and A is 0."""
    zero = Side(np.zeros(d.shape[:-1]), (np.zeros(d.shape),))
    return crossed(zero, Side(d.mean(-1), (d,)), [(r, r) for r in range(d.shape[-2])])


def null_rates(seeds: int, effects: Effects, noise: str, tables: int = TABLES, stream: int = 0) -> dict[str, float]:
    """The share of tables with any cell called different: by `compare`, Satterthwaite's t, a t-test over seeds."""
    rng = np.random.default_rng([stream, seeds])
    wrong = dict.fromkeys(("ours", "satterthwaite", "over seeds"), 0)
    for _ in range(tables // CHUNK):
        d = draw(rng, CHUNK, seeds, effects, noise)
        found = analyse(d)
        means = d.mean(-1)
        t = means.mean(-1) / (means.std(-1, ddof=1) / np.sqrt(seeds))
        p_values = {
            "ours": found.p_value(),
            "satterthwaite": satterthwaite(found),
            "over seeds": 2 * special.stdtr(seeds - 1, -np.abs(t)),
        }
        for name, p in p_values.items():
            wrong[name] += int((holm(p) <= LEVEL).any(-1).sum())
    return {name: count / tables for name, count in wrong.items()}


def unpaired_rate(seeds_a: int, seeds_b: int, effects: Effects, tables: int = TABLES, stream: int = 2) -> float:
    """The share of null tables with a false alarm where no replicate has a partner; lopsided, the examples shared."""
    rng = np.random.default_rng([stream, seeds_a, seeds_b])
    wrong = 0
    for _ in range(tables // CHUNK):
        sides = []
        for seeds in (seeds_a, seeds_b):
            x = draw(rng, CHUNK, seeds, effects._replace(example=effects.example / 2**0.5), "lopsided")
            sides.append(Side(x.mean(-1), (x,)))
        wrong += int((holm(crossed(*sides, []).p_value()) <= LEVEL).any(-1).sum())
    return wrong / tables


def satterthwaite(found: Difference) -> Array:
    """The same variance, with one t whose degrees of freedom are estimated (1946)."""
    spread = found.seed**2 / found.seed_df + found.example**2 / found.example_df
    df = (found.seed + found.example) ** 2 / spread
    return 2 * special.stdtr(df, -np.abs(found.estimate) / found.standard_error)


def found_rate(seeds: int, effects: Effects, noise: str, tables: int = TABLES, stream: int = 1) -> float:
    """How often a true difference of the reported smallest detectable size is called different."""
    rng = np.random.default_rng([stream, seeds])
    found = 0
    for _ in range(tables):
        first, second = draw(rng, 2, seeds, effects, noise)
        size = detectable(analyse(first[0]), LEVEL / CELLS)
        second[0] += size
        found += bool(holm(analyse(second).p_value())[0] <= LEVEL)
    return found / tables


def rows() -> Iterator[str]:
    for seeds in SEEDS:
        for dominated, effects in DOMINATED.items():
            for noise in NOISES:
                null = null_rates(seeds, effects, noise)
                rates = [null["ours"], found_rate(seeds, effects, noise), null["satterthwaite"], null["over seeds"]]
                cells = [str(seeds), dominated, noise, *(f"{100 * rate:.1f} %" for rate in rates)]
                print(*cells, sep="\t", flush=True)
                yield "| " + " | ".join(cells) + " |"


def unpaired_rows() -> Iterator[str]:
    for seeds in ((3, 3), (5, 5), (3, 10)):
        rates = [unpaired_rate(*seeds, DOMINATED[dominated]) for dominated in DOMINATED]
        print(*seeds, *rates, sep="\t", flush=True)
        yield f"| {seeds[0]} against {seeds[1]} | " + " | ".join(f"{100 * rate:.1f} %" for rate in rates) + " |"


def main(path: Path) -> None:
    """Write the table between the marks of the document."""
    heads = ["seeds", "variance mostly of", "differences", "null tables with a false alarm", "found"]
    heads += ["false alarms, Satterthwaite's t", "false alarms, t-test over seeds"]
    table = ["| " + " | ".join(heads) + " |", "| --: | :-- | :-- | --: | --: | --: | --: |", *rows()]
    table += [
        "",
        "Null tables with a false alarm where no replicate has a partner, by what most of the variance is of:",
        "",
    ]
    table += ["| seeds | seeds | examples | both |", "| :-- | --: | --: | --: |", *unpaired_rows()]
    text = path.read_text("utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    path.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(table) + f"\n\n{MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
