"""References: records of a sampler that has mixed, beside which the predictions of other records are put.

A reference fits a record of the same data, model and prior. The metrics that read one are computed when tables are
made, from the stored predictions of both, so that no record depends on a reference, and a later one serves old records.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from bdlbench.core import files
from bdlbench.core.errors import BadInput
from bdlbench.protocols import Evaluation
from bdlbench.records import evaluation as evaluations
from bdlbench.records import reading
from bdlbench.records.reading import Source
from bdlbench.records.record import Record

REFERENCES_FOLDER = Path("results/reference/posterior")
"""Where references are looked for by default."""

MIXED = 1.05
"""The largest split R-hat of predictions with which a record may serve as a reference."""

RHAT = "rhat[predictions]"
PRIOR = ("prior_sd", "prior_scaling")


@dataclass(frozen=True)
class References:
    """The references of a folder.

    Attributes:
        source: The records that may serve, with their folders.
        refused: One line for each sampler's record that may not.
    """

    source: Source = field(default_factory=lambda: Source(()))
    refused: tuple[str, ...] = ()

    def beside(self, record: Record, kept: Evaluation) -> Evaluation:
        """Return the predictions of a record with those of the reference that fits it; without, where none does.

        A record fits by the identity and the hashes of its data, by its model with all options, and by the prior that
        its method names. A method without a prior, such as `mle`, is put beside the only reference of its data and
        model, and beside none where there are several.
        """
        if record.cell.dataset.get("calibration"):
            return kept  # its training rows depend on the seed
        here = _tested(record)
        alike = [one for one in self.source.records if _setting(one) == _setting(record) and here <= _tested(one)]
        asked = _prior(record)
        fitting = [one for one in alike if not asked or _prior(one) == asked]
        if len(fitting) != 1 or fitting[0] == record:
            return kept
        reference = evaluations.read(fitting[0], self.source.predictions(fitting[0]))
        splits = [replicate.split for replicate in fitting[0].replicates]
        if reference is None or not {replicate.split for replicate in record.replicates} <= set(splits):
            return kept
        rows = [splits.index(replicate.split) for replicate in record.replicates]
        arrays: dict[str, Tensor] = {name: value[rows] for name, value in reference.test.arrays().items()}
        return replace(kept, gold=evaluations.Kept(reference.test.samples, arrays))


def found_in(folder: Path) -> References:
    """Read the references of a folder; none where it is absent.

    Args:
        folder: A folder of records.

    Returns:
        Those that have mixed, and why others may not serve.

    Raises:
        BadInput: The folder holds no records.
    """
    if not folder.exists():
        return References()
    whole, _ = reading.sound(reading.read(folder))
    serving, refused = [], []
    for place, record in whole.entries:
        rhat = record.values.metrics.get(RHAT)
        if not rhat or not rhat.values:
            continue  # no sampler made it
        worst = max(rhat.numbers, key=lambda number: math.inf if math.isnan(number) else number)
        if worst <= MIXED:
            serving.append((place, record))
        else:
            refused.append(f"no reference: {record.cell.title}: {RHAT} is {worst:.3f}, above {MIXED}")
    return References(Source(tuple(serving)), tuple(refused))


def asked_for(folder: str | Path | None) -> References:
    """Return the references of a folder that a person named, or those of the default folder.

    Raises:
        BadInput: The folder that was named does not exist, or holds no sampler's record.
    """
    if folder is None:
        return found_in(REFERENCES_FOLDER)
    if not Path(folder).exists():
        raise BadInput(f"--references {folder} does not exist: give a folder of records by hmc")
    found = found_in(Path(folder))
    if not found.source.entries and not found.refused:
        raise BadInput(f"--references {folder}: no record there is by a sampler, so none can serve: run hmc into it")
    return found


def _setting(record: Record) -> str:
    """Return a hash of the data and the model of a record."""
    sources = dict(sorted(record.environment.sources.items()))
    return files.digest([record.cell.dataset.identity(), record.cell.model.as_dict(), sources])


def _tested(record: Record) -> set[str]:
    """Return the hashes of the test inputs of the splits of a record."""
    examples = record.environment.examples
    return set(examples.test_sha256) if examples else set()


def _prior(record: Record) -> dict[str, object]:
    """Return the options of a method's prior, a member's included, or {} where it has none."""
    options = record.cell.method.flat
    return {name.rpartition(".")[2]: value for name, value in options.items() if name.rpartition(".")[2] in PRIOR}
