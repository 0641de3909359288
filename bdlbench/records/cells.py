"""Results: all replicates of a cell brought together, and which of several cells are the best of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bdlbench import catalog
from bdlbench.core.errors import BadInput, NotComparable, unknown
from bdlbench.core.spec import Cell, Replicate
from bdlbench.records.reading import Source
from bdlbench.records.record import Record

MAIN_METRICS = (
    "accuracy",
    "rmse",
    "nll",
    "negative_elbo",
    "ece",
    "ood_auroc",
    "ood_auroc_density",
    "ood_auroc_likelihood_regret",
    "sparsity",
    "flops_fraction",
    "predictive_kl",
)
"""What is shown and compared unless something else is asked for; `ood_auroc` stands for all its OOD sets."""


@dataclass(frozen=True)
class Scores:
    """One metric of one cell. values: by replicate; NaN for what was not finite."""

    unit: str
    better: Literal["higher", "lower"]
    definition: str
    values: dict[Replicate, float] = field(default_factory=dict)

    @property
    def meaning(self) -> str:
        """What must agree for two columns to be one metric, in words."""
        return f"{self.definition}, {self.unit}, {self.better} is better"

    @property
    def mean(self) -> float:
        """Over replicates; NaN where one is."""
        return _mean(list(self.values.values()))

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN for fewer than two replicates."""
        return _standard_error(list(self.values.values()))


@dataclass(frozen=True)
class Result:
    """All that is known of one cell. costs: one for each batch that trained replicates of it; records: what it
    was read from; source: where their predictions are, None where they are not to be asked for.
    """

    key: str
    cell: Cell
    scores: dict[str, Scores]
    replicates: tuple[Replicate, ...]
    failed: dict[Replicate, str]
    costs: tuple[dict[str, float], ...]
    sources: dict[str, str]
    records: tuple[Record, ...] = ()
    source: Source | None = None

    @property
    def title(self) -> str:
        """For people: mle · mlp · digits."""
        return self.cell.title


def merge(records: Iterable[Record], source: Source | None = None) -> list[Result]:
    """One result for each cell, in the order of first appearance.

    Raises NotComparable where records of a cell were made from differing data or with differing metrics.
    """
    cells: dict[str, list[Record]] = {}
    for record in records:
        cells.setdefault(record.key, []).append(record)
    return [replace(_merge_cell(key, parts), source=source) for key, parts in cells.items()]


def select(results: Iterable[Result], keys: Sequence[str], replicates: Iterable[Replicate]) -> list[Result]:
    """The results of these cells, in this order, with these replicates only."""
    wanted, known = set(replicates), {result.key: result for result in results}
    return [_only(known[key], wanted) for key in keys if key in known]


def columns_named(results: Iterable[Result], names: Sequence[str]) -> list[str]:
    """The columns that these results have of the metrics `names`: the main ones where empty, all for "*".

    A metric stands for all its columns, `ood_auroc` for ood_auroc[near] and ood_auroc[far]. Raises BadInput for a
    name that no result has, with the nearest.
    """
    results = list(results)
    known = {name for result in results for name in result.scores}
    if list(names) == ["*"]:
        return sorted(known)
    for cost in {"throughput", *(cost for result in results for costs in result.costs for cost in costs)} & {*names}:
        raise BadInput(f"{cost} is a cost of a whole batch, so it has no replicates to compare: see it in `table`")
    found = {name: matching(name, sorted(known)) for name in names or MAIN_METRICS}
    for name in names:
        if not found[name]:
            raise absent(name, known)
    return list(dict.fromkeys(column for columns in found.values() for column in columns))


def absent(name: str, columns: Iterable[str]) -> BadInput:
    """The error for a metric that is none of these columns: it is undefined for them, or does not exist.

    Of a metric with columns such as `ood_auroc[near]` it names those that there are.
    """
    known = list(columns)
    entry = name.partition("[")[0]
    if entry not in catalog.names("metrics"):
        return unknown("metric", name, {*known, *(column.partition("[")[0] for column in known)})
    if others := matching(entry, known):
        return BadInput(f"{name} is undefined for these records: of {entry} they have {', '.join(others)}")
    metric = catalog.metrics()[entry]
    return BadInput(f"{entry} is undefined for these records: {metric.summary}; see: list metrics {entry}")


def matching(name: str, known: Iterable[str]) -> list[str]:
    """The column of this name, or all `name[…]`."""
    columns = list(known)
    return [name] if name in columns else [c for c in columns if c.startswith(f"{name.removesuffix('[*]')}[")]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; an entry's name goes by the path alone: {"a": {"name": "x"}} as {"a": "x"}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = prefix if key == "name" and prefix else f"{prefix}.{key}".lstrip(".")
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


def _merge_cell(key: str, parts: Sequence[Record]) -> Result:
    scores: dict[str, Scores] = {}
    sources: dict[str, str] = {}
    for record in parts:
        _agree(record, "data", sources, record.environment.sources)
        sources |= record.environment.sources
        for name, entry in record.values.metrics.items():
            fresh = Scores(entry.unit, entry.better, entry.definition)
            known = scores.setdefault(name, fresh)
            _agree(record, f"metric {name}", {"": known.meaning}, {"": fresh.meaning})
            known.values.update(zip(record.replicates, entry.numbers, strict=True))
    done = sorted({replicate for record in parts for replicate in record.replicates})
    failed = {r: why for record in parts for r, why in record.failed.items() if r not in done}
    costs = tuple(record.cost for record in parts if record.cost)
    return Result(key, parts[0].cell, scores, tuple(done), failed, costs, sources, tuple(parts))


def _agree(record: Record, what: str, known: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name in known.keys() & found.keys():
        if known[name] != found[name]:
            raise NotComparable(f"{record.name} differs from other records of its cell in {what} {name}".rstrip())


def _only(result: Result, wanted: set[Replicate]) -> Result:
    scores = {
        name: Scores(s.unit, s.better, s.definition, {r: v for r, v in s.values.items() if r in wanted})
        for name, s in result.scores.items()
    }
    replicates = tuple(r for r in result.replicates if r in wanted)
    failed = {r: why for r, why in result.failed.items() if r in wanted}
    return replace(result, scores=scores, replicates=replicates, failed=failed)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _standard_error(values: Sequence[float]) -> float:
    """sd / √n with n − 1 in the variance."""
    n = len(values)
    if n < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
