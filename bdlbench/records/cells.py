"""Results: all replicates of a cell, merged from its records, and the choice of cells and metrics to show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bdlbench import catalog
from bdlbench.core import memory
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
    "agreement",
    "total_variation",
    "predictive_w2",
    "testbed_kl",
    "testbed_kl_dyadic",
)
"""Metrics that are shown and compared by default; `ood_auroc` stands for all its out-of-distribution sets."""


SQUARES_OVERFLOW = 1e150
"""Numbers above this have squares that no float holds, or whose sum none holds."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One metric of one cell.

    Attributes:
        unit: The unit of the values.
        better: Which values are better.
        definition: The metric's version and options.
        values: One number for each replicate; NaN where it was not finite.
    """

    unit: str
    better: Literal["higher", "lower"]
    definition: str
    values: dict[Replicate, float] = field(default_factory=dict)

    @property
    def meaning(self) -> str:
        """The metric in words; two columns belong to one metric only if their words agree."""
        return f"{self.definition}, {self.unit}, {self.better} is better"

    @property
    def mean(self) -> float:
        """The mean over replicates; NaN if one of them is NaN."""
        return _mean(list(self.values.values()))

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN for fewer than two replicates."""
        return _standard_error(list(self.values.values()))


@dataclass(frozen=True)
class Result:
    """All that is known of one cell.

    Attributes:
        key: The cell's hash.
        cell: The cell.
        scores: Its metrics by column.
        replicates: Replicates that have values.
        failed: Replicates without values, with reasons.
        costs: The cost of each batch that trained replicates of the cell.
        sources: SHA-256 of the data's source files.
        records: The records that the result was merged from.
        source: Where stored predictions are read from; None if they are not needed.
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
        """The cell in words, for example mle · mlp · digits."""
        return self.cell.title


@memory.cycles_kept()
def merge(records: Iterable[Record], source: Source | None = None) -> list[Result]:
    """Merge records into one result for each cell, in the order of first appearance.

    Raises NotComparable if records of one cell were made from different data or with different metrics.
    """
    cells: dict[str, list[Record]] = {}
    for record in records:
        cells.setdefault(record.key, []).append(record)
    return [_merge_cell(key, parts, source) for key, parts in cells.items()]


def select(results: Iterable[Result], keys: Sequence[str], replicates: Iterable[Replicate]) -> list[Result]:
    """Return the results of these cells, in this order, with these replicates only."""
    wanted, known = set(replicates), {result.key: result for result in results}
    return [_only(known[key], wanted) for key in keys if key in known]


def columns_named(results: Iterable[Result], names: Sequence[str]) -> list[str]:
    """Return the columns of the metrics `names`: of the main metrics if `names` is empty, all columns for "*".

    A metric's name stands for all its columns: `ood_auroc` for ood_auroc[near] and ood_auroc[far]. Raises BadInput for
    a name that no result has; the error names the nearest.
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
    """Return the error for a metric without a column: it is undefined for these records, or it does not exist.

    For a metric with columns such as `ood_auroc[near]`, the error names the columns that exist.
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
    """Return the column with this name, or all columns `name[…]`."""
    columns = list(known)
    return [name] if name in columns else [c for c in columns if c.startswith(f"{name.removesuffix('[*]')}[")]


def _merge_cell(key: str, parts: Sequence[Record], source: Source | None) -> Result:
    scores: dict[str, Scores] = {}
    sources: dict[str, str] = {}
    for record in parts:
        _agree(record, "data", sources, record.environment.sources)
        sources |= record.environment.sources
        for name, entry in record.values.metrics.items():
            fresh = dict(zip(record.replicates, entry.numbers, strict=True))
            if name not in scores:
                scores[name] = Scores(entry.unit, entry.better, entry.definition, fresh)
                continue
            known = scores[name]
            meaning = Scores(entry.unit, entry.better, entry.definition).meaning
            _agree(record, f"metric {name}", {"": known.meaning}, {"": meaning})
            known.values.update(fresh)
    done = {replicate for record in parts for replicate in record.replicates}
    failed = {r: why for record in parts for r, why in record.failed.items() if r not in done}
    costs = tuple(record.cost for record in parts if record.cost)
    return Result(key, parts[0].cell, scores, tuple(sorted(done)), failed, costs, sources, tuple(parts), source)


def _agree(record: Record, what: str, known: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name in known.keys() & found.keys():
        if known[name] != found[name]:
            raise NotComparable(f"{record.name} differs from other records of its cell in {what} {name}".rstrip())


def _only(result: Result, wanted: set[Replicate]) -> Result:
    if wanted.issuperset(result.replicates) and wanted.issuperset(result.failed):
        return result
    scores = {
        name: Scores(s.unit, s.better, s.definition, {r: v for r, v in s.values.items() if r in wanted})
        for name, s in result.scores.items()
    }
    replicates = tuple(r for r in result.replicates if r in wanted)
    failed = {r: why for r, why in result.failed.items() if r in wanted}
    return replace(result, scores=scores, replicates=replicates, failed=failed)


def _mean(values: Sequence[float]) -> float:
    if not values:
        return math.nan
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # near the largest number there is, as a metric that diverged may be
        return math.fsum(value / len(values) for value in values)


def _standard_error(values: Sequence[float]) -> float:
    """Return sd / √n, with n − 1 in the variance."""
    n = len(values)
    if n < 2:
        return math.nan
    largest = max(map(abs, values))
    if SQUARES_OVERFLOW < largest < math.inf:
        return largest * _standard_error([value / largest for value in values])
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
