"""What a cell's metric is made of: values by replicate, and what each test example and posterior sample contributes."""

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
from bdlbench.records import record as records
from bdlbench.records.cells import Result
from bdlbench.records.record import Record
from bdlbench.stats.behrens_fisher import Array

SizedPopulation = tuple[str, int]
"""A population of examples by its name, and how many they are: others of that name are not the same examples."""

StoredPredictions = Sequence[tuple[Record, Mapping[str, Tensor]]]
"""The records of a cell, each with its stored predictions: {} where none were kept, or none are needed."""


@dataclass(frozen=True)
class Measured:
    """One metric of one cell, by replicate.

    examples: what each test example contributes, an array for each population of them, of the replicates of which it is
    known; left_out: (G,) the metric without each group of posterior samples, () where one sample was all there is.
    """

    values: Mapping[Replicate, float]
    examples: Mapping[Replicate, tuple[Array, ...]]
    left_out: Mapping[Replicate, Array]

    @property
    def mean(self) -> float:
        """Over replicates; NaN where one is, or none is left."""
        return math.fsum(self.values.values()) / len(self.values) if self.values else math.nan

    @property
    def undefined(self) -> list[Replicate]:
        """Those whose value is not finite."""
        return sorted(r for r, value in self.values.items() if not math.isfinite(value))


@dataclass(frozen=True)
class ExampleLayout:
    """How replicates share test examples.

    nested: the number of test over training examples where every split has its own, NaN where that is not known; None
    where all replicates predict the same ones.
    """

    nested: float | None = None


@dataclass(frozen=True)
class Contributions:
    """One metric of one cell by replicate, with what is known of its parts from stored predictions.

    examples: by population, what each of its examples contributes; left_out: as of `Measured`.
    """

    values: Mapping[Replicate, float]
    examples: dict[Replicate, Mapping[SizedPopulation, Array]] = field(default_factory=dict)
    left_out: dict[Replicate, Array] = field(default_factory=dict)

    @property
    def populations(self) -> set[SizedPopulation]:
        """Of whose examples all replicates tell what they contribute; none where replicates differ in that."""
        known = [set(self.examples.get(r, {})) for r in self.values]
        return known[0] if known and all(one == known[0] for one in known) else set()


def predictions_of(result: Result) -> StoredPredictions:
    """Read the predictions beside a cell's records. Raises BadInput where they were altered."""
    asked = result.source
    return [(record, asked.predictions(record) if asked and record.replicates else {}) for record in result.records]


def contributions(
    result: Result, names: Sequence[str], kept_with: StoredPredictions, of_samples: bool = True
) -> dict[str, Contributions]:
    """Ask the metrics of these columns what each example contributes and, with `of_samples`, each posterior sample.

    A column whose metric is unknown here, was another one then, or says of the predictions something else than the
    record does, has its values alone.
    """
    found = {name: Contributions(result.scores[name].values) for name in names}
    known = catalog.metrics()
    for record, arrays in kept_with if names else ():
        kept = evaluation.read(record, arrays)
        for entry in dict.fromkeys(name.partition("[")[0] for name in names):
            metric = known.get(entry)
            columns = [score for name, score in result.scores.items() if name.partition("[")[0] == entry]
            if kept is None or metric is None or any(c.definition != catalog.definition(metric) for c in columns):
                continue
            with foreign.calling(f"metric {entry}", metric):
                parts, values = evaluation.by_example(metric, kept), evaluation.asked(metric, kept)
                groups = evaluation.left_out(metric, kept) if of_samples else {}
            single = record.cell.samples > 1 and not evaluation.has_groups(kept)
            for key, value in values.items():
                name = f"{entry}[{key}]" if key else entry
                if name in found and _agrees(value.tolist(), record.values.metrics[name].values):
                    sized = {(p, evaluation.num_examples(kept, p)): rows for p, rows in parts[key].items()}
                    for i, replicate in enumerate(record.replicates):
                        found[name].examples[replicate] = {population: rows[i] for population, rows in sized.items()}
                        if single:  # one posterior sample is all there is, so no Monte-Carlo error
                            found[name].left_out[replicate] = np.zeros(0)
                        elif key in groups:
                            found[name].left_out[replicate] = groups[key][:, i]
    return found


def _agrees(again: Sequence[float], then: Sequence[float | None]) -> bool:
    """Whether the metric of the stored predictions is the stored metric: else they are not all that it saw."""
    pairs = zip(again, [math.nan if v is None else v for v in then], strict=True)
    return all(math.isclose(x, y, rel_tol=1e-5, abs_tol=1e-6) or math.isnan(x) == math.isnan(y) == 1 for x, y in pairs)


def aligned(*sides: Contributions) -> list[Measured]:
    """Bring the populations of all sides into one order; leave out all examples where one side knows of none.

    Examples of a population that another side does not have are met by zeros: their part of the variance is then that
    of their own side alone, and the parts of two samples of different sizes add up as those of unpaired ones do.
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
    """Nested where splits differ and their test examples are not known to be the same ones."""
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
    """SHA-256 of all that was predicted by each replicate; none where nothing was kept."""
    sums = {}
    for record, arrays in kept_with:
        for i, replicate in enumerate(record.replicates if arrays else ()):
            total = hashlib.sha256()
            for name, value in sorted(arrays.items()):
                row = value.select(records.row_axis(name), i).contiguous().numpy()
                total.update(f"{name} {row.dtype} {row.shape}".encode() + row.tobytes())
            sums[replicate] = total.hexdigest()
    return sums
