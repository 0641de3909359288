"""Tables for readers: one row for each cell, mean ± standard error, leaders in bold.

Records keep full precision, so rounded tables can be made again at any time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

from scipy import special

from bdlbench import catalog
from bdlbench.compare.standings import Standing, standings
from bdlbench.core import files
from bdlbench.core.errors import BadInput
from bdlbench.core.options import fields, spell
from bdlbench.core.spec import Choice, flatten
from bdlbench.records.cells import MAIN_METRICS, Result, absent, matching
from bdlbench.records.record import Record
from bdlbench.report import text_table
from bdlbench.report.text_table import Field, Format, Sheet

ARROWS = {"higher": "↑", "lower": "↓"}
COST_UNITS = {"_per_second": ("1/s", "higher"), "_seconds": ("s", "lower"), "_bytes": ("bytes", "lower")}
SHORT = {"throughput": ("train_replicate_examples_per_second", "predict_sample_examples_per_second")}
"""Names that stand for several costs."""

COSTS = {
    "throughput": "training and prediction speed: the next two",
    "train_replicate_examples_per_second": "examples trained on per second, times replicates",
    "predict_sample_examples_per_second": "examples predicted per second, times replicates and posterior samples",
    "train_examples_per_second": "examples trained on per second, all replicates at once",
    "train_seconds": "time of training all replicates of the batch",
    "selection_seconds": "time of choosing options on validation rows, all replicates, before the fit",
    "predict_seconds": "time of predicting the test and out-of-distribution sets, all replicates",
    "peak_memory_bytes": "most memory in use",
    "rows": "replicates trained in the batch",
}
"""Costs of a batch that a record holds, and names for several of them, with one line each."""

ABSENT = "—"


class Column(NamedTuple):
    """A metric, or a cost of the batch."""

    name: str
    unit: str
    better: str
    is_cost: bool = False

    @property
    def heading(self) -> str:
        """The name with an arrow, such as `ood_auroc[patches] ↑`."""
        return f"{self.name} {ARROWS.get(self.better, '')}".rstrip()


class Entry(NamedTuple):
    """A number as it is printed.

    Attributes:
        mean: The rounded mean.
        error: The rounded standard error, or half interval; "" where there is none.
        leads: Whether it is bold.
        value: The mean in full precision, NaN where there is none.
        spread: The standard error, or half the interval where that is requested, in full precision; NaN where there is
            none.
    """

    mean: str
    error: str = ""
    leads: bool = False
    value: float = math.nan
    spread: float = math.nan

    @property
    def text(self) -> str:
        """The text `0.9804 ± 0.0012`."""
        return f"{self.mean} ± {self.error}" if self.error else self.mean

    @property
    def concise(self) -> str:
        """The text `0.9804(12)`: the error in units of the last digits."""
        digits = self.error if float(self.error or 0) >= 1 else self.error.replace(".", "").lstrip("0")
        return f"{self.mean}({digits or 0})" if self.error else self.mean


@dataclass(frozen=True)
class TableRow:
    """One cell."""

    labels: tuple[str, ...]
    entries: tuple[Entry, ...]
    count: str


@dataclass(frozen=True)
class Group:
    """The rows of one data set."""

    title: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]


def render(
    results: Sequence[Result],
    style: Format = "terminal",
    metrics: Sequence[str] = (),
    sort: str = "",
    width: int = 100,
    color: bool = False,
    interval: bool = False,
) -> str:
    """Return all results as text.

    Args:
        results: The cells.
        style: The format.
        metrics: The metrics to show, by default the main ones.
        sort: A metric to sort rows by.
        width: Columns of the terminal.
        color: Whether the terminal has colours.
        interval: Whether to print half the 95 % interval instead of the standard error.

    Returns:
        The text.

    Raises:
        BadInput: No result has a metric; the text names the nearest.
    """
    refuse_unknown_metrics(results, [*metrics, *([sort] if sort else [])])
    if style in ("csv", "json"):
        return _csv(results, metrics) if style == "csv" else _json(results, metrics)
    groups = group(results, metrics, sort, interval)
    caption = describe(results, groups, interval)
    if style == "terminal":
        return _terminal(groups, caption, width, color)
    if style == "markdown":
        return "".join(text_table.markdown(sheet(shown)) for shown in groups) + caption + "\n"
    return "".join(text_table.latex(sheet(shown), f"{shown.title}. {caption}") for shown in groups)


def group(
    results: Sequence[Result], metrics: Sequence[str] = (), sort: str = "", interval: bool = False
) -> list[Group]:
    """Return the tables, one for each data set with its options, in order of appearance."""
    groups = []
    for members in by_data(results):
        columns, ordered = select_columns(members, metrics), _sorted(members, sort)
        scored = [column.name for column in columns if not column.is_cost]
        groups.append(laid_out(ordered, columns, standings(ordered, scored, interval), interval))
    return groups


def laid_out(
    results: Sequence[Result], columns: Sequence[Column], found: Mapping[str, Standing], interval: bool = False
) -> Group:
    """Return one table of a data set's results, in their order; `interval` prints half of it in place of the error."""
    shown = labels(results)
    rows = [
        TableRow(
            tuple(label.get(i, "") for label in shown.values()),
            tuple(_entry(result, column, found.get(column.name, Standing()), interval) for column in columns),
            _count(result),
        )
        for i, result in enumerate(results)
    ]
    return Group(title_of(results), tuple(shown), tuple(columns), tuple(rows))


def describe(results: Sequence[Result], groups: Sequence[Group], interval: bool = False) -> str:
    """Return the text below the tables: the meaning of their numbers."""
    counts = {len(result.replicates) for result in results}
    parts = []
    if max(counts, default=0) > 1:
        if interval:
            parts.append("Mean ± half its 95 % interval, for new replicates and new test examples.")
        else:
            covered = 100 * (2 * special.stdtr(max(2, min(counts)) - 1, 1.0) - 1)
            parts.append("Mean ± standard error over n replicates, on these test examples: it covers the mean of new")
            parts.append(f"replicates {covered:.0f} % of the time (--interval: 95 %, for new test examples too).")
        parts.append("Bold: no other row is shown to be better, by the pairwise tests of `compare`, Holm-corrected")
        parts.append("at 5 %. The best of many looks better than it is: the best of five equal rows by 1.2 standard")
        parts.append("errors.")
    else:
        parts.append("One replicate: no standard error, and only the best is bold.")
    parts += budgets(results)
    costs = [column.name for g in groups for column in g.columns if column.is_cost]
    if costs:
        parts.append(f"{', '.join(dict.fromkeys(costs))}: of the batches that trained the row, all replicates at once;")
        parts.append("rows of one batch have the same number, and a + separates batches.")
    return " ".join(parts)


def long_rows(results: Iterable[Result], metrics: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield one row for each cell, replicate and metric, and for each cell and cost. NaN becomes None."""
    for result in results:
        about = _about(result)
        for column in select_columns([result], metrics or ["*"]):
            facts = {"metric": column.name, "unit": column.unit, "better": column.better}
            if column.is_cost:
                for cost in result.costs:
                    yield {**about, "seed": None, "split": None, **facts, "value": cost.get(column.name)}
                continue
            for replicate, value in sorted(result.scores[column.name].values.items()):
                where = {"seed": replicate.seed, "split": replicate.split}
                yield {**about, **where, **facts, "value": value if math.isfinite(value) else None}


def curve_rows(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """Yield one row for each cell, replicate, column and epoch that was measured while training went on."""
    for record in records:
        if (curves := record.values.curves) is None:
            continue
        for name, rows in curves.series.items():
            for replicate, series in zip(record.replicates, rows, strict=True):
                about = {**_about(record), "seed": replicate.seed, "split": replicate.split, "metric": name}
                for epoch, value in zip(curves.epochs, series, strict=True):
                    yield {**about, "samples": curves.samples, "epoch": epoch, "value": value}


def summary_rows(results: Sequence[Result], metrics: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield one row for each cell and metric: mean, standard error, n, failed replicates, whether it leads."""
    for members in by_data(results):
        columns = select_columns(members, metrics)
        found = standings(members, [column.name for column in columns if not column.is_cost])
        for column in columns:
            for result in members:
                if score := result.scores.get(column.name):
                    numbers = {"mean": score.mean, "standard_error": score.standard_error, "n": len(score.values)}
                    facts = {"metric": column.name, "unit": column.unit, "better": column.better}
                    leads = {"failed": len(result.failed), "leads": result.key in found[column.name].leaders}
                    yield {**_about(result), **facts, **numbers, **leads}


def select_columns(results: Sequence[Result], metrics: Sequence[str] = ()) -> list[Column]:
    """Return the columns of `metrics` that the results have: default ones where empty, all for "*"."""
    known = {name: Column(name, s.unit, s.better) for result in results for name, s in sorted(result.scores.items())}
    if list(metrics) == ["*"]:
        return list((known | _costs(results)).values())
    known |= _costs(results)
    found = [column for name in metrics or MAIN_METRICS for column in _matches(name, known)]
    return list(dict.fromkeys(found))


def number(value: float, error: float = math.nan) -> Entry:
    """Round a value so that its standard error keeps two significant digits; without one the value keeps four.

    An error below a millionth of the value is rounding, and is printed as 0.
    """
    if not math.isfinite(value):
        return Entry("not finite")
    error = 0.0 if error <= 1e-6 * abs(value) else error
    if error > 0:
        decimals = max(0, 1 - math.floor(math.log10(error)))
        if float(f"{error:.{decimals}f}") >= 10 ** (2 - decimals):  # 0.0996 → 0.10, not 0.100
            decimals = max(0, decimals - 1)
        return Entry(f"{value:.{decimals}f}", f"{error:.{decimals}f}")
    whole = value == int(value) and abs(value) < 1e15
    text = f"{int(value)}" if whole and abs(value) >= 10 else f"{value:.4g}"
    if "e" not in text and not whole:
        text = f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if abs(value) < 1000 else f"{value:.0f}"
    return Entry(text, "0" if error == 0 else "")


# rows and columns


def by_data(results: Iterable[Result]) -> list[list[Result]]:
    """Group the results by data set with its options, in order of appearance."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.cell.dataset.identity_sha256, []).append(result)
    return list(found.values())


def title_of(results: Sequence[Result]) -> str:
    """Return a title such as `digits · mlp (widths 100-100) · M = 100`, with the parts that all rows share."""
    first = results[0].cell
    words = [spelled("datasets", first.dataset)]
    if len({result.cell.model.identity_sha256 for result in results}) == 1:
        words.append(spelled("models", first.model))
    if len({result.cell.samples for result in results}) == 1:
        words.append(f"M = {first.samples}")
    return " · ".join(words)


def cell_titles(results: Sequence[Result]) -> list[str]:
    """Return the title of each cell, with the options in which cells of one title differ, such as those of a sweep."""
    titles = [result.title for result in results]
    rows: dict[str, list[int]] = {}
    for i, title in enumerate(titles):
        rows.setdefault(title, []).append(i)
    for alike in rows.values():
        options = {i: flatten(results[i].cell.as_dict()) for i in alike}
        names = dict.fromkeys(name for table in options.values() for name in table)
        differing = [name for name in names if len({spell(table.get(name)) for table in options.values()}) > 1]
        for i, table in options.items():
            words = [f"{name.partition('.')[2] or name} {spell(table[name])}" for name in differing if name in table]
            titles[i] = ", ".join([titles[i], *words])
    return titles


def spelled(kind: catalog.Kind, choice: Choice) -> str:
    """Return text such as `mlp (widths 100-100)`: options that differ from the default, all for an unknown entry."""
    try:
        defaults = catalog.choice(kind, choice.name, {}).flat
    except BadInput:
        defaults = {}
    given = {name: value for name, value in choice.flat.items() if defaults.get(name) != value}
    options = ", ".join(f"{name} {spell(value)}" for name, value in given.items() if name != "name")
    return f"{choice.name} ({options})" if options else choice.name


def all_options(kind: catalog.Kind, choice: Choice) -> str:
    """Return every option of an entry, such as `epochs 120 (default 60), batch_size 64`."""
    usual = catalog.choice(kind, choice.name, {})
    defaults = usual.flat | later_defaults(kind, usual)
    words = []
    for name, value in (choice.flat | later_defaults(kind, choice)).items():
        other = f" (default {spell(defaults[name])})" if name in defaults and defaults[name] != value else ""
        words.append(f"{name} {spell(value)}{other}")
    return ", ".join(words[1:])


def not_the_defaults(results: Sequence[Result]) -> Iterator[str]:
    """Yield for each data set what replicates chose from, and the options and columns that differ from the defaults."""
    entries: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {}
    for members in by_data(results):
        methods: dict[tuple[str, str], list[str]] = {}
        usual: dict[str, dict[str, None]] = {}
        columns = labels(members)
        for result in members:
            method = result.cell.method
            nested = {name: value.name for name, value in method.options if isinstance(value, Choice)}
            same = method.name, tuple(nested.items())
            try:
                if same not in entries:
                    own = catalog.choice("methods", method.name, {method.name: nested})  # of the same nested entries
                    plain = catalog.choice("methods", method.name, {}).flat
                    entries[same] = plain, own.flat, later_defaults("methods", own)
            except BadInput:  # an unknown method has no defaults
                continue
            defaults, usually, later = entries[same]
            given = method.flat
            known = later | usually | {name: defaults[name] for name in nested}
            words = [f"{name} {spell(value)}" for name, value in given.items() if known.get(name, value) != value]
            words = [word for word in words if word.partition(" ")[0] not in columns]
            newer = [name for name in usually if name not in given and name not in columns]
            words += [f"made before it had {', '.join(newer)}"] if newer else []
            methods[method.name, result.cell.model.name] = words
            for name in columns.keys() & defaults.keys():
                usual.setdefault(f"{name} {spell(defaults[name])}", {})[method.name] = None
        where = members[0].cell.dataset.name
        for tuning in dict.fromkeys(result.cell.tuning for result in members if result.cell.tuning):
            yield f"Not fixed, on {where}: {tuning.words}."
        models = {model for _, model in methods}
        told = [
            f"{name}{f' on {model}' if len(models) > 1 else ''} ({', '.join(words)})"
            for (name, model), words in methods.items()
            if words
        ]
        if told:
            yield f"Not the defaults, on {where}: {'; '.join(told)}."
        if usual:
            lines = [f"{words} of {', '.join(who)}" for words, who in sorted(usual.items())]
            yield f"The defaults of columns, on {where}: {'; '.join(lines)}."


BUDGET = ("epochs", "steps", "iterations", "batch_size")
"""Options that set the length of training, also those of an ensemble's member."""


def budgets(results: Sequence[Result]) -> Iterator[str]:
    """Yield a sentence where methods on one model and data set had different budgets."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        alike = result.cell.dataset.identity_sha256, result.cell.model.identity_sha256
        groups.setdefault(alike, []).append(result)
    for members in groups.values():
        had: dict[str, dict[str, dict[str, None]]] = {option: {} for option in BUDGET}  # by method, in order
        for result in members:
            given = result.cell.method.flat
            for name, value in given.items():
                entry, _, own = name.rpartition(".")
                if own not in had:
                    continue
                epochs, steps = (given.get(f"{entry}.{other}".lstrip(".")) for other in ("epochs", "steps"))
                if not (own == "steps" and epochs):  # steps replace the epochs beside them
                    word = f"as {steps} steps" if own == "epochs" and steps else spell(value)
                    had[own].setdefault(result.cell.method.name, {})[word] = None
        differing = []
        for option, by_method in had.items():
            shared: dict[str, list[str]] = {}
            for method, values in by_method.items():
                shared.setdefault(", ".join(values), []).append(method)
            if len(shared) > 1:
                differing.append(f"{option} " + "; ".join(f"{v} of {', '.join(who)}" for v, who in shared.items()))
        if differing:
            cell = members[0].cell
            where = f"{spelled('models', cell.model)} and {spelled('datasets', cell.dataset)}"
            yield f"Budgets differ on {where}: {', '.join(differing)}."


def labels(results: Sequence[Result]) -> dict[str, dict[int, str]]:
    """Return {column: {row: text}}: the method, the model if there are several, and the options in which rows differ.

    An option of a method has a column where two rows of that method on the same model differ in it. An option of a
    model has one where two rows of that model differ in it. Every row with that option shows it, also a row whose cell
    lacks it because it came later and has its default, which is then marked as such.
    """
    found = {"method": {i: r.cell.method.name for i, r in enumerate(results)}}
    models = {i: r.cell.model.name for i, r in enumerate(results)}
    if len(set(models.values())) > 1:
        found["model"] = models
    options = {kind: {i: _options(r, kind) for i, r in enumerate(results)} for kind in ("method", "model", "")}
    for kind, tables in options.items():
        names = {i: f"{found['method'][i]} {models[i]}" if kind == "method" else models[i] * bool(kind) for i in tables}
        for option in _differing_options(tables, names):
            heading = f"{kind} {option}" if option in found else option
            found[heading] = {i: spell(table[option]) for i, table in tables.items() if option in table}
    for kind in ("method", "model"):  # rows that differ only in an option that records of another version lack
        tables = options[kind]
        alike: dict[tuple[str | None, ...], list[int]] = {}
        for i in tables:
            alike.setdefault(tuple(column.get(i) for column in found.values()), []).append(i)
        for i, j in sorted(pair for rows in alike.values() for pair in combinations(rows, 2)):
            if all(column.get(i) == column.get(j) for column in found.values()):
                for option in tables[i].keys() ^ tables[j].keys():
                    found[option] = {k: spell(table[option]) for k, table in tables.items() if option in table}
                    found[option] |= {k: ABSENT for k in (i, j) if option not in tables[k]}
    return found


def _options(result: Result, kind: str) -> dict[str, Any]:
    """Return the flat options of a row's method or model; for "" the other fields that distinguish cells."""
    cell = result.cell
    if not kind:
        return {"samples": cell.samples, "device": cell.device, "threads": cell.threads}
    choice = cell.method if kind == "method" else cell.model
    idle = later_defaults("methods" if kind == "method" else "models", choice)
    given = {name: value for name, value in choice.flat.items() if name != "name"}
    return given | {name: f"{spell(value)} (default)" for name, value in idle.items()}


def later_defaults(kind: catalog.Kind, choice: Choice) -> dict[str, Any]:
    """Return the flat options that a choice lacks because they came later, and that it has at their default."""
    try:
        known = fields(entry := catalog.load(kind, choice.name))
    except BadInput:  # an unknown entry has no defaults
        return {}
    found = dict(_later(entry, tuple(name for name, _ in choice.options)))
    for name, value in choice.options:
        if isinstance(value, Choice) and name in known and (nested := known[name].metadata["entry"]):
            found |= {f"{name}.{inner}": default for inner, default in later_defaults(nested, value).items()}
    return found


@lru_cache(maxsize=1024)  # rows of one table have the same names
def _later(entry: type, given: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the defaults of an entry's own options that came later and are not among those given."""
    return {name: f.default for name, f in fields(entry).items() if f.metadata["later"] and name not in given}


def _differing_options(tables: Mapping[int, Mapping[str, Any]], names: Mapping[int, str]) -> list[str]:
    first: dict[tuple[str, str], Any] = {}
    differing: set[tuple[str, str]] = set()
    for i, table in tables.items():
        name = names[i]
        for option, value in table.items():
            known = first.setdefault((name, option), value)
            alike = known is value or (type(known) is type(value) and known == value)
            if not alike and spell(known) != spell(value):
                differing.add((name, option))
    return list(dict.fromkeys(place[1] for place in first if place in differing))


def _costs(results: Iterable[Result]) -> dict[str, Column]:
    names = sorted({name for result in results for cost in result.costs for name in cost})
    found = {}
    for name in names:
        unit, better = next((v for ending, v in COST_UNITS.items() if name.endswith(ending)), ("count", ""))
        found[name] = Column(name, unit, better, is_cost=True)
    return found


def _matches(name: str, known: Mapping[str, Column]) -> list[Column]:
    """Return the column of this name, or all `name[…]`, or all columns that a short name stands for."""
    if name in SHORT:
        return [known[cost] for cost in SHORT[name] if cost in known]
    return [known[column] for column in matching(name, known)]


def refuse_unknown_metrics(results: Sequence[Result], names: Sequence[str]) -> None:
    """Raise BadInput for a metric or a cost that no result has, and name the nearest."""
    known = {c.name: c for c in select_columns(results, ["*"])}
    for name in names:
        if not _matches(name, known):
            raise absent(name, known)


def _sorted(results: list[Result], sort: str) -> list[Result]:
    """Sort by the metric `sort`, best first, rows without it last; keep the order where `sort` is empty."""
    column = next(iter(select_columns(results, [sort])), None) if sort else None
    if column is None:
        return results

    def rank(result: Result) -> tuple[bool, float]:
        value = _value(result, column)
        return math.isnan(value), -value if column.better == "higher" else value

    return sorted(results, key=rank)


def _value(result: Result, column: Column) -> float:
    if column.is_cost:
        return _over_batches(result.costs, column.name)
    score = result.scores.get(column.name)
    return score.mean if score else math.nan


def _over_batches(costs: Sequence[Mapping[str, float]], name: str) -> float:
    """Join a cost of several batches: rates weighted by time, the most memory. NaN where one is not known."""
    values = [cost.get(name, math.nan) for cost in costs]
    if not values or any(map(math.isnan, values)):
        return math.nan
    if name.endswith("_bytes"):
        return max(values)
    if not name.endswith("_per_second"):
        return math.fsum(values)
    seconds = [cost.get(f"{name.partition('_')[0]}_seconds", 1.0) for cost in costs]
    return math.fsum(rate * spent for rate, spent in zip(values, seconds, strict=True)) / math.fsum(seconds)


def _entry(result: Result, column: Column, standing: Standing, interval: bool) -> Entry:
    if column.is_cost:
        values = [cost[column.name] for cost in result.costs if column.name in cost]
        text = " + ".join(number(value).mean for value in values)
        return Entry(text or ABSENT, value=values[0] if len(values) == 1 else math.nan)
    score = result.scores.get(column.name)
    if not score or not score.values:
        return Entry(ABSENT)
    spread = standing.half_widths[result.key] if interval else score.standard_error
    printed = number(score.mean, spread)
    return printed._replace(leads=result.key in standing.leaders, value=score.mean, spread=spread)


def _count(result: Result) -> str:
    failed = len(result.failed)
    return f"{len(result.replicates)} ({failed} failed)" if failed else str(len(result.replicates))


def _about(result: Result | Record) -> dict[str, Any]:
    cell = result.cell
    parts = {"dataset": cell.dataset, "model": cell.model, "method": cell.method}
    options = {kind: {k: v for k, v in choice.as_dict().items() if k != "name"} for kind, choice in parts.items()}
    return {
        "cell": result.key,
        **{kind: choice.name for kind, choice in parts.items()},
        "options": files.canonical_json(options).decode(),
        "samples": cell.samples,
        "device": cell.device,
        "threads": cell.threads,
    }


# styles


def _csv(results: Sequence[Result], metrics: Sequence[str]) -> str:
    names = ["cell", "dataset", "model", "method", "options", "samples", "device", "threads"]
    names += ["seed", "split", "metric", "unit", "better", "value"]
    return text_table.csv_lines(long_rows(results, metrics), names)


def _json(results: Sequence[Result], metrics: Sequence[str]) -> str:
    failed = [
        {**_about(result), "seed": replicate.seed, "split": replicate.split, "reason": why}
        for result in results
        for replicate, why in sorted(result.failed.items())
    ]
    values = [{**row, "options": json.loads(row["options"])} for row in long_rows(results, metrics)]
    failed = [{**row, "options": json.loads(row["options"])} for row in failed]
    return json.dumps({"values": values, "failed": failed}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _terminal(groups: Sequence[Group], caption: str, width: int, color: bool) -> str:
    """Print in full where that fits, else with errors in brackets, else with the columns in several tables."""
    if not color:
        caption = caption.replace("Bold:", "Bold (here *):")
    sheets = [_aligned_sheet(shown, color, False) for shown in groups]
    if any(text_table.breadth(sheet, color=True) > width for sheet in sheets):  # stars are in the texts already
        sheets = [_aligned_sheet(shown, color, True) for shown in groups]
        caption = caption.replace("Mean ± ", "Mean(± in units of the last digits), ±: ")
    text = "".join(text_table.terminal(sheet, color, width) + "\n" for sheet in sheets)
    return text + text_table.wrapped([caption], width, color)


def _aligned_sheet(shown: Group, color: bool, concise: bool) -> Sheet:
    """Return a table whose numbers are aligned, with a heading of several lines for each column."""
    bracketed = any("[" in column.name for column in shown.columns)
    headings, columns = [], []
    for k, column in enumerate(shown.columns):
        name, bracket, key = column.name.partition("[")
        lines = [f"{name} {ARROWS.get(column.better, '')}".rstrip(), f"{bracket}{key}"]
        lines = lines if bracket or not bracketed else ["", lines[0]]
        headings.append("\n".join([*(lines if bracketed else lines[:1]), column.unit]))
        columns.append(_aligned([row.entries[k] for row in shown.rows], color, concise))
    rows = tuple(
        (*map(Field, row.labels), *(column[i] for column in columns), Field(row.count))
        for i, row in enumerate(shown.rows)
    )
    return Sheet(shown.title, (*shown.labels, *headings, "n"), rows, len(shown.labels), repeated=1)


def _aligned(entries: Sequence[Entry], color: bool, concise: bool) -> list[Field]:
    """Align the decimal points of means and of errors. Without colour a star stands for bold."""
    means = [entry.concise if concise else entry.mean for entry in entries]
    if not concise and any(entry.error for entry in entries):
        gap = " " * (3 + max(len(entry.error) for entry in entries))
        errors = [f" ± {entry.error}" if entry.error else gap for entry in entries]
        means = [mean + error for mean, error in zip(_padded(means), errors, strict=True)]
    starred = [text + ("*" if entry.leads and not color else "") for text, entry in zip(means, entries, strict=True)]
    return [Field(text, bold=color and entry.leads) for text, entry in zip(_padded(starred), entries, strict=True)]


def _padded(texts: Sequence[str]) -> list[str]:
    """Pad texts on the right so that decimal points are aligned; an absent value stays as it is."""
    tails = {text: len(re.sub(r"^-?\d+", "", text)) for text in texts if text != ABSENT}
    longest = max(tails.values(), default=0)
    return [text + " " * (longest - tails.get(text, longest)) for text in texts]


def sheet(shown: Group) -> Sheet:
    """Return a table as texts, for every style."""
    headings = [*shown.labels, *(f"{c.heading} ({c.unit})" for c in shown.columns), "n"]
    rows = [
        (*map(Field, row.labels), *(Field(entry.text, entry.leads) for entry in row.entries), Field(row.count))
        for row in shown.rows
    ]
    return Sheet(shown.title, tuple(headings), tuple(rows), len(shown.labels))
