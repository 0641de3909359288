"""Measure how often `claims` is wrong, on simulated experiments with a known truth.

    python scripts/hypotheses_calibration.py docs/statistics.md

A claim has 1, 4 or 12 statements, each that a mean is above 0, and R replicates. *Falsely holds*: one statement is
false by as little as can be (its mean is 0), all others are true by far. *Falsely refused*: every mean is 0 too, but
now the bound itself counts as true, so a refusal is a false one. *Found*: one mean is below 0 by so much that a test of
one statement would see it with 99 %, all others are true, and the claim "does not hold". Fixed streams; a minute.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats

from bdlbench.stats.hypotheses import ERROR_RATE, Statement, judge, over_replicates

TRIALS = 2000
MARKS = ("<!-- hypotheses -->", "<!-- end hypotheses -->")

NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "lopsided": lambda rng, size: rng.standard_exponential(size) - 1,
    "t(3)": lambda rng, size: rng.standard_t(3, size) / math.sqrt(3),
}


class Design(NamedTuple):
    """An experiment: statements, replicates, and the noise of a replicate."""

    statements: int
    replicates: int
    noise: str = "normal"


class Rates(NamedTuple):
    """How often each happened."""

    falsely_holds: float
    falsely_refused: float
    found: float


def rates(design: Design, trials: int = TRIALS) -> Rates:
    """Simulate claims of a design with three truths."""
    rng = np.random.default_rng([design.statements, design.replicates, list(NOISES).index(design.noise)])
    size = (trials, design.statements, design.replicates)
    far = _visible(design.replicates, ERROR_RATE / design.statements)
    one = np.arange(design.statements) == 0
    verdicts = []
    for means in (np.where(one, 0.0, far), np.zeros(design.statements), np.where(one, -far, far)):
        noise = NOISES[design.noise](rng, size)
        verdicts.append([_verdict(values) for values in means[:, None] + noise])
    holds = np.mean([word == "holds" for word in verdicts[0]])
    refused, found = (np.mean([word == "does not hold" for word in words]) for words in verdicts[1:])
    return Rates(float(holds), float(refused), float(found))


def _verdict(values: Any) -> str:
    return judge([Statement("mean", over_replicates(row), low=0.0) for row in values]).verdict


def _visible(replicates: int, level: float) -> float:
    """Return the mean, in standard deviations of a replicate, that a one-sided t-test sees with 99 %."""
    df, critical = replicates - 1, stats.t.isf(level, replicates - 1)
    missed = optimize.brentq(lambda shift: stats.nct.sf(critical, df, shift) - 0.99, 0, 1e4)
    return float(missed) / math.sqrt(replicates)


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| statements | replicates | noise | falsely holds | falsely refused | found |",
        "| --: | --: | :-- | --: | --: | --: |",
    ]
    for noise in NOISES:
        for statements in (1, 4, 12):
            for replicates in (3, 5, 10, 20):
                design = Design(statements, replicates, noise)
                told = " | ".join(f"{100 * rate:.1f} %" for rate in rates(design))
                lines.append(f"| {statements} | {replicates} | {noise} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table between the marks of a page."""
    page = Path(sys.argv[1])
    before, _, rest = page.read_text("utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    main()
