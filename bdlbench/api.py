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
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from bdlbench import catalog
from bdlbench.compare import margins as margin_table
from bdlbench.compare import pairs as comparison
from bdlbench.compare.pairs import Comparison, Pairing
from bdlbench.core import files, options, torch_state
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.spec import Seeds, Spec, parse_seeds
from bdlbench.data import downloads
from bdlbench.data.task import Task
from bdlbench.records import reading
from bdlbench.records import record as records
from bdlbench.records.cells import Result, flatten, merge
from bdlbench.records.record import Record
from bdlbench.report import tables
from bdlbench.runs import external_scores as submissions
from bdlbench.runs import rescoring, suites, work
from bdlbench.runs.batch import Settings, load_task
from bdlbench.runs.external_scores import Claim
from bdlbench.runs.work import REFERENCE

if TYPE_CHECKING:
    from pandas import DataFrame

    from bdlbench.compare.rank import Ranking
    from bdlbench.gate.checks import GateSection
    from bdlbench.gate.verify import Check

GATE_SUITE = "smoke"

RESULTS = Path("results/local")
"""Where `run` writes unless told otherwise."""


PLURALS = {"methods": "method", "models": "model", "datasets": "dataset", "settings": "set", "plugins": "plugin"}
"""What lists suggest in place of the command line's names; taken too."""

__all__ = [
    "Trained",
    "accept",
    "compare",
    "gate",
    "rank",
    "read",
    "report",
    "run",
    "score",
    "table",
    "task",
    "verify",
]

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
    _add_plugins(plugin)
    settings = Settings(_path("results", results), checkpoint_every, keep_parameters)
    if isinstance(suite, Spec):
        if config or method or model or dataset or splits or set or (seeds, samples) != (None, None):
            raise BadInput("a spec is complete: other arguments that say what to run go with the name of a suite")
        spec = suite
    else:
        names = (_names(method), _names(model), _names(dataset))
        chosen = suites.Overrides(*names, _seeds(seeds), samples, _options(set), device, threads, splits)
        source = (
            suites.find_suite("", suite)
            if isinstance(suite, Path)
            else suites.find_suite(suite, _path("config", config) if config else None)
        )
        spec = suites.build_spec(source, chosen)
    planned = work.plan(spec, settings, fresh, any_code)
    workers = work.workers(jobs, planned)
    job = work.prepare(planned)
    work.perform(job, workers)
    keys = {cell.key for cell in spec.cells}
    found = records.read(job.results) if job.results.is_dir() else []
    return Trained(tuple(r for r in found if r.key in keys), tuple(work.left_out(job)), tuple(work.held(job).results))


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
    _add_plugins(plugin)
    names = _listed(metrics)
    source, _ = rescoring.complete(reading.read(_path("folder", folder)), names)
    found = merge(source.records, source)
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
    treatment: "METHOD:METHOD" or a pair, of A and B, each with or without options: "mc_dropout(rate=0.1)".
    ignore_options: whatever the methods' options. strict: inconclusive fails. plugin: files with metrics of your own,
    computed from stored predictions with their examples' part of the variance. Raises NotComparable where the protocols
    differ.
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

    _add_plugins(plugin)
    found = rescoring.completed(reading.read(_path("folder", folder)), [metric])
    ranked = ranking.rank(found.results, metric, _listed(methods))
    damaged = found.faults.lines() if found.faults.damaged else ()
    return replace(ranked, notes=(*ranked.notes, *found.untold, *damaged))


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
    files.refuse_unwritable(_path("results", results), "--results")
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
    files.refuse_unwritable(_path("out", out), "--out")
    return page.write(_path("folder", folder), _path("out", out), _listed(metrics))


def verify(folder: str | Path, *, full: bool = False, threads: int | None = None) -> Iterator[Check]:
    """Hold each record of a folder, or one record, against what is computed here. Raises BadInput for none."""
    from bdlbench.gate.verify import verify_folder

    return verify_folder(_path("folder", folder), full, threads)


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
        files.refuse_unwritable(place := _path("results", given), "--results")
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="bdlbench-") as name:
        yield Path(name)


def results_of(folder: Path) -> list[Result]:
    """All results in a folder. Raises BadInput where it holds none."""
    source = reading.read(folder)
    return merge(source.records, source)


def _add_plugins(given: Plugins) -> None:
    listed = given if isinstance(given, Iterable) and not isinstance(given, str) else [given] if given else []
    for path in [_path("plugin", path) for path in listed]:
        catalog.add_plugin(path)


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
