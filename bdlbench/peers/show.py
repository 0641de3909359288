"""The table of peers as terminal text, Markdown, CSV and JSON. Seconds keep full precision until they are printed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bdlbench.core import environment
from bdlbench.peers.libraries import DISTRIBUTIONS
from bdlbench.peers.work import AUTOGRAD, OURS, PeerRow, Timing

TimingFormat = Literal["terminal", "markdown", "csv", "json"]
TIMING_FORMATS: tuple[TimingFormat, ...] = get_args(TimingFormat)

TIMING_COLUMNS = ("over plain", "over fastest", "middle half", "ms", "version", "what it computes differently")
NOT_TIMED = "—"

CAPTION = (
    "Ratio of seconds to the deterministic counterpart, the median over rounds in which every library has a turn: to "
    "plain torch with default Adam, and to its fastest step, fused Adam (predictives: to as many forward passes). "
    "Lower is better, except for networks at once, where × is the rate over the same networks one after the other. "
    "Middle half: quartiles over rounds of the first ratio. Peers use fused Adam; for all, the process keeps freed "
    "memory. In parentheses: another class of estimator."
)


def render(
    tables: Sequence[Sequence[PeerRow]], style: TimingFormat, threads: int, width: int = 120, color: bool = False
) -> str:
    """Return the tables, which were measured one after the other, as text."""
    if style == "json":
        return _json(tables, threads)
    if style == "csv":
        return _csv(tables)
    if style == "markdown":
        return _markdown(tables, threads)
    return _terminal(tables, threads, width, color)


def lines(rows: Sequence[PeerRow], table: int = 1) -> Iterator[dict[str, Any]]:
    """Yield one mapping for each row and contender, with unrounded numbers; None where a number is missing."""
    for row in rows:
        for timing in row.timings:
            contender = timing.contender
            about = {
                "table": table,
                "row": row.work.name,
                "title": row.work.title,
                "library": contender.library,
                "variant": contender.variant,
                "version": version(contender.library),
                "same_class": contender.in_class,
                "unit": f"seconds per {row.work.unit}",
            }
            yield {**about, **_numbers(row, timing), "differs": contender.differs, "failure": timing.failure}


def version(library: str) -> str:
    """Return the version of the installed package: torch's for contenders in plain torch."""
    name = DISTRIBUTIONS.get(library, OURS if library == OURS else "torch")
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def ranked(row: PeerRow) -> list[Timing]:
    """Return contenders, the fastest first, then those of another class of estimator, then those not timed."""
    timed = [t for t in row.timings if t.seconds and t.contender in row.work.contenders]
    timed.sort(key=lambda t: (not t.contender.in_class, t.over(row.plain)[1]))
    return timed + [t for t in row.timings if t.failure]


def _numbers(row: PeerRow, timing: Timing) -> dict[str, float | None]:
    names = ("q1", "median", "q3")
    found: dict[str, float | None] = {}
    for label, values in (
        ("seconds", timing.spread if timing.seconds else None),
        ("over_plain", timing.over(row.plain) if timing.seconds else None),
        ("over_fastest", timing.over(row.fastest) if timing.seconds else None),
    ):
        found |= {f"{label}_{name}": values[i] if values else None for i, name in enumerate(names)}
    return found


def _cells(row: PeerRow, timing: Timing) -> list[str]:
    """Return a line of the printed table with the columns TIMING_COLUMNS."""
    if timing.failure:
        return [
            NOT_TIMED,
            NOT_TIMED,
            NOT_TIMED,
            NOT_TIMED,
            version(timing.contender.library) or NOT_TIMED,
            timing.failure,
        ]
    low, middle, high = timing.over(row.plain)
    fastest = timing.over(row.fastest)[1]
    if row.work.serial:
        low, high = 1 / high, 1 / low
        middle, fastest = 1 / middle, 1 / fastest
    sign, digits = ("×", 1) if row.work.serial else ("", 2)
    ratios = [f"{middle:.{digits}f}{sign}", f"{fastest:.{digits}f}{sign}", f"{low:.{digits}f}–{high:.{digits}f}"]
    return [*ratios, f"{timing.spread[1] * 1e3:.4g}", version(timing.contender.library), timing.contender.differs]


def _label(timing: Timing) -> str:
    label = timing.contender.label
    return label if timing.contender.in_class else f"({label})"


def _baseline(row: PeerRow) -> str:
    """Return the baselines of a row with their milliseconds."""
    parts = dict.fromkeys((row.plain, row.fastest))
    return "over " + ", ".join(f"{t.contender.label} {t.spread[1] * 1e3:.4g} ms" for t in parts)


def _summary(rows: Sequence[PeerRow]) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of the wide table: works by libraries, with both ratios in a cell.

    The fastest of its class is in ** **.
    """
    libraries = list(dict.fromkeys(t.contender.library for row in rows for t in row.timings if t in ranked(row)))
    libraries.sort(key=[OURS, AUTOGRAD, *DISTRIBUTIONS].index)
    found = []
    for row in rows:
        order = [t for t in ranked(row) if t.seconds]
        cells = {t.contender.library: " / ".join(_cells(row, t)[:2]) for t in reversed(order)}
        cells = {
            k: v if any(t.contender.in_class for t in order if t.contender.library == k) else f"({v})"
            for k, v in cells.items()
        }
        for first in order[:1]:
            cells[first.contender.library] = f"**{cells[first.contender.library]}**"
        found.append([row.work.name, *(cells.get(library, NOT_TIMED) for library in libraries)])
    return ["over plain / over fastest", *libraries], found


def _where(threads: int) -> str:
    facts = environment.describe("cpu", threads)
    packages = facts["packages"]
    return (
        f"{facts['processor']}, {threads} thread{'s' if threads > 1 else ''}, torch {packages['torch']}, "
        f"Python {facts['python']}"
    )


def _title(tables: Sequence[Any], index: int) -> str:
    return f"table {index + 1} of {len(tables)}" if len(tables) > 1 else "peers"


def _terminal(tables: Sequence[Sequence[PeerRow]], threads: int, width: int, color: bool) -> str:
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width, force_terminal=color, color_system="standard" if color else None, highlight=False
    )
    for i, rows in enumerate(tables):
        console.print(Text(f"{_title(tables, i)} · {_where(threads)}", style="bold"))
        console.print(_grid(*_summary(rows)))
        for row in rows:
            console.print(Text(f"\n{row.work.name} · {row.work.title}", style="bold"))
            console.print(Text(_baseline(row), style="dim"))
            console.print(_grid(["", *TIMING_COLUMNS], [_line(row, timing) for timing in ranked(row)]))
        console.print()
    console.print(Text(CAPTION))
    return buffer.getvalue()


def _line(row: PeerRow, timing: Timing) -> list[str]:
    ours = timing.contender.library == OURS
    return [f"**{_label(timing)}**" if ours else _label(timing), *_cells(row, timing)]


def _grid(heads: Sequence[str], found: Sequence[Sequence[str]]) -> Table:
    """Return a table without a frame; text in ** ** is bold."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for name in heads:
        table.add_column(name, justify="left" if name in ("", *TIMING_COLUMNS[4:], heads[0]) else "right")
    for line in found:
        table.add_row(*(Text(cell.strip("*"), style="bold" if cell.startswith("**") else "") for cell in line))
    return table


def _markdown(tables: Sequence[Sequence[PeerRow]], threads: int) -> str:
    text = f"{_where(threads)}\n"
    for i, rows in enumerate(tables):
        text += f"\n**{_title(tables, i).capitalize()}**\n\n{_piped(*_summary(rows), right=range(1, 20))}\n"
        found = []
        for row in rows:
            work = f"{row.work.title}, {_baseline(row)}"
            for timing in ranked(row):
                found.append([work, *_line(row, timing)])
                work = ""
        text += _piped(["work", "", *TIMING_COLUMNS], found, right=range(2, 6))
    return f"{text}\n{CAPTION}\n"


def _piped(heads: Sequence[str], found: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Return a Markdown table whose columns `right` are aligned to the right."""
    rule = ["---:" if i in right else "---" for i in range(len(heads))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *found))


def _csv(tables: Sequence[Sequence[PeerRow]]) -> str:
    found = [line for i, rows in enumerate(tables) for line in lines(rows, i + 1)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return stream.getvalue()


def _json(tables: Sequence[Sequence[PeerRow]], threads: int) -> str:
    found = []
    for i, rows in enumerate(tables):
        rounds = [timing.seconds for row in rows for timing in row.timings]
        found += [{**line, "seconds": list(s)} for line, s in zip(lines(rows, i + 1), rounds, strict=True)]
    body = {"environment": environment.describe("cpu", threads), "lines": found}
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
