"""The verbs of the command line for Python: `from bdlbench.api import run, read, table, compare, rank`.

    trained = run("quick", method=["mle", "mc_dropout"], seeds=3, set={"mc_dropout.rate": [0.1, 0.2]})
    trained                     # prints the table
    frame = trained.frame()     # every number, with seeds as whole numbers and options as columns

Arguments go by the names of the command line's options and are Python values: lists, numbers, dicts, paths. What is
wrong raises `BadInput`, with the line that the command line prints. (`bdlbench.compare` is a folder of the
package, so the verbs live here.)
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from bdlbench import catalog
from bdlbench.compare import margins as margin_table
from bdlbench.compare import pairs as comparison
from bdlbench.compare.pairs import Comparison, Pairing
from bdlbench.core import environment, files, options, torch_state
from bdlbench.core.errors import BadInput, DataUnavailable, unknown
from bdlbench.core.spec import Cell, Choice, Seeds, Spec, parse_seeds
from bdlbench.data import downloads
from bdlbench.data.task import Task
from bdlbench.records import reading
from bdlbench.records import record as records
from bdlbench.records.cells import Result, flatten, merge, select
from bdlbench.records.reading import Faults, Source
from bdlbench.records.record import Record
from bdlbench.report import tables
from bdlbench.runs import budget, lint, provenance, rescoring, suites
from bdlbench.runs import external_scores as submissions
from bdlbench.runs.batch import CHECKPOINTS, Batch, Outcome, Settings, batches, load_task, say, unsupported
from bdlbench.runs.executors import Event, execute, only_notes
from bdlbench.runs.external_scores import Claim
from bdlbench.runs.lint import Fault

if TYPE_CHECKING:
    from pandas import DataFrame

    from bdlbench.compare.rank import Ranking
    from bdlbench.gate.checks import GateSection
    from bdlbench.gate.verify import Check

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


PLURALS = {"methods": "method", "models": "model", "datasets": "dataset", "settings": "set", "plugins": "plugin"}
"""What lists suggest in place of the command line's names; taken too."""

Plugins = str | Path | Iterable[str | Path]
Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def _for_callers(verb: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """A verb for other people's programs: it computes as in a process of its own, and leaves torch as it found it.

    Keyword arguments go by the command line's names. Raises BadInput for another, with the nearest.
    """
    known = inspect.signature(verb).parameters

    @wraps(verb)
    def called(*given: Arguments.args, **named: Arguments.kwargs) -> Returned:
        for name in [name for name in named if name not in known]:
            option = PLURALS.get(name, "")
            if option not in known or option in named:
                raise unknown(f"argument of {verb.__name__}", name, known)
            named[option] = named.pop(name)
        with torch_state.usual():
            return verb(*given, **named)

    return called


@dataclass(frozen=True)
class Trained:
    """What a run asked for, as it lies in its folder: a sequence of records, which prints as their table.

    skipped: a line for each reason why cells are missing; results: the replicates that were asked for, cell by cell.
    """

    records: tuple[Record, ...]
    skipped: tuple[str, ...] = ()
    results: tuple[Result, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, place: int) -> Record:
        return self.records[place]

    def frame(self) -> DataFrame:
        """Every number by itself, as `read` gives it."""
        return _frame(tables.long_rows(self.results))

    def table(self, metrics: str | Sequence[str] = ()) -> DataFrame:
        """One row for each cell and metric, as `table` gives it. Raises BadInput for a metric that no record holds."""
        names = _listed(metrics)
        tables.refuse_unknown_metrics(self.results, names)
        return _frame(tables.summary_rows(self.results, names))

    def __repr__(self) -> str:
        done = [result for result in self.results if result.replicates]
        failed = [f"failed: {one.title}, seed {r.seed}: {why}" for one in self.results for r, why in one.failed.items()]
        lines = [*self.skipped, *failed] or ([] if done else ["no records"])
        return (tables.render(done, "terminal", width=120) if done else "") + "\n".join(lines)


@_for_callers
def run(  # noqa: PLR0913 - one argument for each option of the command
    suite: str | Path | Spec = "",
    *,
    method: str | Sequence[str] = (),
    model: str | Sequence[str] = (),
    dataset: str | Sequence[str] = (),
    seeds: Seeds | None = None,
    splits: str = "",
    samples: int | None = None,
    set: Options = (),
    device: str = "auto",
    threads: int = 1,
    jobs: int = 1,
    results: str | Path = RESULTS,
    config: str | Path | None = None,
    plugin: Plugins = (),
    fresh: bool = False,
    any_code: bool = False,
    checkpoint_every: float = 60.0,
    keep_parameters: bool = False,
) -> Trained:
    """Train what is missing or was made by other code, and return what was asked for.

    suite: a suite's name (by default quick), or a whole spec; config, or a Path as suite: a TOML file of your own.
    method, model, dataset: a name or several; every combination of what is named is run, the suite gives the rest.
    seeds: a number of them (3), a list ([0, 7]) or a text ("0-9"). splits: "one" or "each".
    set: {"mlp.widths": (300, 100), "map.prior_sd": [0.1, 1]} or {"mlp": {"widths": (300, 100)}}: a list sweeps, a tuple
    is one value; or texts as on the command line.
    any_code: records stand whatever code made them, as those in results/reference do.
    keep_parameters: also write each posterior's state, for `records.parameters`.
    jobs: worker processes, 0 for as many as cores allow; with more than one a script needs a guard,
    `if __name__ == "__main__":`.
    Raises BadInput before anything is written where something asked for does not exist or is out of range.
    """
    paths = _add_plugins(plugin)
    settings = settings_of(_path("results", results), checkpoint_every, keep_parameters)
    if isinstance(suite, Spec):
        if config or method or model or dataset or splits or set or (seeds, samples) != (None, None):
            raise BadInput("a spec is complete: other arguments that say what to run go with the name of a suite")
        spec = suite
    else:
        names = (_names(method), _names(model), _names(dataset))
        chosen = suites.Overrides(*names, _seeds(seeds), samples, _options(set), device, threads, splits)
        source = (
            suite_of("", suite)
            if isinstance(suite, Path)
            else suite_of(suite, _path("config", config) if config else None)
        )
        spec = suites.build_spec(source, chosen)
    job = ready(prepare(spec, settings.results, fresh, any_code))
    perform(job, workers(jobs, job), paths, settings)
    keys = {cell.key for cell in spec.cells}
    found = records.read(job.results) if job.results.is_dir() else []
    return Trained(tuple(r for r in found if r.key in keys), tuple(left_out(job)), tuple(results_for(job)))


@_for_callers
def read(folder: str | Path) -> DataFrame:
    """Every stored number by itself: one row for each cell, replicate and metric, or cell and cost.

    Options are columns: method.epochs, model.widths, dataset.num_train. Seeds are whole numbers, absent of costs.
    """
    return _frame(tables.long_rows(results_of(_path("folder", folder))))


@_for_callers
def table(folder: str | Path, metrics: str | Sequence[str] = (), plugin: Plugins = ()) -> DataFrame:
    """One row for each cell and metric: mean, standard error, n, failed replicates, whether it leads its column.

    Options are columns, as in `read`. Metrics that a record does not hold are computed from its stored predictions.
    plugin: files with more of them.
    """
    names = _listed(metrics)
    found, _ = completed(_path("folder", folder), names, plugin)
    if names != ("*",):
        tables.refuse_unknown_metrics(found, names)
    return _frame(tables.summary_rows(found, names))


def _frame(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Rows of `tables`, with options as columns and whole numbers as such, also where some are absent."""
    from pandas import DataFrame, Series

    options: dict[str, dict[str, Any]] = {}
    plain = []
    for row in rows:
        if row["cell"] not in options:
            flat = flatten({kind: {"name": "", **found} for kind, found in json.loads(row["options"]).items()})
            options[row["cell"]] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in flat.items() if "." in name
            }
        plain.append({name: value for name, value in row.items() if name != "options"} | options[row["cell"]])
    frame = DataFrame()
    for name in dict.fromkeys(name for row in plain for name in row):
        values = [row.get(name) for row in plain]
        known = [value for value in values if value is not None]
        whole = len(known) < len(values) and all(type(value) is int for value in known)
        frame[name] = Series(values, dtype="Int64" if whole and (known or name in ("seed", "split")) else None)
    return frame


@_for_callers
def compare(
    a: str | Path,
    b: str | Path,
    *,
    metrics: str | Sequence[str] = (),
    margins: str | Path | Mapping[str, float] | None = None,
    treatment: str | tuple[str, str] = "",
    ignore_options: bool = False,
    strict: bool = False,
    plugin: Plugins = (),
) -> Comparison:
    """B against A, cell by cell: two folders, records, or git revisions of results/. It prints, and has a `frame`.

    margins: {metric: how much worse is still as good}, or a TOML file; by default those of the nearest pyproject.toml.
    treatment: "METHOD:METHOD" or a pair, of A and B; ignore_options: whatever the methods' options. strict:
    inconclusive fails. plugin: files with metrics of your own, computed from stored predictions with their examples'
    part of the variance. Raises NotComparable where the protocols differ.
    """
    _add_plugins(plugin)
    pairing = Pairing(_pair(treatment), ignore_options)
    with reading.opened(str(a)) as left, reading.opened(str(b)) as right:
        held = {column for record in (*left.records, *right.records) for column in record.values["metrics"]}
        known = {*catalog.names("metrics"), *(column.partition("[")[0] for column in held)}
        if isinstance(margins, Mapping):
            allowed = margin_table.checked("margins", margins, sorted(known))
        else:
            allowed = margin_table.read(_path("margins", margins) if margins else None, known)
        return comparison.compare(left, right, allowed, _listed(metrics), pairing, strict)


def _pair(treatment: str | Sequence[str] | None) -> tuple[str, str] | None:
    """A method of A and one of B, from "mle:map" too; None for nothing."""
    given = treatment.split(":") if isinstance(treatment, str) else treatment or ()
    parts = [str(part).strip() for part in given]
    if treatment and (len(parts) != 2 or not all(parts)):
        raise BadInput(f"--treatment {treatment!r} cannot be read: name a method of A and one of B, such as mle:map")
    return (parts[0], parts[1]) if treatment else None


@_for_callers
def rank(folder: str | Path, metric: str = "nll", methods: str | Sequence[str] = (), plugin: Plugins = ()) -> Ranking:
    """The methods of a folder against each other, over its data sets. methods: only these; plugin: as of `table`."""
    from bdlbench.compare import rank as ranking  # scipy.stats is slow to import

    faults: list[Faults] = []
    found, untold = completed(_path("folder", folder), [metric], plugin, faults.append)
    ranked = ranking.rank(found, metric, _listed(methods))
    damaged = [line for one in faults if one.damaged for line in one.lines()]
    return replace(ranked, notes=(*ranked.notes, *untold, *damaged))


@_for_callers
def score(  # noqa: PLR0913 - one argument for each option of the command
    file: str | Path,
    claim: Claim | None = None,
    results: str | Path = RESULTS,
    fresh: bool = False,
    *,
    method: str = "",
    dataset: str = "",
    model: str = "external",
    own_data: bool = False,
    samples: int | None = None,
    seeds: Seeds | None = None,
    splits: str = "one",
    set: Options = (),
    axes: str = "",
    plugin: Plugins = (),
) -> Path:
    """Score predictions made elsewhere (docs/score.md), and write their record. Returns its path.

    method, dataset and so on say what the predictions are, as `Claim` does, which can be given whole instead. fresh:
    replace replicates that are there already. Raises BadInput, before anything is written, for a file or a claim that
    is wrong.
    """
    _add_plugins(plugin)
    if claim is None:
        texts = _options(set)
        if isinstance(texts, Mapping):
            told = ((entry, key, values) for entry, table in texts.items() for key, values in table.items())
            texts = tuple(f"{entry}.{key}={','.join(map(options.spell, values))}" for entry, key, values in told)
        given = _seeds(seeds)
        if not isinstance(given, str):
            parse_seeds(given)  # refuses what is none
            listed = range(given) if isinstance(given, int) else given  # in the order of the file
            given = ",".join(map(str, listed)) if len(listed) > 1 else f"{listed[0]}-{listed[0]}"
        claim = Claim(method, dataset, model, own_data, samples, given, splits, texts, axes)
    elif method or dataset or set:
        raise BadInput("a claim is complete: method, dataset and so on go without one")
    refuse_unwritable(_path("results", results))
    return submissions.score(_path("file", file), claim, _path("results", results), fresh)


def task(dataset: str, split: int = 0, **options: Any) -> Task:
    """One split of a data set: what `score` asks predictions of. Fetches what is absent.

    Raises BadInput for an unknown name or option, DataUnavailable where the files are not to be had.
    """
    downloads.fetch(getattr(catalog.load("datasets", dataset), "files", ()), dataset)
    with torch_state.usual():
        return load_task(catalog.choice("datasets", dataset, {dataset: options}), split)


@_for_callers
def report(
    folder: str | Path,
    out: str | Path = "report",
    metrics: str | Sequence[str] = (),
    plugin: Plugins = (),
) -> Path:
    """Write one HTML page of a folder's records to out/index.html, its figures beside it. Returns its path.

    plugin: as of `table`.
    """
    from bdlbench.report import page

    _add_plugins(plugin)
    refuse_unwritable(_path("out", out), "--out")
    return page.write(_path("folder", folder), _path("out", out), _listed(metrics))


def verify(folder: str | Path, *, full: bool = False, threads: int | None = None) -> Iterator[Check]:
    """Hold each record of a folder, or one record, against what is computed here. Raises BadInput for none."""
    from bdlbench.gate.verify import verify

    path = _path("folder", folder)
    found = reading.read(path).records
    seeds = {
        record.key: {r for other in found if other.key == record.key for r in other.replicates} for record in found
    }
    for record in found:
        with torch_state.usual():  # not around what a caller does between two checks
            check = verify(record.path.parent, record, full, threads)
        few = lint.of_replicates(check.title, sorted(seeds[record.key]))
        yield replace(check, findings=(*few, *check.findings))


@_for_callers
def gate(
    reference: str | Path = REFERENCE,
    config: str | Path | None = None,
    results: str | Path | None = None,
    say: Callable[[GateSection], None] = lambda section: None,
) -> list[GateSection]:
    """Hold this tree against the reference, part by part. results: where the suite's new records stay."""
    from bdlbench.gate.checks import Gate, check

    with _folder(results) as place:
        return check(Gate(_path("reference", reference), _path("config", config) if config else GATE_SUITE, place), say)


@_for_callers
def accept(
    reference: str | Path = REFERENCE, config: str | Path | None = None, results: str | Path | None = None
) -> list[str]:
    """Make the reference what this tree makes; what changed, a line each."""
    from bdlbench.gate.checks import Gate, accept

    with _folder(results) as place:
        return accept(Gate(_path("reference", reference), _path("config", config) if config else GATE_SUITE, place))


@contextmanager
def _folder(given: str | Path | None) -> Iterator[Path]:
    """A folder that stays if it was given, else one for the moment."""
    if given is not None:
        refuse_unwritable(place := _path("results", given))
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="bdlbench-") as name:
        yield Path(name)


def results_of(folder: Path) -> list[Result]:
    """All results in a folder. Raises BadInput where it holds none."""
    source = reading.read(folder)
    return merge(source.records, source)


def completed(
    folder: Path,
    metrics: Sequence[str],
    plugins: Plugins = (),
    faulty: Callable[[Faults], None] | None = None,
) -> tuple[list[Result], tuple[str, ...]]:
    """All results in a folder with what their stored predictions tell of `metrics`; and lines on what they do not.

    faulty: hears what is wrong with the files beside the records, which are then done without. Without it damage is
    BadInput where it is met.
    """
    _add_plugins(plugins)
    source = reading.read(folder)
    if faulty is not None:
        source, faults = reading.sound(source)
        faulty(faults)
    found, untold = rescoring.complete(source, metrics)
    return merge(found.records, found), untold


def _add_plugins(given: Plugins) -> list[Path]:
    listed = given if isinstance(given, Iterable) and not isinstance(given, str) else [given] if given else []
    paths = [_path("plugin", path) for path in listed]
    for path in paths:
        catalog.add_plugin(path)
    return paths


def machines(folder: Path) -> list[str]:
    """The devices, by name, on which the records of a folder were timed."""
    return sorted({environment.machine(record.environment) for record in reading.read(folder).records if record.cost})


def prepare(spec: Spec, results: Path, fresh: bool = False, any_code: bool = False) -> Job:
    """What is missing of a spec, or was made by other code. Writes nothing. Raises BadInput for unreadable records."""
    lint.refuse(lint.of_spec(spec))
    existing = records.read(results, conflicting=fresh) if results.is_dir() else []
    if fresh:
        records.refuse_conflicts(existing, {(cell.key, one) for cell in spec.cells for one in spec.replicates})
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


def results_for(job: Job, faulty: Callable[[Faults], None] = lambda faults: None) -> list[Result]:
    """What the folder now holds of the cells and replicates asked for, in the order of the spec.

    faulty: hears what is wrong with the files beside their records, which are done without.
    """
    if not job.results.is_dir():
        return []
    keys = [cell.key for cell in job.spec.cells]
    asked = [(job.results, record) for record in records.read(job.results) if record.key in set(keys)]
    source, faults = reading.sound(Source(tuple(asked)))
    faulty(faults)
    return select(merge(source.records, source), keys, job.spec.replicates)


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


# what an argument may be


def _path(name: str, given: str | os.PathLike[str]) -> Path:
    try:
        return Path(given)
    except TypeError:
        raise BadInput(f"{name}: {given!r} is no path") from None


Options = Mapping[str, Any] | str | Sequence[str]
"""Of entries: {"NAME.OPTION": value}, {"NAME": {"OPTION": value}}, or texts as `--set` takes them."""


def _options(given: Options) -> suites.OptionValues | tuple[str, ...]:
    if not isinstance(given, Mapping):
        return _names(given)
    settings: dict[str, dict[str, list[Any]]] = {}
    for name, value in given.items():
        entry, dot, option = str(name).partition(".")
        table = value if isinstance(value, Mapping) else {option: value}
        if not entry or (isinstance(value, Mapping) if dot else not isinstance(value, Mapping)):
            right = "{'NAME.OPTION': value} or {'NAME': {'OPTION': value}}"
            raise BadInput(f"set: {name!r} cannot be read: write {right}")
        for key, of_key in table.items():
            if key in settings.setdefault(entry, {}):
                raise BadInput(f"set: {entry}.{key} is given twice")
            settings[entry][key] = _values(of_key)
            if not settings[entry][key]:
                raise BadInput(f"set: {entry}.{key} has no value: give one, or a list to sweep")
    return settings


def _values(given: Any) -> list[Any]:
    """The values of a sweep, or one. Text is read as on the command line; a tuple or a list in a list is one value."""
    plain = given.tolist() if hasattr(given, "tolist") else given  # numpy's and torch's numbers and arrays
    if isinstance(plain, str):
        return [part.strip() for part in plain.split(",")]
    if not isinstance(plain, list | range):
        return [plain]
    inner = [value.tolist() if hasattr(value, "tolist") else value for value in plain]
    return [tuple(value) if isinstance(value, list) else value for value in inner]


def _seeds(given: Any) -> Any:
    """Python's numbers for numpy's and torch's; "" where none are named."""
    return "" if given is None else given.tolist() if hasattr(given, "tolist") else given


def _names(given: str | Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    try:
        return tuple(map(str, given or ()))
    except TypeError:
        raise BadInput(f"{given!r} is neither text nor a list of texts") from None


def _listed(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Names as a list, or in one text as the command line takes them: "nll,ece"."""
    parts = given.split(",") if isinstance(given, str) else _names(given)
    return tuple(name.strip() for name in parts if name.strip())


def suite_of(name: str, config: Path | None) -> suites.Suite:
    """A suite of the package, or that of a file; quick where neither is named. Raises BadInput for both."""
    if name and config:
        raise BadInput(f"a suite ({name}) and --config {config} are both given: choose one")
    return suites.read_suite_file(config) if config else suites.read_suite(name or "quick")


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
