"""A job from its plan to its records.

    spec → plan → prepare → perform → held

`plan` finds out what is missing and writes nothing; `prepare` has the data at hand and leaves out what can be no cell;
`perform` trains, scores, writes and tidies; `held` reads what the folder then holds.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from operator import index
from pathlib import Path

from bdlbench import catalog
from bdlbench.core import files, torch_state
from bdlbench.core.errors import BadInput, DataUnavailable
from bdlbench.core.spec import Cell, Choice, Spec
from bdlbench.data import downloads
from bdlbench.records import record as records
from bdlbench.records.cells import select
from bdlbench.records.reading import Source
from bdlbench.records.record import Record
from bdlbench.runs import budget, lint, provenance, rescoring
from bdlbench.runs.batch import CHECKPOINTS, Batch, Outcome, Settings, batches, load_task, say, unsupported
from bdlbench.runs.executors import Report, execute, only_notes
from bdlbench.runs.lint import Fault
from bdlbench.runs.rescoring import Completed

REFERENCE = Path("results/reference")

REPLACED = ".replaced"
"""Folder among the records for those that a fresh run is replacing."""


@dataclass(frozen=True)
class Job:
    """What a run has to do.

    settings: where records go, and how; existing: the records that lie there already, without metrics whose source has
    changed since; batches: what is to be trained; fresh: whether all that was asked for is. outdated: of the records
    that were asked for, those that other code made, with what has changed. skipped: why for each cell that `prepare`
    left out.
    """

    spec: Spec
    settings: Settings
    existing: tuple[Record, ...]
    batches: tuple[Batch, ...]
    fresh: bool = False
    outdated: tuple[tuple[Record, str], ...] = ()
    skipped: Mapping[Cell, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        """The folder of the records."""
        return self.settings.results


def plan(spec: Spec, settings: Settings, fresh: bool = False, any_code: bool = False) -> Job:
    """Find out what of a spec is missing, or was made by other code. Writes nothing.

    fresh: all of it is to be made anew; any_code: records stand whatever code made them. Raises BadInput for a spec
    that no reading of the numbers can mend, records that cannot be read, and a folder that cannot be written to.
    """
    if not (type(settings.checkpoint_every) in (int, float) and settings.checkpoint_every > 0):
        said = str(settings.checkpoint_every).removesuffix(".0")
        raise BadInput(f"--checkpoint-every {said} is out of range: more than 0 seconds")
    lint.refuse(lint.of_spec(spec))
    results, asked = settings.results, {(cell.key, one) for cell in spec.cells for one in spec.replicates}
    existing = records.read(results, conflicting=fresh) if results.is_dir() else []
    if fresh:
        records.refuse_conflicts(existing, asked)
    files.refuse_unwritable(results, "--results")
    code = provenance.code_of_cells(spec.cells)
    outdated: list[tuple[Record, str]] = []
    is_reference = results.resolve().is_relative_to(REFERENCE.resolve())  # `verify` says whether these hold
    if not (fresh or any_code or is_reference):
        existing, outdated = provenance.held_against(existing, spec, code)
    stale = {record.name for record, _ in outdated}
    current = [] if fresh else [record for record in existing if record.name not in stale]
    missing = batches(spec, current)
    settings = replace(settings, selection=spec.selection, code=code)
    return Job(spec, settings, tuple(existing), tuple(missing), fresh, tuple(outdated))


def prepare(job: Job) -> Job:
    """Have every data set of a job at hand, and leave out what can be no cell. Returns the job with what is left.

    Data sets are downloaded where they are absent, verified, loaded and linted before any training. A cell is left out,
    and `skipped` says why, where its data are not to be had, or its model or method says that it is no cell. Raises
    DataUnavailable where nothing is left for want of data; BadInput where a protocol is one that no reading of the
    numbers can mend, or a batch asks for more than memory holds or anyone waits for.
    """
    absent: dict[Choice, DataUnavailable] = {}
    used = _used(job)
    for dataset in dict.fromkeys(dataset for dataset, _ in used):
        try:
            downloads.fetch(_files(dataset), dataset.name)
            findings = _of_data([(other, split) for other, split in used if other == dataset])
        except DataUnavailable as error:
            absent[dataset] = error
            continue
        lint.refuse(findings)
    if absent and all(batch.cells[0].dataset in absent for batch in job.batches):
        raise next(iter(absent.values()))
    skipped: dict[Cell, str] = {}
    kept = []
    for batch in job.batches:
        reason = str(absent.get(batch.cells[0].dataset, "")) or _asked(unsupported, batch)
        if reason:
            skipped |= dict.fromkeys(batch.cells, reason)
            continue
        kept.append(batch)
        if line := _asked(budget.check, batch):
            logging.getLogger("bdlbench").warning("bdlbench: %s", line)
    return replace(job, batches=tuple(kept), skipped=skipped)


def perform(job: Job, workers: int = 1, report: Report = only_notes) -> list[Outcome]:
    """Train, score and write what a prepared job lacks, and tidy up. Returns what became of its batches, in order.

    Records to be replaced are set aside first and removed once all new ones are there. workers: processes that train.
    Raises BadInput where the folder cannot be written.
    """
    if not job.batches and not job.results.is_dir():
        return []
    began = _probe(job.results)
    if job.fresh:
        _forget_checkpoints(job.results, job.batches)
    _set_aside(job)
    outcomes = execute(job.batches, job.settings, workers, report)
    outcomes += execute(_score_again(job), job.settings)
    _tidy(job, began)
    return outcomes


def held(job: Job, metrics: Sequence[str] = ()) -> Completed:
    """Read what the folder now holds of the cells and replicates asked for, in the order of the spec.

    metrics: those that a record does not hold are computed from its stored predictions.
    """
    if not job.results.is_dir():
        return Completed([])
    keys = [cell.key for cell in job.spec.cells]
    asked = tuple((job.results, record) for record in records.read(job.results) if record.key in set(keys))
    found = rescoring.completed(Source(asked), metrics)
    return found._replace(results=select(found.results, keys, job.spec.replicates))


def findings_of(job: Job) -> list[Fault]:
    """Ask the protocol lint about a job that was performed: its spec, the data it trained on, its records."""
    found = lint.of_spec(job.spec)
    found += _of_data(_used(job))
    keys = {cell.key: cell.title for cell in job.spec.cells}
    made = [record for record in records.read(job.results) if record.key in keys] if job.results.is_dir() else []
    found += [f for record in made for f in lint.of_record(keys[record.key], record)]
    return list(dict.fromkeys(found))


def left_out(job: Job) -> list[str]:
    """Name the cells that were left out, in a line for each reason."""
    titles: dict[str, list[str]] = {}
    for cell, reason in job.skipped.items():
        titles.setdefault(reason, []).append(cell.title)
    return [f"skipped: {'; '.join(dict.fromkeys(cells))}: {reason}" for reason, cells in titles.items()]


def refused(job: Job) -> dict[Cell, str]:
    """Find the cells whose model or method says that they are none, with the reason, where data are at hand already."""
    here = {
        dataset: all(state in downloads.AT_HAND for _, state in downloads.status(_files(dataset)))
        for dataset, _ in _used(job)
    }
    batches = [batch for batch in job.batches if here[batch.cells[0].dataset]]
    return {cell: reason for batch in batches if (reason := _asked(unsupported, batch)) for cell in batch.cells}


def workers(jobs: int, job: Job) -> int:
    """Count the processes for a job: as many as asked for, for 0 as cores allow; never more than there are batches."""
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


# prepare


def _used(job: Job) -> list[tuple[Choice, int]]:
    """The splits of data sets that are about to be trained on."""
    return list(dict.fromkeys((r.cell.dataset, r.replicate.split) for batch in job.batches for r in batch.rows))


def _files(dataset: Choice) -> Sequence[downloads.RemoteFile]:
    """What a data set declares to be fetched."""
    declared: Sequence[downloads.RemoteFile] = getattr(catalog.load("datasets", dataset.name), "files", ())
    return declared


def _of_data(used: Sequence[tuple[Choice, int]]) -> list[Fault]:
    """What the lint says of data sets, all splits of each together."""
    by_set: dict[Choice, dict[int, tuple[Fault, ...]]] = {}
    for dataset, split in used:
        by_set.setdefault(dataset, {})[split] = _data_findings(dataset, split)
    return [f for dataset, splits in by_set.items() for f in lint.of_splits(dataset.name, splits)]


@lru_cache(maxsize=64)
def _data_findings(dataset: Choice, split: int) -> tuple[Fault, ...]:
    return tuple(lint.of_task(dataset.name, load_task(dataset, split)))


def _asked(question: Callable[[Batch], str], batch: Batch) -> str:
    """What is to be said of a batch. What other people's code raises here is left to the run, whose records say it."""
    try:
        with torch_state.kept():
            return question(batch)
    except BadInput:
        raise
    except (Exception, SystemExit):
        return ""


# perform


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


def _set_aside(job: Job) -> None:
    """Move the replicates that are about to be trained anew from the records to copies in REPLACED.

    An interrupted fresh run is then like any other: what is missing is what is left to do, and nothing is lost.
    """
    cells = {cell.key for cell in job.spec.cells if cell not in job.skipped}
    replaced = job.existing if job.fresh else [record for record, _ in job.outdated]
    for old in sorted(replaced, key=lambda record: record.path.stem == record.name):  # a copy shares its predictions
        if old.key in cells and not set(job.spec.replicates).isdisjoint([*old.replicates, *old.failed]):
            for ending in (".safetensors", ".json"):
                source = job.results / f"{old.path.stem or old.name}{ending}"
                if source.exists():
                    files.write_atomic(job.results / REPLACED / source.name, source.read_bytes())
            records.without(job.results, old, set(job.spec.replicates))


def _score_again(job: Job) -> list[Batch]:
    """Score from stored predictions what records owe: metrics that raised, and those whose source has changed.

    Returns the batches whose kept fit must tell the rest.
    """
    cells, stale = {cell.key: cell for cell in job.spec.cells}, {record.name for record, _ in job.outdated}
    known = set(catalog.names("metrics"))
    owing: list[Record] = []
    for record in [] if job.fresh else job.existing:
        if record.key in cells and record.name not in stale and not known.isdisjoint(record.unscored):
            filled = rescoring.filled(job.results, record, job.settings.code[record.key])
            # the old numbers of a metric whose source has changed go, whether or not new ones can be had
            if filled != record or provenance.EDITED in record.unscored.values():
                records.write(job.results, filled, {})
            if not known.isdisjoint(filled.unscored):
                owing.append(filled)
    replicates = {replicate for record in owing for replicate in record.replicates}
    asked = replace(job.spec, replicates=tuple(r for r in job.spec.replicates if r in replicates))
    names = {record.name for record in owing}
    kept = batches(asked, [record for record in job.existing if record.name not in names])
    return [batch for batch in kept if (job.results / CHECKPOINTS / f"{batch.key}.1.safetensors").exists()]


def _tidy(job: Job, began: float) -> None:
    """Remove what killed runs left: files half written before this run, checkpoints of batches that are done in part.

    A batch killed between its records is another batch when it resumes. Checkpoints that others may still ask for stay.
    """
    made = records.read(job.results)
    owing = {(record.key, replicate) for record in made if record.unscored for replicate in record.replicates}
    whole = [batch for batch in batches(job.spec, ()) if batch not in job.batches]
    whole = [batch for batch in whole if not any(cell in job.skipped for cell in batch.cells)]
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
