"""The overview at the top of the page: a table of methods by data sets, and sentences on what is told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from bdlbench.compare.differences import Apart
from bdlbench.compare.standings import Standing
from bdlbench.records.cells import MAIN_METRICS, Result
from bdlbench.records.record import Record
from bdlbench.report.tables import ABSENT, Column, Entry, number
from bdlbench.runs import suites

if TYPE_CHECKING:
    from bdlbench.report.evidence import EvidenceSection, Shown  # which imports pandas

MOST_LINES = 6
"""The most metrics in one place of the overview, where none of them is a main one."""

MOST_CLAUSES = 2
"""A sentence with more clauses on one metric lists only the rows in front, or those behind."""

NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@dataclass(frozen=True)
class OverviewRow:
    """A row of the overview.

    Attributes:
        method: The method.
        words: The options or the model that distinguish this row from others of the method.
        places: Lines of numbers by data set, () where the row has none.
    """

    method: str
    words: str
    places: tuple[tuple[tuple[Column, Entry], ...], ...]


def rows(sections: Sequence[EvidenceSection]) -> list[OverviewRow]:
    """Return methods by data sets, each mean with half its 95 % interval.

    A method's first row holds its cell on the model that most rows of the data set share, where there is exactly one.
    Its other cells have rows of their own, named by their models and options.
    """
    found: dict[tuple[str, str], dict[int, tuple[tuple[Column, Entry], ...]]] = {}
    for place, section in enumerate(sections):
        for shown, words in zip(section.rows, _words(section), strict=True):
            found.setdefault((shown.method, words), {})[place] = _lines(section, shown)
    methods = list(dict.fromkeys(method for method, _ in found))
    ordered = sorted(found, key=lambda key: (methods.index(key[0]), key[1] != ""))
    return [OverviewRow(*key, tuple(found[key].get(i, ()) for i in range(len(sections)))) for key in ordered]


def columns(section: EvidenceSection) -> list[Column]:
    """Return the metrics of a data set that the overview shows: the main ones, else the first ones."""
    scored = [column for column in section.table.columns if not column.is_cost]
    main = [column for column in scored if column.name.partition("[")[0] in MAIN_METRICS]
    return main or scored[:MOST_LINES]


def _words(section: EvidenceSection) -> list[str]:
    """Return for each row the text that distinguishes it from other rows of its method."""
    models = [shown.result.cell.model.name for shown in section.rows]
    usual = max(dict.fromkeys(models), key=models.count)
    labels = [dict(zip(section.table.labels, row.labels, strict=True)) for row in section.table.rows]
    told = [
        ", ".join(
            text if name == "model" else f"{name} {text}"
            for name, text in label.items()
            if text and name not in ("method", "device", "threads") and (name, text) != ("model", usual)
        )
        for label in labels
    ]
    names = [(shown.method, words) for shown, words in zip(section.rows, told, strict=True)]
    whole = [", ".join(text for name, text in label.items() if text and name != "method") for label in labels]
    return [w if names.count(name) > 1 else name[1] for name, w in zip(names, whole, strict=True)]


def _lines(section: EvidenceSection, shown: Shown) -> tuple[tuple[Column, Entry], ...]:
    lines = []
    for column in columns(section):
        score, standing = shown.result.scores.get(column.name), section.standings[column.name]
        if score is None or not score.values:
            lines.append((column, Entry(ABSENT)))
            continue
        entry = number(score.mean, standing.half_widths[shown.result.key])
        leads = any(pair.tested for pair in standing.apart) and shown.result.key in standing.leaders
        lines.append((column, entry._replace(leads=leads)))
    while lines and lines[-1][1].mean == ABSENT:
        lines.pop()
    return tuple(lines)


# sentences


def sentence(section: EvidenceSection) -> str:
    """Say in one sentence what can be told apart on a data set, and what cannot, by the tests that decide on bold."""
    name, _, _ = section.table.title.partition(" · ")
    where = f"On {name}"  # with the options that tell it from another
    if len(section.rows) == 1:
        return f"{where} there is only {section.rows[0].method}: there is nothing to compare it with."
    if all(len(shown.result.replicates) < 2 for shown in section.rows):
        return f"{where} each row has a single replicate: nothing is known of new runs, so nothing is told apart."
    words = zip(section.rows, _words(section), strict=True)
    names = {one.result.key: f"{one.method} ({word})" if word else one.method for one, word in words}
    alike, clauses = [], dict[str, list[str]]()
    for column in columns(section):
        scored = {key: name for key, name in names.items() if _has(section, key, column)}
        if len(scored) > 1:
            said = _clause(scored, section.standings[column.name])
            alike += [] if said else [column.name]
            if said:
                clauses.setdefault(said, []).append(column.name)
    methods = {shown.method for shown in section.rows}
    what = "methods" if len(methods) == len(section.rows) else "rows"
    parts = [f"nothing in {_listed(alike, 'or')} tells the {_count(len(names))} {what} apart"] if alike else []
    parts += [f"in {_listed(metrics, 'and')}, {said}" for said, metrics in clauses.items()]
    return f"{where}, {'; '.join(parts) or 'no metric has numbers in two rows'}."


def _has(section: EvidenceSection, key: str, column: Column) -> bool:
    result = next(shown.result for shown in section.rows if shown.result.key == key)
    return column.name in result.scores and bool(result.scores[column.name].values)


def _clause(names: Mapping[str, str], standing: Standing) -> str:
    """Return who is better than whom, in few words; "" where no two rows are told apart."""
    shown = [pair for pair in standing.apart if pair.tested]
    if not shown:
        return ""
    by_worse, by_better = (_grouped(shown, names, better) for better in (False, True))
    groups = min(by_worse, by_better, key=len)
    if len(groups) <= MOST_CLAUSES:
        return ", and ".join(_told(above, below, names) for above, below in groups)
    behind = [key for key in names if any(pair.worse == key for pair in shown)]
    front = [key for key in names if key not in behind]
    if len(front) <= len(behind):
        leaders = _listed([names[key] for key in front], "and")
        return f"{leaders} {'leads' if len(front) == 1 else 'lead'}: every other is worse than at least one"
    return f"{_listed([names[key] for key in behind], 'and')} are each worse than at least one"


def _grouped(
    pairs: Iterable[Apart], names: Mapping[str, str], by_better: bool
) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Return pairs (rows above, rows below): each row above is better than each row below."""
    others: dict[str, set[str]] = {}
    for pair in pairs:
        one, other = (pair.better, pair.worse) if by_better else (pair.worse, pair.better)
        others.setdefault(one, set()).add(other)
    alike: dict[frozenset[str], list[str]] = {}
    for key in names:
        if key in others:
            alike.setdefault(frozenset(others[key]), []).append(key)
    groups = [(frozenset(keys), other) for other, keys in alike.items()]
    return groups if by_better else [(other, keys) for keys, other in groups]


def _told(above: frozenset[str], below: frozenset[str], names: Mapping[str, str]) -> str:
    """Return the words of one group in the order of the rows, with "all others" where that is short."""
    first, second = (_listed([name for key, name in names.items() if key in side], "and") for side in (above, below))
    others = len(above) + len(below) == len(names)
    if others and len(above) > 2 and len(below) <= 2:
        return f"{second} {'is' if len(below) == 1 else 'are'} worse than all others"
    if others and len(below) > 2:
        second = "all others"
    return f"{first} {'is' if len(above) == 1 else 'are'} better than {second}"


def _listed(words: Sequence[str], last: str) -> str:
    """Return words such as "a, b or c"."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def _count(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


# title and order


def title(results: Sequence[Result], suite: str) -> str:
    """Return the suite's title if exactly its cells are there, else a title from the records.

    Args:
        results: The cells.
        suite: The suite's name, "" for none.

    Returns:
        The title of the page.
    """
    if suite:
        places = _places(results, suite)
        there = {places.get(result.key) for result in results}
        if there == set(places.values()):
            return suites.read_suite(suite).title
    methods, data = (
        list(dict.fromkeys(names))
        for names in ((r.cell.method.name for r in results), (r.cell.dataset.name for r in results))
    )
    who, where = (
        _listed(names, "and") if len(names) <= 3 else f"{_count(len(names))} {kind}"
        for names, kind in ((methods, "methods"), (data, "data sets"))
    )
    return f"{who[0].upper()}{who[1:]} on {where}" if len(methods) > 3 else f"{who} on {where}"


def nearest_suite(results: Sequence[Result]) -> str:
    """Return the suite of the package that has most of these cells, "" where none has one."""
    keys, cells = {result.key for result in results}, [result.cell for result in results]
    methods, models, datasets = ({getattr(c, kind).name for c in cells} for kind in ("method", "model", "dataset"))
    shared = {"": 0}
    for name in suites.suite_names():
        grids = suites.read_suite(name).grids
        if any(methods & {*g.methods} and models & {*g.models} and datasets & {*g.datasets} for g in grids):
            shared[name] = len(keys & set(_places(results, name)))
    return max(shared, key=shared.__getitem__)


OfCell = TypeVar("OfCell", Record, Result)


def in_order(found: Sequence[OfCell], suite: str) -> list[OfCell]:
    """Return the records in the order of the suite's cells, others at the end.

    Args:
        found: The records.
        suite: The suite's name, "" for none.

    Returns:
        The sorted records.
    """
    places = _places(found, suite) if suite else {}
    return sorted(found, key=lambda one: places.get(one.key, len(places)))


def _places(found: Sequence[Result] | Sequence[Record], suite: str) -> dict[str, int]:
    """Return the place of each cell of a suite, by its key on each machine that made records."""
    spec = suites.build_spec(suites.read_suite(suite), suites.Overrides(device="cpu"))
    machines = dict.fromkeys((one.cell.device, one.cell.threads) for one in found)
    return {
        replace(cell, device=device, threads=threads).key: place
        for place, cell in enumerate(spec.cells)
        for device, threads in machines
    }
