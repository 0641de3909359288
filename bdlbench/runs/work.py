"""A job from its plan to its records, once: what is missing is prepared, run, scored and tidied."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import index
from pathlib import Path

from bdlbench import catalog
from bdlbench.core import files, torch_state
from bdlbench.core.errors import BadInput, DataUnavailable
from bdlbench.core.spec import Cell, Choice, Replicate, Spec
from bdlbench.data import downloads
from bdlbench.records import reading
from bdlbench.records import record as records
from bdlbench.records.cells import Result, merge, select
from bdlbench.records.reading import Faults, Source
from bdlbench.records.record import Record
from bdlbench.runs import budget, lint, provenance, rescoring
from bdlbench.runs.batch import CHECKPOINTS, Batch, Outcome, Settings, batches, load_task, say, unsupported
from bdlbench.runs.executors import Event, execute, only_notes
from bdlbench.runs.lint import Fault

REFERENCE = Path("results/reference")

REPLACED = ".replaced"
"""Folder among the records for those that a fresh run is replacing."""


@dataclass(frozen=True)
class Job:
    """What a run has to do. existing: the records that lie in `results` already.

    outdated: of those that were asked for, the ones that other code made, with what has changed.
    skipped: why for each cell that cannot be trained here; None where nobody has looked yet.
    """

    spec: Spec
    results: Path
    existing: tuple[Record, ...]
    batches: tuple[Batch, ...]
    fresh: bool = False
    outdated: tuple[tuple[Record, str], ...] = ()
    skipped: Mapping[Cell, str] | None = None


def prepare(spec: Spec, results: Path, fresh: bool = False, any_code: bool = False) -> Job:
    """What is missing of a spec, or was made by other code. Writes nothing. Raises BadInput for unreadable records."""
    lint.refuse(lint.of_spec(spec))
    existing = records.read(results, conflicting=fresh) if results.is_dir() else []
    if fresh:
        records.refuse_conflicts(existing, {(cell.key, one) for cell in spec.cells for one in spec.replicates})
    refuse_unwritable(results)
    is_reference = results.resolve().is_relative_to(REFERENCE.resolve())  # `verify` says whether these hold
    cells = {} if fresh or any_code or is_reference else {cell.key: cell for cell in spec.cells}
    outdated = list(_outdated(cells, spec.replicates, existing))
    stale = {record.name for record, _ in outdated}
    existing = [
        provenance.without_edited_metrics(record, cells[record.key]) if record.key in cells else record
        for record in existing
    ]
    current = [] if fresh else [record for record in existing if record.name not in stale]
    return Job(spec, results, tuple(existing), tuple(batches(spec, current)), fresh, tuple(outdated))


def _outdated(
    cells: Mapping[str, Cell], replicates: Iterable[Replicate], existing: Iterable[Record]
) -> Iterator[tuple[Record, str]]:
    """Records of these cells, by key, and replicates that other code made, with what has changed."""
    for record in existing:
        if record.key in cells and not set(replicates).isdisjoint(record.replicates):
            changed = provenance.change(record, cells[record.key])
            if changed:
                yield record, changed


def perform(
    job: Job,
    jobs: int = 1,
    plugins: Sequence[Path] = (),
    settings: Settings | None = None,
    report: Callable[[Event], None] = only_notes,
) -> list[Outcome]:
    """Run the batches of a job that can be run. Returns their outcomes in order.

    Records to be replaced are set aside first and removed once all new ones are there. Raises as `ready` does, and
    BadInput where the folder cannot be written or a batch asks for more than memory holds or anyone waits for.
    """
    job = ready(job)
    if not job.batches and not job.results.is_dir():
        return []
    for batch in job.batches:
        if line := _long(batch):
            logging.getLogger("bdlbench").warning("bdlbench: %s", line)
    began = _probe(job.results)
    if job.fresh:
        _forget_checkpoints(job.results, job.batches)
    _set_aside(job)
    chosen = replace(settings or Settings(job.results), selection=job.spec.selection)
    outcomes = execute(job.batches, chosen, jobs, plugins, report)
    outcomes += execute(_score_again(job), chosen, 1, plugins, only_notes)
    _tidy(job, began)
    return outcomes


def _score_again(job: Job) -> list[Batch]:
    """Score from stored predictions what metrics that raised owe; the batches whose kept fit must tell the rest."""
    cells, stale = {cell.key: cell for cell in job.spec.cells}, {record.name for record, _ in job.outdated}
    known = set(catalog.names("metrics"))
    owing: list[Record] = []
    for record in [] if job.fresh else job.existing:
        if record.key in cells and record.name not in stale and not known.isdisjoint(record.unscored):
            if provenance.EDITED in record.unscored.values():  # the old numbers go, whether or not new ones can be had
                records.write(job.results, record, {})
            with suppress(BadInput):  # its predictions are damaged, which is said where they are looked for
                record = rescoring.fill(job.results, record, cells[record.key])  # noqa: PLW2901
            if not known.isdisjoint(record.unscored):
                owing.append(record)
    replicates = {replicate for record in owing for replicate in record.replicates}
    asked = replace(job.spec, replicates=tuple(r for r in job.spec.replicates if r in replicates))
    names = {record.name for record in owing}
    kept = batches(asked, [record for record in job.existing if record.name not in names])
    return [batch for batch in kept if (job.results / CHECKPOINTS / f"{batch.key}.1.safetensors").exists()]


def ready(job: Job) -> Job:
    """The job without the batches that cannot be run, which are in `skipped`: their data are not to be had, or their
    model or method says that they are no cells.

    Verifies, loads and lints every data set that is about to be used, downloading what is absent, before any training.
    Raises DataUnavailable where nothing is left for want of data, BadInput where a protocol is one that no reading of
    the numbers can mend.
    """
    if job.skipped is not None:
        return job
    absent: dict[Choice, DataUnavailable] = {}
    wanted = _used(job)
    for dataset in dict.fromkeys(dataset for dataset, _ in wanted):
        try:
            downloads.fetch(_files(dataset), dataset.name)
            findings = _of_data([(other, split) for other, split in wanted if other == dataset])
        except DataUnavailable as error:
            absent[dataset] = error
            continue
        lint.refuse(findings)
    if absent and all(batch.cells[0].dataset in absent for batch in job.batches):
        raise next(iter(absent.values()))
    reasons = {batch: str(absent.get(batch.cells[0].dataset, "")) or _refusal(batch) for batch in job.batches}
    skipped = {cell: reason for batch, reason in reasons.items() if reason for cell in batch.cells}
    return replace(job, batches=tuple(batch for batch in job.batches if not reasons[batch]), skipped=skipped)


def refused(job: Job) -> dict[Cell, str]:
    """Cells whose model or method says that they are none, with the reason, where data are at hand. Writes nothing."""
    here = {
        dataset: all(state in downloads.AT_HAND for _, state in downloads.status(_files(dataset)))
        for dataset, _ in _used(job)
    }
    batches = [batch for batch in job.batches if here[batch.cells[0].dataset]]
    return {cell: reason for batch in batches if (reason := _refusal(batch)) for cell in batch.cells}


def _refusal(batch: Batch) -> str:
    """Why a batch's cells are none. What other people's code raises here is left to the run, whose records say it."""
    try:
        with torch_state.kept():
            return unsupported(batch)
    except BadInput:
        raise
    except (Exception, SystemExit):
        return ""


def _long(batch: Batch) -> str:
    """What is to be said of a batch that takes long. Raises BadInput for one out of all proportion; else as above."""
    try:
        with torch_state.kept():
            budget.refuse(batch)
            return budget.said(batch)
    except BadInput:
        raise
    except (Exception, SystemExit):  # `run` says it, and the other cells go on
        return ""


def _files(dataset: Choice) -> Sequence[downloads.RemoteFile]:
    """What a data set declares to be fetched."""
    declared: Sequence[downloads.RemoteFile] = getattr(catalog.load("datasets", dataset.name), "files", ())
    return declared


def findings_of(job: Job) -> list[Fault]:
    """What the protocol lint flags in a job that was performed: its spec, the data it trained on, its records."""
    found = lint.of_spec(job.spec)
    found += _of_data(_used(job))
    keys = {cell.key: cell.title for cell in job.spec.cells}
    made = [record for record in records.read(job.results) if record.key in keys] if job.results.is_dir() else []
    found += [f for record in made for f in lint.of_record(keys[record.key], record)]
    return list(dict.fromkeys(found))


def _used(job: Job) -> list[tuple[Choice, int]]:
    """The splits of data sets that are about to be trained on."""
    return list(dict.fromkeys((r.cell.dataset, r.replicate.split) for batch in job.batches for r in batch.rows))


def _of_data(used: Sequence[tuple[Choice, int]]) -> list[Fault]:
    """What the lint says of data sets, all splits of each together."""
    by_set: dict[Choice, dict[int, tuple[Fault, ...]]] = {}
    for dataset, split in used:
        by_set.setdefault(dataset, {})[split] = _data_findings(dataset, split)
    return [f for dataset, splits in by_set.items() for f in lint.of_splits(dataset.name, splits)]


@lru_cache(maxsize=64)
def _data_findings(dataset: Choice, split: int) -> tuple[Fault, ...]:
    return tuple(lint.of_task(dataset.name, load_task(dataset, split)))


def results_for(
    job: Job, faulty: Callable[[Faults], None] = lambda faults: None, metrics: Sequence[str] = ()
) -> tuple[list[Result], tuple[str, ...]]:
    """What the folder now holds of the cells and replicates asked for, in the order of the spec; and lines.

    faulty: hears what is wrong with the files beside their records, which are done without. metrics: those that a
    record does not hold are computed from its stored predictions; the lines say of which they are not known, and why.
    """
    if not job.results.is_dir():
        return [], ()
    keys = [cell.key for cell in job.spec.cells]
    asked = [(job.results, record) for record in records.read(job.results) if record.key in set(keys)]
    source, faults = reading.sound(Source(tuple(asked)))
    faulty(faults)
    source, untold = rescoring.complete(source, metrics)
    return select(merge(source.records, source), keys, job.spec.replicates), untold


def refuse_unwritable(folder: Path, option: str = "--results") -> None:
    """Raises BadInput where a folder cannot be made or written to, as said by `option`. No write bit is read-only."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise BadInput(f"{option} {folder}: {nearest} is a file; name a folder")
    if not (os.access(nearest, os.W_OK | os.X_OK) and nearest.stat().st_mode & 0o222):
        raise BadInput(f"{option} {folder}: {nearest} is not writable; name another folder")


def _probe(folder: Path) -> float:
    """Make the folder and write to it once: disks and mounts can refuse what permissions allow. Returns its time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"bdlbench")
            stream.flush()
            return os.fstat(stream.fileno()).st_mtime
    except OSError as error:
        raise BadInput(f"--results {folder} is not writable: {error.strerror}; name another folder") from error


def _forget_checkpoints(results: Path, gone: Iterable[Batch]) -> None:
    """A fresh run does not start from where an old one stood."""
    for batch in gone:
        for file in (results / CHECKPOINTS).glob(f"{batch.key}.*"):
            file.unlink(missing_ok=True)


def _tidy(job: Job, began: float) -> None:
    """Remove what killed runs left: files half written before this run, checkpoints of batches that are done in part.

    A batch killed between its records is another batch when it resumes. Checkpoints that others may still ask for stay.
    """
    made = records.read(job.results)
    owing = {(record.key, replicate) for record in made if record.unscored for replicate in record.replicates}
    whole = [batch for batch in batches(job.spec, ()) if batch not in job.batches]
    whole = [batch for batch in whole if not any(cell in (job.skipped or {}) for cell in batch.cells)]
    _forget_checkpoints(
        job.results, [b for b in whole if owing.isdisjoint((row.cell.key, row.replicate) for row in b.rows)]
    )
    hidden = job.results / CHECKPOINTS
    for part in [*job.results.glob(".*.part"), *hidden.glob(".*.part")]:
        with suppress(FileNotFoundError):  # another run has just removed or renamed it
            if part.stat().st_mtime < began:
                part.unlink()
    with suppress(OSError):  # it is not there, or others' checkpoints lie in it
        hidden.rmdir()
    replaced = job.results / REPLACED
    for copy in replaced.glob("*.json"):
        old = records.read_one(copy)
        if records.done(made, old.key).issuperset(old.replicates):
            copy.unlink()
            copy.with_suffix(".safetensors").unlink(missing_ok=True)
    if any(replaced.glob("*.json")):
        say(f"records whose cells failed when they were trained again are kept in {replaced}")
    else:
        shutil.rmtree(replaced, ignore_errors=True)


def _set_aside(job: Job) -> None:
    """Move the replicates that are about to be trained anew from the records to copies in REPLACED.

    An interrupted fresh run is then like any other: what is missing is what is left to do, and nothing is lost.
    """
    cells = {cell.key for cell in job.spec.cells if cell not in (job.skipped or {})}
    replaced = job.existing if job.fresh else [record for record, _ in job.outdated]
    for old in sorted(replaced, key=lambda record: record.path.stem == record.name):  # a copy shares its predictions
        if old.key in cells and not set(job.spec.replicates).isdisjoint([*old.replicates, *old.failed]):
            for ending in (".safetensors", ".json"):
                source = job.results / f"{old.path.stem or old.name}{ending}"
                if source.exists():
                    files.write_atomic(job.results / REPLACED / source.name, source.read_bytes())
            records.without(job.results, old, set(job.spec.replicates))


def settings_of(results: Path, checkpoint_every: float, keep_parameters: bool) -> Settings:
    """Where and how to write. Raises BadInput for seconds that are none."""
    if not (type(checkpoint_every) in (int, float) and checkpoint_every > 0):
        said = str(checkpoint_every).removesuffix(".0")
        raise BadInput(f"--checkpoint-every {said} is out of range: more than 0 seconds")
    return Settings(results, float(checkpoint_every), keep_parameters)


def workers(jobs: int, job: Job) -> int:
    """Processes for a job: as many as asked for, for 0 as cores allow; never more than there are batches."""
    allowed = "at least 1, or 0 for as many as cores allow"
    try:
        asked = -1 if isinstance(jobs, bool) else index(jobs)
    except TypeError:
        raise BadInput(f"--jobs {jobs!r} is not a whole number: {allowed}") from None
    if asked < 0:
        raise BadInput(f"--jobs {jobs} is out of range: {allowed}")
    cell = job.spec.cells[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = 1 if cell.device.startswith("cuda") else max(1, cores // cell.threads)
    return max(1, min(asked or most, len(job.batches)))


def left_out(job: Job) -> list[str]:
    """A line for each reason why cells that were asked for are not trained, with the cells."""
    titles: dict[str, list[str]] = {}
    for cell, reason in (job.skipped or {}).items():
        titles.setdefault(reason, []).append(cell.title)
    return [f"skipped: {'; '.join(dict.fromkeys(cells))}: {reason}" for reason, cells in titles.items()]
