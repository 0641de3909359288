"""What a batch will probably cost: a fit of recorded seconds and memory against sizes that are known before it runs.

    log cost = a + b·log steps + c·log batch size + d·log parameters + e·log networks + f·log M + g·log tested
               + effect of the method + effect of the model

by ridge regression, each cell of the catalog counting once. `scripts/fit_costs.py` fits the committed records and
writes costs.toml; how far off the estimate of a cell is whose like was left out of the fit stands there too.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdlbench import catalog
from bdlbench.core import files
from bdlbench.core.spec import Cell, Choice
from bdlbench.records.record import Record
from bdlbench.runs.batch import Batch
from bdlbench.runs.loading import load_task

FITTED = Path(__file__).with_name("costs.toml")
"""The fit of the committed records."""

EFFECT_PENALTY = 1.0
"""The penalty of an effect, in cells: one cell of a method moves its effect half of the way."""


class CellSize(NamedTuple):
    """What the cost of a batch depends on.

    Attributes:
        method: The name of the method.
        model: The name of the model.
        steps: Steps of training of one network.
        batch_size: Examples of a step.
        parameters: Parameters of one network.
        networks: Networks trained together: rows × members × points of a grid.
        samples: M.
        tested: Test examples.
    """

    method: str
    model: str
    steps: float
    batch_size: float
    parameters: float
    networks: float
    samples: float
    tested: float

    @property
    def logs(self) -> list[float]:
        """A constant, then the logarithm of each number."""
        return [1.0, *(math.log(max(1.0, value)) for value in self[2:])]

    @property
    def effects(self) -> tuple[str, str]:
        """The names of what else moves the cost."""
        return f"method {self.method}", f"model {self.model}"


TERMS = ("constant", *CellSize._fields[2:])
"""The terms of the regression before the effects."""


@dataclass(frozen=True)
class Regression:
    """The fit of one cost.

    Attributes:
        terms: The coefficients, by the names of TERMS.
        effects: The effects of methods and models; an unknown one has none.
        within: By which factor an estimate is off for a cell that was left out: the median, and the worst but a tenth.
    """

    terms: Mapping[str, float]
    effects: Mapping[str, float]
    within: tuple[float, float]

    def at(self, size: CellSize) -> float:
        """Return the cost that is to be expected."""
        logs = sum(self.terms[name] * value for name, value in zip(TERMS, size.logs, strict=True))
        return math.exp(logs + sum(self.effects.get(name, 0.0) for name in size.effects))


@dataclass(frozen=True)
class CostModel:
    """The fits of seconds of training and of prediction, and of the memory of a process in bytes.

    Attributes:
        records: How many records they are of.
        cells: How many cells of the catalog: methods on models on data sets.
        train_seconds: Of a batch's training.
        predict_seconds: Of its predictions.
        peak_memory_bytes: Of the process.
    """

    records: int
    cells: int
    train_seconds: Regression
    predict_seconds: Regression
    peak_memory_bytes: Regression

    def seconds(self, size: CellSize) -> float:
        """Return the seconds of training and prediction that are to be expected."""
        return self.train_seconds.at(size) + self.predict_seconds.at(size)


MEMORY = "peak_memory_bytes"
FITTED_COSTS = ("train_seconds", "predict_seconds", MEMORY)
"""The costs of a record that are fitted."""


@cache
def fitted() -> CostModel:
    """Read the fit of the committed records."""
    table = files.read_toml(FITTED)
    of_costs: dict[str, Any] = {
        name: Regression(table[name]["terms"], table[name]["effects"], tuple(table[name]["within"]))
        for name in FITTED_COSTS
    }
    return CostModel(table["records"], table["cells"], **of_costs)


def size_of_batch(batch: Batch) -> CellSize:
    """Return the size of a batch. Loads its data set and lays out its model; raises BadInput as these do."""
    cell = batch.rows[0].cell
    parameters, train, tested = _laid_out(cell.dataset, cell.at(0).model, batch.rows[0].replicate.split)
    return _size(cell, len(batch.rows), parameters, train, tested)


@cache
def _laid_out(dataset: Choice, model: Choice, split: int) -> tuple[int, int, int]:
    """Return the number of a model's parameters, and of training and test examples."""
    task = load_task(dataset, split)
    built = catalog.build_model([model], task.signature)
    parameters = 1 if built.unsupported() else sum(leaf.size for leaf in built.leaves().values())
    return parameters, len(task.train.y), len(task.test.y)


def size_of_record(record: Record) -> CellSize | None:
    """Return the size of the batch that made a record; None if the record does not tell, as one made elsewhere."""
    parameters = record.values.metrics.get("parameters")
    examples = record.environment.examples
    if parameters is None or not parameters.values or examples is None or record.seconds is None:
        return None
    return _size(record.cell, record.batch_rows, parameters.values[0] or 1, examples.train, examples.test)


def _size(cell: Cell, rows: int, parameters: float, train: int, tested: int) -> CellSize:
    given = dict(_numbers(cell.method))
    batch_size = min(given.get("batch_size") or train, train)
    steps = given.get("steps") or given.get("epochs", 1) * max(1, train // max(1, int(batch_size)))
    points = len(cell.tuning.points) if cell.tuning else 1
    networks = rows * given.get("members", 1) * points
    return CellSize(cell.method.name, cell.model.name, steps, batch_size, parameters, networks, cell.samples, tested)


def _numbers(chosen: Choice) -> Iterable[tuple[str, float]]:
    """Yield the numbers among the options of an entry, those of nested entries first."""
    own = []
    for name, value in chosen.options:
        if isinstance(value, Choice):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            own.append((name, value))
    yield from own


# The fit


def fit(records: Sequence[Record]) -> CostModel:
    """Fit the costs of records made on a CPU, and measure how far off it is on each cell, when it is left out."""
    made = [(r, s) for r in records if r.environment.device == "cpu" and (s := size_of_record(r)) is not None]
    sizes = [size for _, size in made]
    places = [(r.cell.method.name, r.cell.model.name, r.cell.dataset.name) for r, _ in made]
    fits = {}
    for cost in FITTED_COSTS:
        known = [i for i, (record, _) in enumerate(made) if record.cost.get(cost, 0) > 0]
        logs = np.log([made[i][0].cost[cost] for i in known])
        fits[cost] = _regression([sizes[i] for i in known], logs, [places[i] for i in known])
    return CostModel(len(made), len(set(places)), **fits)


def _regression(sizes: Sequence[CellSize], logs: np.ndarray, places: Sequence[Any]) -> Regression:
    names = sorted({name for size in sizes for name in size.effects})
    design = np.array([[*s.logs, *(float(name in s.effects) for name in names)] for s in sizes])  # (N, terms + effects)
    penalty = np.diag([1e-6] * len(TERMS) + [EFFECT_PENALTY] * len(names))
    counts = Counter(places)
    weights = np.array([1 / counts[place] for place in places])  # (N,)

    def solved(kept: np.ndarray) -> np.ndarray:
        weighted = design[kept] * weights[kept, None]
        found: np.ndarray = np.linalg.solve(weighted.T @ design[kept] + penalty, weighted.T @ logs[kept])
        return found

    errors = np.zeros(len(logs))
    for place in counts:
        out = np.array([one == place for one in places])
        errors[out] = np.abs(logs[out] - design[out] @ solved(~out))
    order = np.argsort(errors)
    share = np.cumsum(weights[order]) / weights.sum()
    median, most = (float(np.exp(errors[order][np.searchsorted(share, at)])) for at in (0.5, 0.9))
    found = solved(np.ones(len(logs), dtype=bool)).tolist()
    terms = dict(zip(TERMS, found, strict=False))
    return Regression(terms, dict(zip(names, found[len(TERMS) :], strict=True)), (median, most))


def written(model: CostModel) -> str:
    """Return a model as the text of costs.toml, numbers to four digits."""
    lines = ["# Written by scripts/fit_costs.py from the records in results/; read by bdlbench/runs/costs.py."]
    lines += [f"records = {model.records}", f"cells = {model.cells}"]
    for cost in FITTED_COSTS:
        one: Regression = getattr(model, cost)
        lines += ["", f"[{cost}]", f"within = [{', '.join(f'{value:.4g}' for value in one.within)}]"]
        for part, values in (("terms", one.terms), ("effects", one.effects)):
            lines += ["", f"[{cost}.{part}]", *(f'"{name}" = {value:.4g}' for name, value in values.items())]
    return "\n".join(lines) + "\n"


# Plans


@dataclass(frozen=True)
class Forecast:
    """What batches will probably take.

    Attributes:
        seconds: Of each batch.
        by_record: How many of them are by the recorded cost of equal cells; the others are by size.
        peak_bytes: The most memory that a worker will need.
    """

    seconds: tuple[float, ...]
    by_record: int
    peak_bytes: float

    @property
    def work(self) -> float:
        """The seconds of one worker that did all."""
        return sum(self.seconds)

    def with_workers(self, count: int) -> float:
        """Return the seconds until all are done, if each worker takes the longest batch that is left."""
        free = [0.0] * max(1, min(count, len(self.seconds)))
        for seconds in sorted(self.seconds, reverse=True):
            heapq.heapreplace(free, free[0] + seconds)
        return max(free, default=0.0)


def forecast(batches: Sequence[Batch], existing: Sequence[Record]) -> Forecast:
    """Estimate the costs of batches whose data are at hand.

    Records of equal cells tell best; all others are by size, corrected by how this folder's records compare.
    """
    model = fitted()
    told = {record.key: record for record in existing if record.seconds is not None}
    ratios = [
        math.log(record.seconds / model.seconds(size))
        for record in told.values()
        if record.seconds and record.environment.device == "cpu" and (size := size_of_record(record)) is not None
    ]
    speed = math.exp(sum(ratios) / (len(ratios) + 1))  # as of one more record that is as the fit says
    seconds, by_record, peak = [], 0, 0.0
    for batch in batches:
        equal = [told[cell.key] for cell in batch.cells if cell.key in told]
        if equal:
            seconds.append((equal[-1].seconds or 0.0) * max(1.0, len(batch.rows) / equal[-1].batch_rows))
            peak = max(peak, equal[-1].cost.get(MEMORY, 0.0))
            by_record += 1
        else:
            size = size_of_batch(batch)
            seconds.append(speed * model.seconds(size))
            peak = max(peak, model.peak_memory_bytes.at(size))
    return Forecast(tuple(seconds), by_record, peak)
