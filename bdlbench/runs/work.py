"""A job from its plan to its records.

    spec → plan → prepare → perform → held

`plan` finds what is missing and writes nothing; `prepare` fetches the data and leaves out cells that cannot run;
`perform` trains, scores, writes and tidies; `held` reads what the folder then holds.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import NamedTuple

from bdlbench import catalog
from bdlbench.core import files, memory, torch_state
from bdlbench.core.errors import BadInput, DataUnavailable, Unwritten
from bdlbench.core.spec import Cell, Choice, Spec
from bdlbench.records import record as records
from bdlbench.records.cells import Result, select
from bdlbench.records.reading import Faults, Source
from bdlbench.records.record import Folder, Record, Unread
from bdlbench.runs import budget, costs, lint, loading, provenance, rescoring
from bdlbench.runs.batch import CHECKPOINTS, Batch, Outcome, Settings, batches, say, unsupported
from bdlbench.runs.executors import Report, execute, only_notes
from bdlbench.runs.lint import Fault
from bdlbench.runs.references import References

REFERENCE = Path("results/reference")

REPLACED = ".replaced"
"""The subfolder of a folder of records that holds records being replaced by a fresh run."""


FUTURE_SECONDS = 3600.0
"""A half-written file that is dated so much later than now was left before the clock was set back."""

DAMAGED = ".damaged"
"""The subfolder of a folder of records that keeps damaged records whose cells are trained again."""


@dataclass(frozen=True)
class Job:
    """The work of a run.

    Attributes:
        spec: Its cells and replicates.
        settings: Where records go, and how.
        existing: Records already in the folder, without metrics whose source has changed.
        folder: The folder as it was read.
        batches: What is to be trained.
        fresh: Whether everything asked for is trained again.
        outdated: Records asked for that other code made, with what has changed.
        skipped: The reason for each cell that is left out, by `plan` or by `prepare`.
        damaged: Records of cells asked for that are damaged: `perform` sets them aside.
        flagged: What the lint flagged in the data that `prepare` loaded.
    """

    spec: Spec
    settings: Settings
    existing: tuple[Record, ...]
    batches: tuple[Batch, ...]
    fresh: bool = False
    outdated: tuple[tuple[Record, str], ...] = ()
    skipped: Mapping[Cell, str] = field(default_factory=dict)
    flagged: tuple[Fault, ...] = ()
    folder: Folder = records.NO_FOLDER
    damaged: tuple[Unread, ...] = ()

    @property
    def results(self) -> Path:
        """The folder of the records."""
        return self.settings.results


@memory.cycles_kept()
def plan(spec: Spec, settings: Settings, fresh: bool = False, any_code: bool = False) -> Job:
    """Find what is missing from a spec's records, or was made by other code. Writes nothing.

    With `fresh`, everything is made anew; with `any_code`, records are kept whatever code made them. A cell is left out
    if a record that is called like one of its own cannot be read and must not be replaced, such as one of a newer
    schema. Raises BadInput for a spec that the lint refuses, and a folder that cannot be listed or written to.
    """
    if not (type(settings.checkpoint_every) in (int, float) and settings.checkpoint_every > 0):
        said = str(settings.checkpoint_every).removesuffix(".0")
        raise BadInput(f"--checkpoint-every {said} is out of range: more than 0 seconds")
    lint.refuse(lint.of_spec(spec))
    results = settings.results
    folder = records.scan(results) if results.is_dir() else records.NO_FOLDER
    records.say_passed_over(folder.others, str(results))
    existing = [*folder.records]
    anew = {(cell.key, one) for cell in spec.cells for one in spec.replicates} if fresh else set()
    records.refuse_conflicts(existing, anew)
    mine = [(cell, unread) for unread in folder.unread for cell in spec.cells if unread.may_be_of(cell)]
    kept = {cell: unread.reason for cell, unread in mine if not unread.is_damaged}
    damaged = tuple(unread for cell, unread in mine if unread.is_damaged and cell not in kept)
    files.refuse_unwritable(results, "--results")
    code = provenance.code_of_cells(spec.cells)
    outdated: list[tuple[Record, str]] = []
    is_reference = results.resolve().is_relative_to(REFERENCE.resolve())  # `verify` checks these
    if not (fresh or any_code or is_reference):
        existing, outdated = provenance.held_against(existing, spec, code)
    stale = {record.name for record, _ in outdated}
    current = [] if fresh else [record for record in existing if record.name not in stale]
    missing = batches(replace(spec, cells=tuple(cell for cell in spec.cells if cell not in kept)), current)
    settings = replace(settings, selection=spec.selection, searches=spec.searches, curves=spec.curves, code=code)
    return Job(spec, settings, tuple(existing), tuple(missing), fresh, tuple(outdated), kept, (), folder, damaged)


def prepare(job: Job) -> Job:
    """Fetch every data set of a job, and leave out cells that cannot run. Return the job with the rest.

    Data sets are downloaded if absent, verified, loaded and linted before any training. A cell is left out, with a
    reason in `skipped`, if its data are unavailable, or if its model or method rejects it. Raises DataUnavailable if
    the lack of data leaves nothing to run; BadInput if the lint refuses a protocol, or a batch would exceed memory or
    the longest allowed time.
    """
    absent: dict[Choice, DataUnavailable] = {}
    flagged: dict[Choice, list[Fault]] = {}
    for dataset, splits in _used(job).items():
        try:
            loading.fetch(dataset)
            flagged[dataset] = lint.refuse(lint.of_data(dataset, splits))
        except DataUnavailable as error:
            absent[dataset] = error
    if absent and all(batch.cells[0].dataset in absent for batch in job.batches):
        raise next(iter(absent.values()))
    skipped = dict(job.skipped)
    kept = []
    for batch in job.batches:
        reason = str(absent.get(batch.cells[0].dataset, "")) or _asked(unsupported, batch)
        if reason:
            skipped |= dict.fromkeys(batch.cells, reason)
            continue
        kept.append(batch)
        if line := _asked(budget.check, batch):
            logging.getLogger("bdlbench").warning("bdlbench: %s", line)
    trained_on = {batch.cells[0].dataset for batch in kept}
    told = tuple(fault for dataset, faults in flagged.items() if dataset in trained_on for fault in faults)
    return replace(job, batches=tuple(kept), skipped=skipped, flagged=told)


def perform(job: Job, workers: int = 1, report: Report = only_notes, executor: str | Executor = "") -> list[Outcome]:
    """Train, score and write what a prepared job lacks, and tidy up. Return the outcomes of its batches, in order.

    Records to be replaced are set aside first, and removed when all new ones exist. `workers` processes train, or an
    executor, as in `executors.execute`. Raises BadInput if the folder cannot be written, or there is no such executor;
    Unwritten if it could be written at first, and then no more.
    """
    if not job.batches and not job.results.is_dir():
        return []
    began = _probe(job.results)
    if job.fresh:
        _forget_checkpoints(job.results, job.batches)
    _keep_damaged(job)
    _set_aside(job)
    seconds = _expected_seconds(job) if executor or workers > 1 else ()
    try:
        outcomes = execute(job.batches, job.settings, workers, report, executor, seconds)
    except Unwritten as error:
        again = "without --fresh " if job.fresh else ""
        raise Unwritten(f"{error}; once it takes them, the same command {again}goes on from there") from None
    outcomes += execute(_score_again(job), job.settings)
    with suppress(OSError):  # a disk that has turned read-only; the next run tidies
        _tidy(job, began)
    return outcomes


class Holdings(NamedTuple):
    """What a folder holds of a job.

    Attributes:
        records: The records of its cells.
        results: Its replicates, by cell in the order of the spec, completed from stored predictions.
        untold: Lines on metrics that could not be computed.
        faults: Faults in the files beside records.
    """

    records: tuple[Record, ...]
    results: tuple[Result, ...]
    untold: tuple[str, ...]
    faults: Faults


@memory.cycles_kept()
def held(job: Job, metrics: Sequence[str] = ()) -> Holdings:
    """Read what the folder now holds of the cells and replicates asked for.

    The `metrics` that a record lacks are computed from its stored predictions.
    """
    keys = dict.fromkeys(cell.key for cell in job.spec.cells)
    folder = records.scan(job.results, known=job.folder) if job.results.is_dir() else records.NO_FOLDER
    records.refuse_conflicts(folder.records)
    records.say_unread(folder.unread)
    made = tuple(record for record in folder.records if record.key in keys)
    named = {key[:12] for key in keys}
    unread = tuple(one for one in folder.unread if one.named_cell in {*named, ""})  # what may have been asked for
    beside = None if metrics else References()  # what nobody asked for is not worth reading their folder at every run
    source = Source(tuple((job.results, record) for record in made), unread)
    found, untold, faults = rescoring.completed(source, metrics, beside)
    return Holdings(made, tuple(select(found, list(keys), job.spec.replicates)), untold, faults)


def findings_of(job: Job, made: Sequence[Record]) -> list[Fault]:
    """Run the protocol lint on a job that was performed: on its spec, the data it trained on, and its records."""
    titles = {cell.key: cell.title for cell in job.spec.cells}
    of_records = [
        fault for record in made if record.key in titles for fault in lint.of_record(titles[record.key], record)
    ]
    return list(dict.fromkeys([*lint.of_spec(job.spec), *job.flagged, *of_records]))


def left_out(job: Job) -> list[str]:
    """Name the cells that were left out, in one line for each reason."""
    titles: dict[str, list[str]] = {}
    for cell, reason in job.skipped.items():
        titles.setdefault(reason, []).append(cell.title)
    return [f"skipped: {'; '.join(dict.fromkeys(cells))}: {reason}" for reason, cells in titles.items()]


def missing(job: Job, holdings: Holdings) -> list[str]:
    """Name the cells whose records are not there after a run, though nothing is known to have failed, in one line.

    They could not be written, or somebody has removed them meanwhile.
    """
    known = {result.key: {*result.replicates, *result.failed} for result in holdings.results}
    cells = dict.fromkeys(cell for cell in job.spec.cells if cell not in job.skipped)
    lacking = [cell for cell in cells if not known.get(cell.key, set()).issuperset(job.spec.replicates)]
    if not lacking:
        return []
    named = "; ".join(cell.title for cell in lacking[:3]) + (" …" if len(lacking) > 3 else "")
    where = f"{len(lacking)} of {len(cells)} cells are not in {job.results}, or not whole"
    return [f"missing: {where}: {named}; the same command makes them"]


def refused(job: Job) -> dict[Cell, str]:
    """Find cells that their model or method rejects, with the reason, if their data are already present."""
    here = {dataset: loading.is_at_hand(dataset) for dataset in _used(job)}
    batches = [batch for batch in job.batches if here[batch.cells[0].dataset]]
    return {cell: reason for batch in batches if (reason := _asked(unsupported, batch)) for cell in batch.cells}


def workers(jobs: int, job: Job) -> int:
    """Return the number of processes for a job: as asked, or for 0 as cores allow; at most one for each batch."""
    return processes(jobs, job.spec.cells[0], len(job.batches))


def processes(jobs: int, cell: Cell, batches: int) -> int:
    """Return the number of processes for so many batches of cells like this one, as `workers` does."""
    allowed = "at least 1, or 0 for as many as cores allow"
    try:
        asked = -1 if isinstance(jobs, bool) else index(jobs)
    except TypeError:
        raise BadInput(f"--jobs {jobs!r} is not a whole number: {allowed}") from None
    if asked < 0:
        raise BadInput(f"--jobs {jobs} is out of range: {allowed}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = 1 if cell.device.startswith("cuda") else max(1, cores // cell.threads)
    return max(1, min(asked or most, batches))


# prepare


def _used(job: Job) -> dict[Choice, list[int]]:
    """Return the data sets that are about to be trained on, each with its splits."""
    found: dict[Choice, list[int]] = {}
    for row in (row for batch in job.batches for row in batch.rows):
        found.setdefault(row.cell.dataset, []).append(row.replicate.split)
    return found


def _asked(question: Callable[[Batch], str], batch: Batch) -> str:
    """Ask a question about a batch. Errors of plugins are ignored here, because the run records them."""
    try:
        with torch_state.kept():
            return question(batch)
    except BadInput:
        raise
    except (Exception, SystemExit):
        return ""


# perform


def _expected_seconds(job: Job) -> tuple[float, ...]:
    """Estimate the time of each batch; () where an entry of somebody else fails: the run records that."""
    try:
        with torch_state.kept():
            return costs.forecast(job.batches, job.existing).seconds
    except (Exception, SystemExit):
        return ()


def _probe(folder: Path) -> float:
    """Make the folder and write to it once: disks and mounts can refuse what permissions allow. Return its time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"bdlbench")
            stream.flush()
            return os.fstat(stream.fileno()).st_mtime
    except OSError as error:
        raise BadInput(f"--results {folder} is not writable: {error.strerror}; name another folder") from error


def _forget_checkpoints(results: Path, gone: Iterable[Batch]) -> None:
    """Remove checkpoints, so that a fresh run does not continue an old one."""
    for batch in gone:
        for file in (results / CHECKPOINTS).glob(f"{batch.key}.*"):
            file.unlink(missing_ok=True)


def _keep_damaged(job: Job) -> None:
    """Move damaged records out of the way of those that are about to be trained in their place, and keep them."""
    trained = [cell for batch in job.batches for cell in batch.cells]
    for unread in job.damaged:
        if not any(unread.may_be_of(cell) for cell in trained):
            continue
        with suppress(FileNotFoundError):  # another run has just moved it
            content = unread.path.read_bytes()
            with suppress(BadInput):
                records.read_one(unread.path)
                continue  # another run has just mended it
            kept = job.results / DAMAGED / f"{unread.path.stem}.{files.sha256(content)[:8]}.json"
            kept.parent.mkdir(exist_ok=True)
            os.replace(unread.path, kept)
            say(f"{unread.reason}; its cell is trained again, and it is kept as {kept}")


def _set_aside(job: Job) -> None:
    """Move replicates that are about to be trained again from the records to copies in REPLACED.

    An interrupted fresh run is then like any other: missing replicates remain to be trained, and nothing is lost.
    """
    cells = {cell.key for cell in job.spec.cells if cell not in job.skipped}
    replaced = job.existing if job.fresh else [record for record, _ in job.outdated]
    for old in sorted(replaced, key=lambda record: record.path.stem == record.name):  # a copy shares its predictions
        if old.key in cells and not set(job.spec.replicates).isdisjoint([*old.replicates, *old.failed]):
            for ending in (".safetensors", ".json"):
                source = job.results / f"{old.path.stem or old.name}{ending}"
                with suppress(FileNotFoundError):  # without predictions; or another run has just set it aside
                    files.write_atomic(job.results / REPLACED / source.name, source.read_bytes())
            records.without(job.results, old, set(job.spec.replicates))


def _score_again(job: Job) -> list[Batch]:
    """Score unscored metrics from stored predictions: those that raised, and those whose source has changed.

    Returns the batches whose metrics need the kept fit.
    """
    cells, stale = {cell.key: cell for cell in job.spec.cells}, {record.name for record, _ in job.outdated}
    known = set(catalog.names("metrics"))
    owing: list[Record] = []
    for record in [] if job.fresh else job.existing:
        if record.key in cells and record.name not in stale and not known.isdisjoint(record.unscored):
            filled = rescoring.filled(job.results, record, job.settings.code[record.key])
            # numbers of a changed metric go, even if it cannot be scored again
            if filled != record or provenance.EDITED in record.unscored.values():
                records.write(job.results, filled, {})
            if not known.isdisjoint(filled.unscored):
                owing.append(filled)
    if not owing:
        return []
    replicates = {replicate for record in owing for replicate in record.replicates}
    asked = replace(job.spec, replicates=tuple(r for r in job.spec.replicates if r in replicates))
    names = {record.name for record in owing}
    kept = batches(asked, [record for record in job.existing if record.name not in names])
    return [batch for batch in kept if (job.results / CHECKPOINTS / f"{batch.key}.1.safetensors").exists()]


def _tidy(job: Job, began: float) -> None:
    """Remove what killed runs left: half-written files older than this run, and checkpoints of partly done batches.

    A batch killed between its records resumes as a different batch. Checkpoints that may still be needed stay.
    """
    hidden, replaced = job.results / CHECKPOINTS, job.results / REPLACED
    left = list(hidden.glob("*")) or replaced.is_dir()
    made = records.scan(job.results, known=job.folder).records if left else ()
    owing = {(record.key, replicate) for record in made if record.unscored for replicate in record.replicates}
    whole = [batch for batch in batches(job.spec, ()) if batch not in job.batches] if left else []
    whole = [batch for batch in whole if not any(cell in job.skipped for cell in batch.cells)]
    _forget_checkpoints(
        job.results, [b for b in whole if owing.isdisjoint((row.cell.key, row.replicate) for row in b.rows)]
    )
    places = (job.results, hidden, job.results / records.PARAMETERS)
    for part in (part for place in places for part in place.glob(".*.part")):
        with suppress(FileNotFoundError):  # another run has just removed or renamed it
            if not began <= part.stat().st_mtime < began + FUTURE_SECONDS:
                part.unlink()
    with suppress(OSError):  # it is absent, or holds checkpoints of others
        hidden.rmdir()
    done = records.done(made)
    for copy in replaced.glob("*.json"):
        try:
            old = records.read_one(copy)
        except BadInput:
            continue  # another run has just tidied up; or it is damaged, and stays
        if done.get(old.key, set()).issuperset(old.replicates):
            copy.unlink(missing_ok=True)
            copy.with_suffix(".safetensors").unlink(missing_ok=True)
    if any(replaced.glob("*.json")):
        say(f"records whose cells failed when they were trained again are kept in {replaced}")
    else:
        shutil.rmtree(replaced, ignore_errors=True)
