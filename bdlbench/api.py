"""The verbs of the command line for Python: `from bdlbench.api import run, read, table, compare, rank`.

    records = run("quick", methods=["mle", "mc_dropout"], seeds="0-9", settings={"mc_dropout.rate": [0.1, 0.2]})
    frame = table("results/local")

(`bdlbench.run` and `bdlbench.compare` are modules of the package, so the verbs live here.)
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdlbench import (
    catalog,
    environment,
    files,
    lint,
    options,
    plan,
    provenance,
    records,
    rescore,
    sources,
    store,
    tables,
)
from bdlbench import compare as comparison
from bdlbench import margins as margin_table
from bdlbench import score as submissions
from bdlbench.compare import Comparison, Pairing
from bdlbench.data import Task
from bdlbench.errors import BadInput, DataUnavailable
from bdlbench.executors import Event, execute
from bdlbench.lint import Finding
from bdlbench.records import Record
from bdlbench.results import Result, merge, select
from bdlbench.run import CHECKPOINTS, Batch, Outcome, Settings, batches, load_task, unsupported
from bdlbench.score import Claim
from bdlbench.sources import Source
from bdlbench.spec import Cell, Choice, Spec

if TYPE_CHECKING:
    from pandas import DataFrame

    from bdlbench.gate import Section
    from bdlbench.rank import Ranking
    from bdlbench.verify import Check

REFERENCE = Path("results/reference")
GATE_SUITE = "smoke"

RESULTS = Path("results/local")
"""Where `run` writes unless told otherwise."""

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


def run(
    suite: str | Path | Spec = "quick",
    *,
    results: str | Path = RESULTS,
    settings: Mapping[str, Any] | None = None,
    plugins: Iterable[str | Path] = (),
    jobs: int = 1,
    fresh: bool = False,
    any_code: bool = False,
    checkpoint_every: float = 60.0,
    keep_parameters: bool = False,
    **overrides: Any,
) -> list[Record]:
    """Train what is missing or was made by other code, and return the records of all cells asked for.

    suite: a suite's name, the path of a TOML file, or a spec. settings: {"NAME.OPTION": value or list of values}.
    overrides: methods, models, datasets (lists of names), seeds ("5", "0-9", "1,4,7"), splits ("one", "each"), samples,
    device, threads.
    any_code: records stand whatever code made them, as those in results/reference do.
    keep_parameters: also write each posterior's state, for `records.parameters`.
    jobs: worker processes; a script that asks for more than one needs `if __name__ == "__main__":`.
    Raises BadInput before anything is written where something asked for does not exist or is out of range.
    """
    paths = [Path(plugin) for plugin in plugins]
    _add_plugins(paths)
    job = prepare(_spec(suite, settings or {}, overrides), Path(results), fresh, any_code)
    perform(job, jobs, paths, Settings(job.results, checkpoint_every, keep_parameters))
    keys = {cell.key for cell in job.spec.cells}
    return [record for record in records.read(job.results) if record.key in keys] if job.results.exists() else []


def read(folder: str | Path) -> DataFrame:
    """Every stored number by itself: one row for each cell, replicate and metric, or cell and cost."""
    from pandas import DataFrame

    return DataFrame(list(tables.long_rows(results_of(Path(folder)))))


def table(folder: str | Path, metrics: Sequence[str] = (), plugins: Iterable[str | Path] = ()) -> DataFrame:
    """One row for each cell and metric: mean, standard error, n, failed replicates, and whether it leads its column.

    Metrics that a record does not hold are computed from its stored predictions. plugins: files with more of them.
    """
    from pandas import DataFrame

    found, _ = completed(Path(folder), metrics, plugins)
    return DataFrame(list(tables.summary_rows(found, metrics)))


def compare(
    a: str | Path,
    b: str | Path,
    *,
    metrics: Sequence[str] = (),
    margins: str | Path | Mapping[str, float] | None = None,
    treatment: tuple[str, str] | None = None,
    ignore_options: bool = False,
    strict: bool = False,
    plugins: Iterable[str | Path] = (),
) -> Comparison:
    """B against A, cell by cell: two folders, records, or git revisions of results/.

    margins: {metric: how much worse is still as good}, or a TOML file; by default those of the nearest pyproject.toml.
    treatment: (method in A, method in B); ignore_options: whatever the methods' options. strict: inconclusive fails.
    plugins: files with metrics of your own, computed from stored predictions with their examples' part of the variance.
    Raises NotComparable where the protocols differ.
    """
    _add_plugins(plugins)
    allowed = margins
    if not isinstance(allowed, Mapping):
        allowed = margin_table.read(Path(allowed) if allowed else None, catalog.names("metrics"))
    pairing = Pairing(treatment, ignore_options)
    with sources.opened(str(a)) as left, sources.opened(str(b)) as right:
        return comparison.compare(left, right, allowed, metrics, pairing, strict)


def rank(
    folder: str | Path, metric: str = "nll", methods: Sequence[str] = (), plugins: Iterable[str | Path] = ()
) -> Ranking:
    """The methods of a folder against each other, over its data sets. methods: only these; plugins: as of `table`."""
    from bdlbench import rank as ranking  # scipy.stats is slow to import

    found, untold = completed(Path(folder), [metric], plugins)
    ranked = ranking.rank(found, metric, methods)
    return replace(ranked, notes=(*ranked.notes, *untold))


def score(file: str | Path, claim: Claim, results: str | Path = RESULTS, fresh: bool = False) -> Path:
    """Score predictions made elsewhere (docs/score.md), and write their record. Returns its path.

    fresh: replace replicates that are there already. Raises BadInput, before anything is written, for a file or a claim
    that is wrong.
    """
    refuse_unwritable(Path(results))
    return submissions.score(Path(file), claim, Path(results), fresh)


def task(dataset: str, split: int = 0, **options: Any) -> Task:
    """One split of a data set: what `score` asks predictions of. Fetches what is absent.

    Raises BadInput for an unknown name or option, DataUnavailable where the files are not to be had.
    """
    store.fetch(getattr(catalog.load("datasets", dataset), "files", ()), dataset)
    return load_task(catalog.choice("datasets", dataset, {dataset: options}), split)


def report(
    folder: str | Path,
    out: str | Path = "report",
    metrics: Sequence[str] = (),
    plugins: Iterable[str | Path] = (),
) -> Path:
    """Write one HTML page of a folder's records to out/index.html, its figures beside it. Returns its path.

    plugins: as of `table`.
    """
    from bdlbench.report import page

    _add_plugins(plugins)
    refuse_unwritable(Path(out), "--out")
    return page.write(Path(folder), Path(out), metrics)


def verify(folder: str | Path, *, full: bool = False, threads: int | None = None) -> Iterator[Check]:
    """Hold each record of a folder, or one record, against what is computed here. Raises BadInput for none."""
    from bdlbench.verify import verify

    path = Path(folder)
    found = sources.read(path).records
    place = path if path.is_dir() else path.parent
    seeds = {
        record.key: {r for other in found if other.key == record.key for r in other.replicates} for record in found
    }
    for record in found:
        check = verify(place, record, full, threads)
        few = lint.of_replicates(check.title, sorted(seeds[record.key]))
        yield replace(check, findings=(*few, *check.findings))


def gate(
    reference: str | Path = REFERENCE,
    config: Path | None = None,
    results: Path | None = None,
    say: Callable[[Section], None] = lambda section: None,
) -> list[Section]:
    """Hold this tree against the reference, part by part. results: where the suite's new records stay."""
    from bdlbench.gate import Gate, check

    with _folder(results) as place:
        return check(Gate(Path(reference), config or GATE_SUITE, place), say)


def accept(reference: str | Path = REFERENCE, config: Path | None = None, results: Path | None = None) -> list[str]:
    """Make the reference what this tree makes; what changed, a line each."""
    from bdlbench.gate import Gate, accept

    with _folder(results) as place:
        return accept(Gate(Path(reference), config or GATE_SUITE, place))


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """A folder that stays if it was given, else one for the moment."""
    if given is not None:
        refuse_unwritable(given)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="bdlbench-") as name:
        yield Path(name)


def results_of(folder: Path) -> list[Result]:
    """All results in a folder. Raises BadInput where it holds none."""
    source = sources.read(folder)
    return merge(source.records, source)


def completed(
    folder: Path, metrics: Sequence[str], plugins: Iterable[str | Path] = ()
) -> tuple[list[Result], tuple[str, ...]]:
    """All results in a folder with what their stored predictions tell of `metrics`; and lines on what they do not."""
    _add_plugins(plugins)
    found, untold = rescore.complete(sources.read(folder), metrics)
    return merge(found.records, found), untold


def _add_plugins(paths: Iterable[str | Path]) -> None:
    for path in paths:
        catalog.add_plugin(Path(path))


def machines(folder: Path) -> list[str]:
    """The devices, by name, on which the records of a folder were timed."""
    return sorted({environment.machine(record.environment) for record in records.read(folder) if record.cost})


def prepare(spec: Spec, results: Path, fresh: bool = False, any_code: bool = False) -> Job:
    """What is missing of a spec, or was made by other code. Writes nothing. Raises BadInput for unreadable records."""
    lint.refuse(lint.of_spec(spec))
    existing = records.read(results, conflicting=fresh) if results.is_dir() else []
    refuse_unwritable(results)
    is_reference = results.resolve().is_relative_to(REFERENCE.resolve())  # `verify` says whether these hold
    outdated = [] if fresh or any_code or is_reference else list(_outdated(spec, existing))
    stale = {record.name for record, _ in outdated}
    current = [] if fresh else [record for record in existing if record.name not in stale]
    return Job(spec, results, tuple(existing), tuple(batches(spec, current)), fresh, tuple(outdated))


def _outdated(spec: Spec, existing: Iterable[Record]) -> Iterator[tuple[Record, str]]:
    """Records of what is asked for that other code made, with what has changed."""
    cells = {cell.key: cell for cell in spec.cells}
    for record in existing:
        if record.key in cells and not set(spec.replicates).isdisjoint(record.replicates):
            changed = provenance.change(record, cells[record.key])
            if changed:
                yield record, changed


def perform(
    job: Job,
    jobs: int = 1,
    plugins: Sequence[Path] = (),
    settings: Settings | None = None,
    report: Callable[[Event], None] = lambda event: None,
) -> list[Outcome]:
    """Run the batches of a job that can be run. Returns their outcomes in order.

    Records to be replaced are set aside first and removed once all new ones are there. Raises as `ready` does, and
    BadInput where the folder cannot be written.
    """
    job = ready(job)
    if not job.batches and not job.results.is_dir():
        return []
    began = _probe(job.results)
    if job.fresh:
        _forget_checkpoints(job.results, job.batches)
    _set_aside(job)
    chosen = replace(settings or Settings(job.results), selection=job.spec.selection)
    outcomes = execute(job.batches, chosen, jobs, plugins, report)
    _tidy(job, began)
    return outcomes


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
            store.fetch(_files(dataset), dataset.name)
            findings = _of_data([(other, split) for other, split in wanted if other == dataset])
        except DataUnavailable as error:
            absent[dataset] = error
            continue
        lint.refuse(findings)
    if absent and all(batch.cells[0].dataset in absent for batch in job.batches):
        raise next(iter(absent.values()))
    reasons = {batch: str(absent.get(batch.cells[0].dataset, "")) or unsupported(batch) for batch in job.batches}
    skipped = {cell: reason for batch, reason in reasons.items() if reason for cell in batch.cells}
    return replace(job, batches=tuple(batch for batch in job.batches if not reasons[batch]), skipped=skipped)


def refused(job: Job) -> dict[Cell, str]:
    """Cells whose model or method says that they are none, with the reason, where data are at hand. Writes nothing."""
    here = {
        dataset: all(state in store.AT_HAND for _, state in store.status(_files(dataset))) for dataset, _ in _used(job)
    }
    batches = [batch for batch in job.batches if here[batch.cells[0].dataset]]
    return {cell: reason for batch in batches if (reason := unsupported(batch)) for cell in batch.cells}


def _files(dataset: Choice) -> Sequence[store.RemoteFile]:
    """What a data set declares to be fetched."""
    declared: Sequence[store.RemoteFile] = getattr(catalog.load("datasets", dataset.name), "files", ())
    return declared


def findings_of(job: Job) -> list[Finding]:
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


def _of_data(used: Sequence[tuple[Choice, int]]) -> list[Finding]:
    """What the lint says of data sets, all splits of each together."""
    by_set: dict[Choice, dict[int, tuple[Finding, ...]]] = {}
    for dataset, split in used:
        by_set.setdefault(dataset, {})[split] = _data_findings(dataset, split)
    return [f for dataset, splits in by_set.items() for f in lint.of_splits(dataset.name, splits)]


@lru_cache(maxsize=64)
def _data_findings(dataset: Choice, split: int) -> tuple[Finding, ...]:
    return tuple(lint.of_task(dataset.name, load_task(dataset, split)))


def results_for(job: Job) -> list[Result]:
    """What the folder now holds of the cells and replicates asked for, in the order of the spec."""
    if not job.results.is_dir():
        return []
    keys = [cell.key for cell in job.spec.cells]
    source = sources.read(job.results) if any(job.results.glob("*.json")) else Source(())
    found = [record for record in source.records if record.key in set(keys)]
    return select(merge(found, source), keys, job.spec.replicates)


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
    _forget_checkpoints(job.results, set(batches(job.spec, ())) - set(job.batches))
    hidden = job.results / CHECKPOINTS
    for part in [*job.results.glob(".*.part"), *hidden.glob(".*.part")]:
        with suppress(FileNotFoundError):  # another run has just removed or renamed it
            if part.stat().st_mtime < began:
                part.unlink()
    with suppress(OSError):  # it is not there, or others' checkpoints lie in it
        hidden.rmdir()
    shutil.rmtree(job.results / REPLACED, ignore_errors=True)


def _set_aside(job: Job) -> None:
    """Move the replicates that are about to be trained anew from the records to copies in REPLACED.

    An interrupted fresh run is then like any other: what is missing is what is left to do, and nothing is lost.
    """
    cells = {cell.key for cell in job.spec.cells if cell not in (job.skipped or {})}
    replaced = job.existing if job.fresh else [record for record, _ in job.outdated]
    for old in replaced:
        if old.key in cells and not set(job.spec.replicates).isdisjoint([*old.replicates, *old.failed]):
            for ending in (".safetensors", ".json"):
                source = job.results / f"{old.name}{ending}"
                if source.exists():
                    files.write_atomic(job.results / REPLACED / source.name, source.read_bytes())
            records.without(job.results, old, set(job.spec.replicates))


def _spec(suite: str | Path | Spec, settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> Spec:
    if isinstance(suite, Spec):
        if settings or overrides:
            raise BadInput("a spec is complete: settings and overrides go with the name of a suite")
        return suite
    texts = tuple(f"{name}={_spell(value)}" for name, value in settings.items())
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()
    }
    source = plan.read_suite_file(suite) if isinstance(suite, Path) else plan.read_suite(suite)
    return plan.build_spec(source, plan.Overrides(settings=texts, **given))


def _spell(value: Any) -> str:
    """A value, or a list to sweep, as --set takes it. A tuple is one value: (300, 100) is 300-100."""
    if isinstance(value, list):
        return ",".join(map(_spell, value))
    return options.spell(list(value) if isinstance(value, tuple) else value)
