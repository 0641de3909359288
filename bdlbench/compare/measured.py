"""A metric of a cell: its values by replicate, and the contributions of test examples and posterior samples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import foreign
from bdlbench.core.spec import Replicate
from bdlbench.records import evaluation
from bdlbench.records.arrays import row_axis
from bdlbench.records.cells import Result
from bdlbench.records.record import Record
from bdlbench.runs.references import References
from bdlbench.stats.behrens_fisher import Array

SizedPopulation = tuple[str, int]
"""A population of examples: its name and its size. Populations of one name but different sizes are not the same."""

StoredPredictions = Sequence[tuple[Record, Mapping[str, Tensor]]]
"""The records of a cell, each with its stored predictions, or {} where they were not kept or are not needed."""


@dataclass(frozen=True)
class Measured:
    """One metric of one cell, by replicate.

    Attributes:
        values: The metric.
        examples: The contributions of test examples, an array for each population, for the replicates where they are
            known.
        left_out: The metric without each group of posterior samples, (G,); () where there was a single sample.
    """

    values: Mapping[Replicate, float]
    examples: Mapping[Replicate, tuple[Array, ...]]
    left_out: Mapping[Replicate, Array]

    @property
    def mean(self) -> float:
        """Mean over replicates; NaN where a value is NaN or there are no replicates."""
        return math.fsum(self.values.values()) / len(self.values) if self.values else math.nan

    @property
    def undefined(self) -> list[Replicate]:
        """The replicates whose value is not finite."""
        return sorted(r for r, value in self.values.items() if not math.isfinite(value))


@dataclass(frozen=True)
class ExampleLayout:
    """How replicates share test examples.

    Attributes:
        nested: None where all replicates predict the same examples. Where every split has its own, the number of test
            examples divided by that of training examples, NaN where it is not known.
    """

    nested: float | None = None


@dataclass(frozen=True)
class Contributions:
    """One metric of one cell by replicate, with the parts that stored predictions tell.

    Attributes:
        values: The metric.
        examples: The contributions of the examples of each population.
        left_out: As in `Measured`.
    """

    values: Mapping[Replicate, float]
    examples: dict[Replicate, Mapping[SizedPopulation, Array]] = field(default_factory=dict)
    left_out: dict[Replicate, Array] = field(default_factory=dict)

    @property
    def populations(self) -> set[SizedPopulation]:
        """The populations whose contributions are known; empty where replicates differ in them."""
        known = [set(self.examples.get(r, {})) for r in self.values]
        return known[0] if known and all(one == known[0] for one in known) else set()


def predictions_of(result: Result) -> StoredPredictions:
    """Read the predictions beside a cell's records.

    Args:
        result: The cell.

    Returns:
        Each record with its arrays by name.

    Raises:
        BadInput: The predictions were altered.
    """
    asked = result.source
    return [(record, asked.predictions(record) if asked and record.replicates else {}) for record in result.records]


def contributions(
    result: Result,
    names: Sequence[str],
    kept_with: StoredPredictions,
    of_samples: bool = True,
    references: References | None = None,
) -> dict[str, Contributions]:
    """Compute what each test example and, with `of_samples`, each posterior sample contributes to metrics.

    Only the values are returned for a column whose metric is unknown here or has another definition, and for a column
    whose metric differs between the stored predictions and the record.

    Args:
        result: The cell.
        names: Its columns.
        kept_with: The cell's records with their stored predictions.
        of_samples: Whether to leave out groups of posterior samples.
        references: What distances from a posterior are of; without them, their contributions are not known.

    Returns:
        {column: its values and contributions}.
    """
    found = {name: Contributions(result.scores[name].values) for name in names}
    told_by = [(record, arrays) for record, arrays in kept_with if arrays]
    if not (told_by and names):
        return found
    known = catalog.metrics()
    for record, arrays in told_by:
        kept = evaluation.read(record, arrays)
        kept = references.beside(record, kept) if references and kept else kept
        for entry in dict.fromkeys(name.partition("[")[0] for name in names):
            metric = known.get(entry)
            columns = [score for name, score in result.scores.items() if name.partition("[")[0] == entry]
            if kept is None or metric is None or any(c.definition != catalog.definition(metric) for c in columns):
                continue
            with foreign.calling(f"metric {entry}", metric):
                keys = [name.partition("[")[2].removesuffix("]") for name in names if name.partition("[")[0] == entry]
                parts, values = evaluation.by_example(metric, kept, keys), evaluation.asked(metric, kept)
                groups = evaluation.left_out(metric, kept) if of_samples else {}
            single = record.cell.samples > 1 and not evaluation.has_groups(kept)
            for key, value in values.items():
                name = f"{entry}[{key}]" if key else entry
                if name in found and _agrees(value.tolist(), record.values.metrics[name].values):
                    sized = {(p, evaluation.num_examples(kept, p)): rows for p, rows in parts[key].items()}
                    for i, replicate in enumerate(record.replicates):
                        found[name].examples[replicate] = {population: rows[i] for population, rows in sized.items()}
                        if single:  # a single posterior sample has no Monte-Carlo error to estimate
                            found[name].left_out[replicate] = np.zeros(0)
                        elif key in groups:
                            found[name].left_out[replicate] = groups[key][:, i]
    return found


def _agrees(again: Sequence[float], then: Sequence[float | None]) -> bool:
    """Tell whether the metric of the stored predictions is the stored metric; otherwise it saw more than these."""
    pairs = zip(again, [math.nan if v is None else v for v in then], strict=True)
    return all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-6) or math.isnan(x) == math.isnan(y) == 1 for x, y in pairs)


def aligned(*sides: Contributions) -> list[Measured]:
    """Bring the populations of all sides into one order; leave out all examples if a side knows none.

    If a side lacks a population, its contributions are zeros. The population's part of the variance is then that of the
    sides that have it, and two samples of different sizes add their parts like unpaired ones.
    """
    lengths = {p: len(rows) for one in sides for known in one.examples.values() for p, rows in known.items()}
    populations = [one.populations for one in sides]
    order = sorted(set.union(*populations)) if all(populations) else []
    return [
        Measured(
            one.values,
            {
                r: tuple(one.examples[r].get(p, np.zeros(lengths[p])) for p in order)
                for r in (one.values if order else ())
            },
            one.left_out,
        )
        for one in sides
    ]


def layout_of(results: Iterable[Result]) -> ExampleLayout:
    """Return a nested layout where splits differ and are not known to have the same test examples."""
    found = list(results)
    if len({r.split for result in found for r in result.replicates}) <= 1:
        return ExampleLayout()
    kept = [record.environment.examples for result in found for record in result.records]
    hashes = {digest for one in kept if one for digest in one.test_sha256}
    if all(kept) and len(hashes) == 1:
        return ExampleLayout()
    sizes = next((one for one in kept if one), None)
    return ExampleLayout(nested=sizes.test / sizes.train if sizes else math.nan)


def checksums(kept_with: StoredPredictions) -> dict[Replicate, str]:
    """Return the SHA-256 of all predictions of each replicate with stored predictions."""
    sums = {}
    for record, arrays in kept_with:
        for i, replicate in enumerate(record.replicates if arrays else ()):
            total = hashlib.sha256()
            for name, value in sorted(arrays.items()):
                row = value.select(row_axis(name), i).contiguous().numpy()
                total.update(f"{name} {row.dtype} {row.shape}".encode() + row.tobytes())
            sums[replicate] = total.hexdigest()
    return sums
