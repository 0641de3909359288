"""Measure how often `reproduce` is wrong, on simulated pairs of papers with a known truth.

    python scripts/reproduction_calibration.py docs/statistics.md

A paper's table has 1, 6 or 18 rows. In each row, both papers average over new splits (or runs), and the published mean
is rounded as papers do. *False alarm*: the truths are equal and any row is called "not reproduced". *Reproduced*: the
rows of such tables that are called so. *Found*: one row's truths differ by the margin that was stated for it, in a new
pair of papers, and it is called "not reproduced". *Falsely reproduced*: all rows differ by their margin, and any is
called "reproduced". Fixed streams; about ten minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bdlbench.stats.behrens_fisher import Array
from bdlbench.stats.reproduction import Limits, PublishedRow, judge, published

TABLES = 400
MARKS = ("<!-- reproduction -->", "<!-- end reproduction -->")
WIDE = Limits(0.0, float("inf"))

NOISES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "lopsided": lambda rng, n: rng.standard_exponential(n) - 1,
    "t(3)": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
}


class Design(NamedTuple):
    """Two papers: rows of the table, splits of ours and of theirs, which spread is printed, and how.

    ratio: the standard deviation of their splits over ours. decimals: of the printed mean, where splits vary by 1.
    shared: the correlation of the two papers on one split.
    """

    rows: int
    ours: int
    theirs: int
    spread: str = "standard error"
    noise: str = "normal"
    ratio: float = 1.0
    decimals: int = 3
    shared: float = 0.0


def designs() -> Iterator[Design]:
    """Return designs that resemble papers of this field, and designs that could break the test."""
    for rows in (1, 6, 18):
        for noise in NOISES:
            yield Design(rows, 20, 20, noise=noise)
    yield Design(18, 5, 5)
    yield Design(18, 3, 5, "standard deviation")
    yield Design(6, 3, 10, "standard deviation")
    yield Design(6, 20, 20, ratio=5.0)
    yield Design(6, 3, 20, ratio=5.0)
    yield Design(6, 20, 20, decimals=0)
    yield Design(6, 20, 20, decimals=1)
    yield Design(6, 20, 20, shared=0.9)
    yield Design(6, 20, 20, "by split", shared=0.9)
    yield Design(1, 3, 1, "none")
    yield Design(6, 5, 1, "none")
    yield Design(6, 20, 1, "none")
    yield Design(6, 1, 5, "standard deviation")
    yield Design(18, 20, 20, "by split", shared=0.9)
    yield Design(18, 20, 20, "by split", "lopsided", shared=0.6)
    yield Design(18, 20, 20, "by split", "t(3)", shared=0.9)
    yield Design(18, 5, 5, "by split", shared=0.9)
    yield Design(6, 20, 20, "by split", ratio=2.0, decimals=0, shared=0.6)


def pair(design: Design, rng: np.random.Generator, shift: float) -> PublishedRow:
    """Draw one row of both papers; our truth is `shift` above theirs."""
    draw = NOISES[design.noise]
    common = draw(rng, max(design.ours, design.theirs))
    ours, theirs = (
        scale * (np.sqrt(design.shared) * common[:n] + np.sqrt(1 - design.shared) * draw(rng, n))
        for n, scale in ((design.ours, 1.0), (design.theirs, design.ratio))
    )
    mean = f"{theirs.mean():.{design.decimals}f}"
    if design.spread in ("none", "by split"):
        printed = published(mean, design.theirs)
        return PublishedRow(printed, ours + shift, WIDE, theirs if design.spread == "by split" else None)
    error = theirs.std(ddof=1) / (np.sqrt(design.theirs) if design.spread == "standard error" else 1.0)
    kind = "standard error" if design.spread == "standard error" else "standard deviation"
    return PublishedRow(published(mean, design.theirs, f"{error:.{design.decimals}f}", kind), ours + shift, WIDE)


def measured(design: Design, tables: int, seed: int) -> dict[str, float]:
    """Return the four shares."""
    rng = np.random.default_rng(seed)
    alarms = reproduced = found = falsely = 0
    for _ in range(tables):
        first = judge([pair(design, rng, 0.0) for _ in range(design.rows)])
        alarms += any(a.verdict == "not reproduced" for a in first)
        reproduced += sum(a.verdict == "reproduced" for a in first)
        margins = [a.margin for a in first]
        again = judge([pair(design, rng, margins[0] if i == 0 else 0.0) for i in range(design.rows)])
        found += again[0].verdict == "not reproduced"
        typical = float(np.median(margins))
        off = [pair(design, rng, typical) for _ in range(design.rows)]
        falsely += any(a.verdict == "reproduced" and a.margin <= typical for a in judge(off))
    rows = tables * design.rows
    return {
        "false alarm": alarms / tables,
        "reproduced": reproduced / rows,
        "found": found / tables,
        "falsely reproduced": falsely / tables,
    }


def main(page: Path | None) -> None:
    """Write the table in place of the old one."""
    head = "| rows | splits of ours | of theirs | ± | noise | sd of theirs | digits | shared | " + " | ".join(
        ("false alarm", "reproduced", "found", "falsely reproduced")
    )
    lines = [head + " |", "| --: | --: | --: | :-- | :-- | --: | --: | --: | --: | --: | --: | --: |"]
    for number, design in enumerate(designs()):
        shares = measured(design, TABLES, number)
        d = design
        cells = [d.rows, d.ours, d.theirs, d.spread, d.noise, f"{d.ratio:g}", d.decimals, f"{d.shared:g}"]
        lines.append("| " + " | ".join([*map(str, cells), *(f"{100 * x:.1f} %" for x in shares.values())]) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    if page is None:
        return
    text = page.read_text("utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    page.write_text(before + MARKS[0] + "\n\n" + "\n".join(lines) + "\n\n" + MARKS[1] + after, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
