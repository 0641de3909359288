"""One suite on several machines without a cluster: each runs a part, and the folders are merged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bdlbench.core import files
from bdlbench.core.errors import BadInput
from bdlbench.core.options import short
from bdlbench.core.spec import Replicate, Spec
from bdlbench.records import record as records
from bdlbench.records.arrays import row_axis
from bdlbench.records.record import Record
from bdlbench.runs.batch import batches


def part_of(spec: Spec, shard: str) -> Spec:
    """Return the part of a spec that one of several machines runs.

    Every n-th batch in the order of the suite is of one part, so that methods of different cost are spread. The parts
    depend on the spec alone, not on what is done already: they are disjoint and are all of it, whoever asks.

    Args:
        spec: The whole.
        shard: "2/5" is the second of five parts.

    Raises:
        BadInput: The text cannot be read; or there are fewer batches than parts, and this part is empty.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    which, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= which <= count:
        raise BadInput(f"--shard {short(shard, repr)} cannot be read: write 2/5 for the second of five parts")
    together = list(dict.fromkeys(batch.cells for batch in batches(spec, ())))
    cells = {cell for batch in together[which - 1 :: count] for cell in batch}
    if not cells:
        raise BadInput(f"--shard {shard} is empty: there are {len(together)} batches, so that many parts at most")
    kept = tuple(cell for cell in spec.cells if cell in cells)
    return replace(spec, cells=kept, searches={c.key: spec.searches[c.key] for c in kept if c.key in spec.searches})


class Merged(NamedTuple):
    """What `merge` has done.

    Attributes:
        copied: Records that were copied.
        known: Records whose replicates the folder had, to the same bits.
        failed: Records of failures that were left out, since other records hold values of their replicates.
    """

    copied: int
    known: int
    failed: int


def merge(sources: Sequence[Path], into: Path) -> Merged:
    """Copy the records of folders into one, with their predictions and kept parameters.

    Replicates that several folders hold to the same bits are no conflict, whatever they cost; the first one stays.

    Raises:
        BadInput: A folder cannot be read, a file that a record names is missing or altered, or two records give one
            replicate different values or predictions. Nothing has been written.
    """
    files.refuse_unwritable(into, "--results")
    held = records.read(into) if into.is_dir() else []
    given = [(folder, record) for folder in sources for record in records.read(folder, conflicting=True)]
    _refuse_conflicts([(into, record) for record in held], given)
    done = records.done([*held, *(record for _, record in given)])
    here, copied, known, failed = records.done(held), 0, 0, 0
    names = {record.name for record in held}
    for folder, record in given:
        have = here.setdefault(record.key, set())
        if record.replicates and have.issuperset(record.replicates):
            known += 1
            continue
        if not record.replicates and (
            record.name in names or not done.get(record.key, set()).isdisjoint(record.failed)
        ):
            failed += 1
            continue
        arrays = records.predictions(folder, record)
        if records.has_parameters(folder, record):
            records.write_parameters(into, record, records.parameters(folder, record))
        records.write(into, record, arrays)
        have.update(record.replicates)
        names.add(record.name)
        copied += 1
    return Merged(copied, known, failed)


def _refuse_conflicts(held: Sequence[tuple[Path, Record]], given: Sequence[tuple[Path, Record]]) -> None:
    """Raise BadInput where two records differ in what they say of one replicate; name the first, and count them."""
    first: dict[tuple[str, Replicate], tuple[Path, Record, int]] = {}
    conflicts = []
    for folder, record in (*held, *given):
        for i, replicate in enumerate(record.replicates):
            there, other, j = first.setdefault((record.key, replicate), (folder, record, i))
            if other is not record and not _same(there, other, j, folder, record, i):
                seed = f"seed {replicate.seed}, split {replicate.split}"
                conflicts.append(f"{there / other.path.name} and {folder / record.path.name} differ in {seed}")
    if conflicts:
        more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
        remedy = "verify tells which can be made again; move the other elsewhere. Nothing was written"
        raise BadInput(f"{conflicts[0]}{more}: {remedy}")


def _same(there: Path, other: Record, j: int, folder: Path, record: Record, i: int) -> bool:
    """Tell whether row j of one record and row i of another have the same values and predictions."""
    if other.values.take([j]) != record.values.take([i]):
        return False
    if other.replicates == record.replicates:
        return other.predictions == record.predictions
    one, two = records.predictions(there, other), records.predictions(folder, record)
    rows = ((name, row_axis(name)) for name in one)
    return one.keys() == two.keys() and all(
        one[name].select(axis, j).equal(two[name].select(axis, i)) for name, axis in rows
    )
