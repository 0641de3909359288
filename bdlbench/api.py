"""The verbs of the command line for Python: `from bdlbench.api import run, read, table, compare, rank`.

    trained = run("quick", method=["mle", "mc_dropout"], seeds=3, set={"mc_dropout.rate": [0.1, 0.2]})
    trained                     # prints the table
    frame = trained.frame()     # every number, with seeds as whole numbers and options as columns

Arguments have the names of the command line's options and are Python values: lists, numbers, dicts, paths. Wrong input
raises `BadInput`, with the line that the command line prints. (The verbs live here because `bdlbench.compare` is a
folder of the package.)
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from bdlbench import catalog
from bdlbench.compare import margins as margin_table
from bdlbench.compare import pairs as comparison
from bdlbench.compare.pairing import Pairing
from bdlbench.compare.pairs import Comparison
from bdlbench.core import files, foreign, options, torch_state
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.spec import Choice, Seeds, Spec, flatten, parse_seeds
from bdlbench.data import downloads
from bdlbench.data.in_memory import OwnData, own_data
from bdlbench.data.task import Task
from bdlbench.entries import CONFIGURED
from bdlbench.records import reading
from bdlbench.records.cells import Result, merge
from bdlbench.records.record import Record
from bdlbench.report import notebook, tables, text_table
from bdlbench.runs import executors, rescoring, shards, suites, work
from bdlbench.runs import external_scores as submissions
from bdlbench.runs import search as searching
from bdlbench.runs.batch import Settings
from bdlbench.runs.external_scores import Claim
from bdlbench.runs.loading import load_task
from bdlbench.runs.references import References, asked_for
from bdlbench.runs.search import ScoredTrial, SearchProtocol, Winner
from bdlbench.runs.work import REFERENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from bdlbench.compare.rank import Ranking
    from bdlbench.gate.checks import GateSection
    from bdlbench.gate.verify import Check

GATE_SUITE = "smoke"
"""The suite that `gate` runs unless told otherwise."""

RESULTS = Path("results/local")
"""Where `run` writes unless told otherwise."""

SEARCHES = RESULTS / "search"
"""Where `tune` writes unless told otherwise."""


PLURALS = {"methods": "method", "models": "model", "datasets": "dataset", "settings": "set", "plugins": "plugin"}
"""Names that suggest themselves for lists, accepted in place of the command line's names."""

__all__ = [
    "OwnData",
    "Trained",
    "Tuned",
    "accept",
    "compare",
    "curves",
    "dataset_from",
    "gate",
    "rank",
    "read",
    "report",
    "run",
    "score",
    "table",
    "task",
    "tune",
    "verify",
]

Plugins = str | Path | Iterable[str | Path]
Module = str | Callable[..., Any]
Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def _for_callers(verb: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Make a verb compute as in a process of its own, and leave torch as the caller had it.

    Keyword arguments have the command line's names. Another name raises BadInput, with the nearest.
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

    Attributes:
        records: One record for each cell and list of replicates.
        skipped: A line for each reason why cells are missing.
        results: The replicates that were asked for, cell by cell.
        notes: What there was to say while it ran, such as a metric that fails or a run of more than an hour.
    """

    records: tuple[Record, ...]
    skipped: tuple[str, ...] = ()
    results: tuple[Result, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, place: int) -> Record:
        return self.records[place]

    def frame(self, form: str = "long") -> DataFrame:
        """Return every number.

        Args:
            form: "long": each on a row of its own, as `read` does. "wide": one row for each cell and replicate, with
                a column for each metric; costs, which belong to a batch, are left out.

        Returns:
            The frame.

        Raises:
            BadInput: `form` is another word.
        """
        if form not in ("long", "wide"):
            raise unknown("form of a frame", str(form), ("long", "wide"))
        rows = list(tables.long_rows(self.results))
        if form == "long":
            return _frame(rows)
        wide: dict[Any, dict[str, Any]] = {}
        facts = ("metric", "unit", "better", "value")
        for row in rows:
            if row["seed"] is not None:
                about = {name: value for name, value in row.items() if name not in facts}
                wide.setdefault((row["cell"], row["seed"], row["split"]), about)[row["metric"]] = row["value"]
        return _frame(wide.values())

    def plot(self, metrics: str | Sequence[str] = ()) -> Figure:
        """Draw the table: a panel for each metric, mean ± standard error of each row.

        Args:
            metrics: Names; the main metrics where empty.

        Returns:
            A figure of matplotlib, which a notebook shows.

        Raises:
            BadInput: No record holds a metric, or there is only one row.
        """
        from bdlbench.report import figures  # matplotlib is slow to import

        names = _listed("metrics", metrics)
        tables.refuse_unknown_metrics(self.results, names)
        drawn: Figure = figures.of_table([result for result in self.results if result.replicates], names)
        return drawn

    def curves(self) -> DataFrame:
        """Return what was measured while training went on, as `curves` does.

        Returns:
            A frame with one row for each cell, replicate, metric and epoch.
        """
        return _frame(tables.curve_rows(self.records))

    def table(self, metrics: str | Sequence[str] = ()) -> DataFrame:
        """Return one row for each cell and metric, as `table` does.

        Args:
            metrics: Names; the main metrics where empty, all for "*".

        Returns:
            A frame with mean, standard error and number of replicates.

        Raises:
            BadInput: No record holds a metric.
        """
        names = _listed("metrics", metrics)
        tables.refuse_unknown_metrics(self.results, names)
        return _frame(tables.summary_rows(self.results, names))

    def __repr__(self) -> str:
        done = [result for result in self.results if result.replicates]
        return (tables.render(done, "terminal", width=120) if done else "") + "\n".join(self._lines())

    def _repr_html_(self) -> str:
        done = [result for result in self.results if result.replicates]
        return notebook.html(done, self._lines())

    def _lines(self) -> list[str]:
        """Say what is missing, and what there was to say."""
        titled = zip(tables.cell_titles(self.results), self.results, strict=True)
        failed = [f"failed: {title}, seed {r.seed}: {why}" for title, one in titled for r, why in one.failed.items()]
        missing = [*self.skipped, *failed] or ([] if any(one.replicates for one in self.results) else ["no records"])
        return [*missing, *(f"note: {line}" for line in self.notes)]


@_for_callers
def run(  # noqa: PLR0913 - one argument for each option of the command
    suite: str | Path | Spec = "",
    *,
    method: str | Sequence[str] = (),
    model: str | Sequence[str] = (),
    dataset: str | OwnData | Sequence[str | OwnData] = (),
    seeds: Seeds | None = None,
    splits: str = "",
    samples: int | None = None,
    set: Options = (),
    device: str = "auto",
    threads: int = 1,
    jobs: int = 1,
    executor: str | Executor = "",
    shard: str = "",
    results: str | Path = RESULTS,
    config: str | Path | None = None,
    plugin: Plugins = (),
    module: Module | Sequence[Module] = (),
    fresh: bool = False,
    any_code: bool = False,
    checkpoint_every: float = 60.0,
    keep_parameters: bool = False,
    progress: bool | None = None,
) -> Trained:
    """Train what is missing or was made by other code, and return what was asked for. Nothing is printed.

    Every combination of the methods, models and data sets that are named is run; the suite supplies the kinds that are
    not named.

    Args:
        suite: The name of a suite (by default "quick"), a whole spec, or the path of a TOML file.
        method: A name or several.
        model: A name or several.
        dataset: A name or several; also what `dataset_from` returns, whose file is written to RESULTS/data.
        seeds: A number of seeds (3), a list ([0, 7]) or a text ("0-9").
        splits: "one": every seed is trained on split 0; "each": on the split with its own number.
        samples: M, the posterior samples of a prediction.
        set: Options, as {"mlp.widths": (300, 100), "map.prior_sd": [0.1, 1]} or {"mlp": {"widths": (300, 100)}}, where
            a list sweeps and a tuple is one value; or texts as on the command line.
        device: "auto", "cpu" or "cuda".
        threads: Threads of each process.
        jobs: Worker processes; 0 for as many as there are cores. With more than one, a script needs the guard
            `if __name__ == "__main__":`.
        executor: What runs the batches instead: the name of a Dask cluster, "dask", "dask://host:port" or "dask:FILE"
            of a scheduler; or an executor as in `concurrent.futures`, such as mpi4py's (docs/clusters.md).
        shard: "2/5" for the second of five parts of all this, for five machines; the command `merge` brings them
            together.
        results: The folder that records are read from and written to.
        config: A TOML file of your own, in place of a suite.
        plugin: Python files with entries of your own.
        module: Callables that make an `nn.Module`, each a model beside those of `model`: "package.nets:make_cnn", or
            "nets.py:make_cnn" of a file; or the callable itself, where it stands in a file.
        fresh: Whether to train again what is done already.
        any_code: Whether records count as done whatever code made them, as those in results/reference do.
        checkpoint_every: Seconds between checkpoints.
        keep_parameters: Whether to write each posterior's state too, for `records.parameters`.
        progress: Whether to show progress: in a notebook below the cell, else on stderr. None shows it in a notebook
            only.

    Returns:
        The records of the cells asked for.

    Raises:
        BadInput: Something asked for does not exist or is out of range; nothing was written.
    """
    executors.refuse_unknown(executor)
    _add_plugins(plugin)
    modules = tuple(catalog.add_module(place) for place in _places(module))
    settings = Settings(_path("results", results), checkpoint_every, keep_parameters)
    held_here, dataset, set = _own_data(dataset, set, settings.results / "data")
    if isinstance(suite, Spec):
        beside: dict[str, object] = {"method": method, "model": model, "dataset": dataset, "config": config, "set": set}
        beside |= {"module": module, "seeds": seeds is not None, "splits": splits, "samples": samples is not None}
        if given := [name for name, value in beside.items() if value]:
            raise BadInput(f"a spec is complete: {', '.join(given)} go with the name of a suite")
        spec = suite
    else:
        names = (_names("method", method), (*_names("model", model), *modules), _names("dataset", dataset))
        chosen = suites.Overrides(*names, _seeds(seeds), samples, _options(set), device, threads, splits)
        source = (
            suites.find_suite("", suite)
            if isinstance(suite, Path)
            else suites.find_suite(suite, _path("config", config) if config else None)
        )
        spec = suites.build_spec(source, chosen)
    with _listening() as notes:
        planned = work.plan(shards.part_of(spec, shard) if shard else spec, settings, fresh, any_code)
        workers = work.workers(jobs, planned)
        with _written(held_here, settings.results / "data"):
            job = work.prepare(planned)
        with notebook.progress(job.batches, progress, notes) as hear:
            work.perform(job, workers, hear, executor)
        held = work.held(job)
    return Trained(
        held.records, (*work.left_out(job), *work.missing(job, held)), held.results, tuple(dict.fromkeys(notes))
    )


def dataset_from(
    x: Any, y: Any = None, *, test: tuple[Any, Any] | None = None, name: str = "mine", **options: Any
) -> OwnData:
    """Make a data set of what a program holds, for `run(dataset=…)`.

    Args:
        x: A frame (its columns as those of a csv file), an array or a tensor of inputs (N, *S), or a torch data set of
            pairs (input, target), each of which is read once.
        y: Targets (N,): numbers or classes, which may be texts; or the name of a column of the frame. None for a torch
            data set.
        test: Test inputs and targets of the same kinds; a split at random where there are none.
        name: What the file is called that `run` writes beside its records.
        **options: Options of the data set `csv` for a frame, of `npz` for all else: task="classification",
            missing="median", kind="images".

    Returns:
        The data set.

    Raises:
        BadInput: Something is of another type or shape.
    """
    made = own_data(name, x, y, test, options)
    for option, value in options.items():
        catalog.check_option("datasets", made.kind, option, value)
    return made


def _own_data(dataset: Any, given: Options, folder: Path) -> tuple[list[OwnData], str | Sequence[str], Options]:
    """Return the data sets that a program holds, the names of all, and the options with those of these data sets."""
    listed = list(dataset) if isinstance(dataset, list | tuple) else [dataset]
    mine = [one for one in listed if isinstance(one, OwnData)]
    if not mine:
        return [], dataset, given
    if len({one.kind for one in mine}) < len(mine):
        raise BadInput("dataset: two of dataset_from are read by one data set, so they need a run each")
    texts = _options(given)
    table = suites.parse_settings(texts) if isinstance(texts, tuple) else texts
    settings: dict[str, dict[str, Sequence[Any]]] = {entry: dict(of) for entry, of in table.items()}
    for one in mine:
        own: dict[str, Sequence[Any]] = {option: [value] for option, value in one.settings(folder).items()}
        settings[one.kind] = own | settings.get(one.kind, {})
    return mine, [one.kind if isinstance(one, OwnData) else one for one in listed], settings


@contextmanager
def _written(held_here: Sequence[OwnData], folder: Path) -> Iterator[None]:
    """Write the files of data sets that a program holds; what is new is removed again where the block fails."""
    new = [one for one in held_here if not (folder / one.file).exists()]
    for one in new:
        files.write_atomic(folder / one.file, one.content)
    try:
        yield
    except BaseException:
        for one in new:
            (folder / one.file).unlink(missing_ok=True)
        for place in (folder, folder.parent):
            with suppress(OSError):  # it holds something
                place.rmdir()
        raise


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Keep what is said to the logger of this package; it is then not printed where a program has set up no logging."""
    notes: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage().removeprefix("bdlbench: "))

    logger, handler = logging.getLogger("bdlbench"), Kept()
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)


@dataclass(frozen=True)
class Tuned:
    """What a search found: it prints as the options of a suite.

    Attributes:
        file: The table of all trials.
        winners: The best trial of each method that was searched.
        missing: A line for each method that should have been searched and could not, or that no trial suits.
        left_out: A line for each method that there is nothing to search of, such as a closed form.
        trials: Every trial of every rung, on each replicate.
        notes: What there was to say while it ran.
    """

    file: Path
    winners: tuple[Winner, ...]
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    trials: tuple[ScoredTrial, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, dict[str, float]]:
        """The winners' options by method, for `run(set=…)`: {"map": {"epochs": 120, "prior_sd": 0.5}}."""
        return {
            one.place[0]: {
                "epochs": one.epochs,
                **{name.partition(".")[2]: float(value) for name, value in one.options.items()},
            }
            for one in self.winners
        }

    def frame(self) -> DataFrame:
        """Return a row for each trial of a rung and replicate, with its searched options as columns: method.prior_sd.

        `won` says which rows are of a winner.
        """
        from pandas import DataFrame

        won = {(one.place, one.trial) for one in self.winners}
        rows = []
        for row in self.trials:
            pairs = (part.split("=", 1) for part in row.options.split())
            options = {f"method.{name.partition('.')[2]}": float(value) for name, value in pairs}
            told = {name: value for name, value in vars(row).items() if name not in ("options", "cell", "code")}
            rows.append({**told, "won": (row.place, row.trial) in won, **options})
        return DataFrame(rows)

    def __repr__(self) -> str:
        text = searching.as_toml(self.file, self.winners)
        return "\n".join([text, *(f"# {line}" for line in self._lines())])

    def _repr_html_(self) -> str:
        said = ("method", "model", "data set", "epochs", "options", "NLL of held-out rows (nats)", "standard error")
        rows = [
            (
                *one.place,
                str(one.epochs),
                " ".join(f"{name.partition('.')[2]}={value}" for name, value in one.options.items()),
                f"{one.validation_nll:.4f}",
                f"{one.standard_error:.4f}",
            )
            for one in self.winners
        ]
        fields = tuple(tuple(map(text_table.Field, row)) for row in rows)
        return notebook.sheets([text_table.Sheet(str(self.file), said, fields, left=3)], self._lines())

    def _lines(self) -> list[str]:
        return [*self.missing, *self.left_out, *(f"note: {line}" for line in self.notes)]


@_for_callers
def tune(  # noqa: PLR0913 - one argument for each option of the command
    suite: str | Path = "",
    *,
    budget: int,
    trials: int = 24,
    replicates: int = 3,
    validation: float = 0.2,
    seed: int = 0,
    method: str | Sequence[str] = (),
    model: str = "",
    dataset: str = "",
    keep: str | Sequence[str] = (),
    set: Options = (),
    samples: int | None = None,
    device: str = "auto",
    threads: int = 1,
    jobs: int = 1,
    executor: str | Executor = "",
    results: str | Path = SEARCHES,
    fresh: bool = False,
    config: str | Path | None = None,
    plugin: Plugins = (),
) -> Tuned:
    """Search the options of a suite's methods on held-out training rows, with equal budgets. Nothing is printed.

    One model and one data set of a grid are searched. All trials are written to a table in `results`; a search that was
    stopped goes on from it.

    Args:
        suite: The name of a suite (by default "quick"), or the path of a TOML file.
        budget: Epochs of the last rung, for every method.
        trials: Settings of each method, its defaults included.
        replicates: How often each setting is trained.
        validation: The share of the training rows that is held out.
        seed: Decides the settings and the replicates.
        method: A name or several, in place of the suite's.
        model: One of a grid's; by default its first.
        dataset: One of a grid's; by default its first.
        keep: Options that keep the suite's value in every method.
        set: Options, as for `run`, one value each; they are not searched.
        samples: M, the posterior samples of a prediction.
        device: "auto", "cpu" or "cuda".
        threads: Threads of each batch; they affect the bits.
        jobs: Worker processes; 0 for as many as cores allow.
        executor: What trains instead, as for `run`.
        results: The folder of the table.
        fresh: Whether to search again what the table holds.
        config: A TOML file of your own, in place of a suite.
        plugin: Python files with entries of your own.

    Returns:
        The winners and all trials.

    Raises:
        BadInput: Something asked for does not exist or is out of range, or the table is of another search.
    """
    executors.refuse_unknown(executor)
    _add_plugins(plugin)
    for what, name in (("model", model), ("dataset", dataset)):
        if not isinstance(name, str):
            raise BadInput(f"{what}: {name!r} is no text: a search is of one {what}")
    named = _path("config", config) if config else suite if isinstance(suite, Path) else None
    found = suites.find_suite("" if isinstance(suite, Path) and not config else suite, named)  # type: ignore[arg-type]
    file = _path("results", results) / f"{Path(found.file).stem}.csv"
    protocol = SearchProtocol(trials, budget, replicates, validation, seed)
    names = (_names("method", method), (model,) if model else (), (dataset,) if dataset else ())
    asked = suites.Overrides(*names, "", samples, _options(set), device, threads)
    with _listening() as notes:
        plan = searching.plan(found, asked, protocol, _names("keep", keep))
        workers = work.processes(jobs, plan.contenders[0].cells[0][0], len(plan.contenders) * replicates)
        rows = searching.perform(plan, file, workers, fresh, executor=executor)
    won, lost = searching.outcome(plan, rows)
    mine = {contender.place for contender in plan.contenders}  # the table may hold other methods
    trained = tuple(row for row in rows if row.place in mine)
    told = tuple(dict.fromkeys(notes))
    return Tuned(file, tuple(won), (*plan.unsupported, *lost), plan.left_out, trained, told)


@_for_callers
def read(folder: str | Path) -> DataFrame:
    """Return every stored number on a row of its own.

    Args:
        folder: A folder of records, or one record.

    Returns:
        A frame with one row for each cell, replicate and metric, or cell and cost. Options are columns: method.epochs,
        model.widths, dataset.num_train. Seeds are whole numbers, missing for costs.

    Raises:
        BadInput: The folder holds no records.
    """
    return frame_of(results_of(_path("folder", folder)))


def frame_of(results: Iterable[Result]) -> DataFrame:
    """Return every number of these results on a row of its own, as `read` does.

    Args:
        results: The cells.

    Returns:
        The frame.
    """
    return _frame(tables.long_rows(results))


@_for_callers
def curves(folder: str | Path) -> DataFrame:
    """Return what was measured while training went on, where a suite's [curves] asked for it.

    Args:
        folder: A folder of records, or one record.

    Returns:
        A frame with one row for each cell, replicate, metric and epoch; no rows where no record has curves. Options are
        columns, as in `read`.

    Raises:
        BadInput: The folder holds no records.
    """
    return _frame(tables.curve_rows(reading.read(_path("folder", folder)).records))


@_for_callers
def table(
    folder: str | Path,
    metrics: str | Sequence[str] = (),
    plugin: Plugins = (),
    *,
    references: str | Path | None = None,
) -> DataFrame:
    """Return one row for each cell and metric.

    Metrics that a record does not hold are computed from its stored predictions.

    Args:
        folder: A folder of records, or one record.
        metrics: Names; the main metrics where empty, all for "*".
        plugin: Python files with metrics of your own.
        references: A folder of records by hmc to compare with; by default that of the package.

    Returns:
        A frame with mean, standard error, number of replicates, failed replicates, and whether the cell leads its
        column.
        Options are columns, as in `read`.

    Raises:
        BadInput: The folder holds no records, or a metric does not exist.
    """
    _add_plugins(plugin)
    names = _listed("metrics", metrics)
    source, _ = rescoring.complete(reading.read(_path("folder", folder)), names, _references(references))
    found = merge(source.records, source)
    if names != ("*",):
        tables.refuse_unknown_metrics(found, names)
    return _frame(tables.summary_rows(found, names))


def _frame(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Make a frame of the rows of `tables`, with options as columns.

    An option that a cell lacks because it came later has its default, where another row makes it a column. Whole
    numbers stay whole where some are missing.
    """
    from pandas import DataFrame, Series

    options: dict[str, dict[str, Any]] = {}
    usual: dict[str, dict[str, Any]] = {}
    plain = []
    for row in rows:
        if row["cell"] not in options:
            given = json.loads(row["options"])
            flat = flatten({kind: {"name": "", **found} for kind, found in given.items()})
            chosen = {kind: Choice.from_dict({"name": row[kind], **found}) for kind, found in given.items()}
            usual[row["cell"]] = {
                f"{kind.removesuffix('s')}.{name}": value
                for kind in CONFIGURED
                for name, value in tables.later_defaults(kind, chosen[kind.removesuffix("s")]).items()
            }
            options[row["cell"]] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in flat.items() if "." in name
            }
        plain.append({name: value for name, value in row.items() if name != "options"} | options[row["cell"]])
    frame = DataFrame()
    for name in dict.fromkeys(name for row in plain for name in row):
        values = [row.get(name, usual[row["cell"]].get(name)) for row in plain]
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
    references: str | Path | None = None,
) -> Comparison:
    """Compare B with A, cell by cell. The result prints, and has a `frame`.

    Args:
        a: A folder, a record, or a git revision of results/.
        b: The same.
        metrics: Names; the main metrics where empty, all for "*".
        margins: {metric: how much worse still counts as good}, or a TOML file; by default those of the nearest
            pyproject.toml.
        treatment: "METHOD:METHOD", or a pair: a method of A and one of B, each with or without options:
            "mc_dropout(rate=0.1)".
        ignore_options: Whether cells are paired whatever the options of their methods.
        strict: Whether "inconclusive" counts as a failure.
        plugin: Python files with metrics of your own; they are computed from stored predictions, with the part of the
            variance that comes from examples.
        references: A folder of records by hmc to compare with; by default that of the package.

    Returns:
        The differences with their verdicts.

    Raises:
        NotComparable: The protocols differ.
        BadInput: A side holds no records, or a metric or treatment does not exist.
    """
    _add_plugins(plugin)
    pairing, beside = Pairing(_pair(treatment), ignore_options), _references(references)
    with reading.opened(str(a)) as left, reading.opened(str(b)) as right:
        held = {column for record in (*left.records, *right.records) for column in record.values.metrics}
        known = {*catalog.names("metrics"), *(column.partition("[")[0] for column in held)}
        if isinstance(margins, Mapping):
            allowed = margin_table.checked("margins", margins, sorted(known))
        else:
            allowed = margin_table.read(_path("margins", margins) if margins else None, known)
        return comparison.compare(left, right, allowed, _listed("metrics", metrics), pairing, strict, beside)


def _references(folder: str | Path | None) -> References:
    return asked_for(None if folder is None else _path("references", folder))


def _pair(treatment: str | Sequence[str] | None) -> tuple[str, str] | None:
    """Parse a method of A and one of B, from "mle:map" too; None for nothing."""
    given = treatment.split(":") if isinstance(treatment, str) else treatment or ()
    parts = [str(part).strip() for part in given]
    if treatment and (len(parts) != 2 or not all(parts)):
        raise BadInput(f"--treatment {treatment!r} cannot be read: name a method of A and one of B, such as mle:map")
    return (parts[0], parts[1]) if treatment else None


@_for_callers
def rank(
    folder: str | Path,
    metric: str = "nll",
    methods: str | Sequence[str] = (),
    plugin: Plugins = (),
    *,
    references: str | Path | None = None,
) -> Ranking:
    """Rank the methods of a folder over its data sets.

    Args:
        folder: A folder of records.
        metric: The metric to rank by.
        methods: Only these methods; all where empty.
        plugin: Python files with metrics of your own.
        references: A folder of records by hmc to compare with; by default that of the package.

    Returns:
        The ranking, which prints, and has a `frame`.

    Raises:
        BadInput: The folder holds no records, or the metric or a method does not exist.
    """
    from bdlbench.compare import rank as ranking  # scipy.stats is slow to import

    _add_plugins(plugin)
    found = rescoring.completed(reading.read(_path("folder", folder)), [metric], _references(references))
    ranked = ranking.rank(found.results, metric, _listed("methods", methods))
    damaged = found.faults.lines() if found.faults.damaged else ()
    return replace(ranked, notes=(*ranked.notes, *found.untold, *damaged), unread=found.faults.unread)


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
    """Score predictions made elsewhere (docs/score.md), and write their record.

    Args:
        file: An .npz, .csv or .parquet file of predictions.
        claim: What the predictions are, given whole in place of the arguments after `fresh`.
        results: The folder that the record is written to.
        fresh: Whether to replace replicates that are there already.
        method: The name of the method.
        dataset: The data set that was predicted.
        model: The name of the model.
        own_data: Whether the file holds its own targets, in place of those of a data set of the package.
        samples: M of the protocol; None for that of the file.
        seeds: The seeds of the replicates, in the order of the file; by default those of the file, else 0, 1, …
        splits: "one" or "each", as for `run`.
        set: Options of the method, model and data set.
        axes: The axes of the probabilities in an .npz file: "NC", "RNC", "MNC" or "MRNC".
        plugin: Python files with entries of your own.

    Returns:
        The path of the record.

    Raises:
        BadInput: The file or the claim is wrong; nothing was written.
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
    elif beside := [name for name, value in {"method": method, "dataset": dataset, "set": set}.items() if value]:
        raise BadInput(f"a claim is complete: {', '.join(beside)} go without one")
    files.refuse_unwritable(_path("results", results), "--results")
    return submissions.score(_path("file", file), claim, _path("results", results), fresh)


def task(dataset: str, split: int = 0, **options: Any) -> Task:
    """Load one split of a data set: the inputs that `score` expects predictions for. Absent files are downloaded.

    Args:
        dataset: The name of the data set.
        split: The number of the split, from 0.
        **options: Options of the data set.

    Returns:
        The split.

    Raises:
        BadInput: The name or an option does not exist.
        DataUnavailable: Files are absent and cannot be downloaded.
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
    *,
    references: str | Path | None = None,
) -> Path:
    """Write one HTML page about a folder's records to out/index.html, with its figures beside it.

    Args:
        folder: A folder of records.
        out: The folder of the page.
        metrics: Names; the main metrics where empty, all for "*".
        plugin: Python files with metrics of your own.
        references: A folder of records by hmc to compare with; by default that of the package.

    Returns:
        The path of the page.

    Raises:
        BadInput: The folder holds no records, or a metric does not exist.
    """
    from bdlbench.report import page

    _add_plugins(plugin)
    files.refuse_unwritable(_path("out", out), "--out")
    named = None if references is None else _path("references", references)
    return page.write(_path("folder", folder), _path("out", out), _listed("metrics", metrics), named).file


def verify(folder: str | Path, *, full: bool = False, threads: int | None = None) -> Iterator[Check]:
    """Compare each record of a folder, or one record, with what is computed here.

    Args:
        folder: A folder of records, or one record.
        full: Whether to train every cell to its end, not only its first steps.
        threads: Threads of torch; by default those of each record.

    Yields:
        One check after another, as they are made.

    Raises:
        BadInput: The folder holds no records.
    """
    from bdlbench.gate.verify import verify_folder

    return verify_folder(_path("folder", folder), full, threads)


@_for_callers
def gate(
    reference: str | Path = REFERENCE,
    config: str | Path | None = None,
    results: str | Path | None = None,
    say: Callable[[GateSection], None] = lambda section: None,
) -> list[GateSection]:
    """Compare this tree with the reference, part by part.

    Args:
        reference: The folder of reference records.
        config: A TOML file in place of the suite of the gate.
        results: Where the suite's new records stay; by default they are deleted.
        say: Hears each part when it is done.

    Returns:
        The parts with their verdicts.

    Raises:
        BadInput: The reference or the configuration cannot be used.
    """
    from bdlbench.gate.checks import Gate, check

    with _folder(results) as place:
        return check(Gate(_path("reference", reference), _path("config", config) if config else GATE_SUITE, place), say)


@_for_callers
def accept(
    reference: str | Path = REFERENCE, config: str | Path | None = None, results: str | Path | None = None
) -> list[str]:
    """Replace the reference by what this tree computes.

    Args:
        reference: The folder of reference records.
        config: A TOML file in place of the suite of the gate.
        results: Where the suite's new records stay; by default they are deleted.

    Returns:
        What changed, one line each.
    """
    from bdlbench.gate.checks import Gate, accept

    with _folder(results) as place:
        return accept(Gate(_path("reference", reference), _path("config", config) if config else GATE_SUITE, place))


@contextmanager
def _folder(given: str | Path | None) -> Iterator[Path]:
    """Yield a folder that stays if it was given, else a temporary one."""
    if given is not None:
        files.refuse_unwritable(place := _path("results", given), "--results")
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="bdlbench-") as name:
        yield Path(name)


def results_of(folder: Path) -> list[Result]:
    """Return all results in a folder.

    Args:
        folder: A folder of records, or one record.

    Returns:
        One result for each cell.

    Raises:
        BadInput: It holds none.
    """
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
"""Options of entries: {"NAME.OPTION": value}, {"NAME": {"OPTION": value}}, or texts as `--set` takes them."""


def _options(given: Options) -> suites.OptionValues | tuple[str, ...]:
    if not isinstance(given, Mapping):
        return _names("set", given)
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
    """Return the values of a sweep, or a single one.

    Text is read as on the command line; a tuple, or a list within a list, is one value.
    """
    plain = given.tolist() if hasattr(given, "tolist") else given  # numpy's and torch's numbers and arrays
    if isinstance(plain, str):
        return [part.strip() for part in plain.split(",")]
    if not isinstance(plain, list | range):
        return [plain]
    inner = [value.tolist() if hasattr(value, "tolist") else value for value in plain]
    return [tuple(value) if isinstance(value, list) else value for value in inner]


def _seeds(given: Any) -> Any:
    """Convert NumPy's and torch's numbers to Python's; "" where no seeds are named."""
    return "" if given is None else given.tolist() if hasattr(given, "tolist") else given


def _names(what: str, given: str | Iterable[str] | None) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    try:
        return tuple(map(str, given or ()))
    except TypeError:
        raise BadInput(f"{what}: {given!r} is neither text nor a list of texts") from None


def _places(given: Any) -> tuple[str, ...]:
    """Return where each callable stands, "nets.py:make_cnn": workers import it there, and its record hashes that file.

    Raises:
        BadInput: One stands in no file, such as a class of a notebook's cell, or inside of a function.
    """
    several = (given,) if callable(given) else given
    if not isinstance(several, Iterable) or isinstance(several, str):
        return _names("module", several)
    return tuple(_place(one) if callable(one) else str(one) for one in several)


def _place(make: Callable[..., Any]) -> str:
    name = getattr(make, "__qualname__", type(make).__name__)
    try:
        file = Path(inspect.getsourcefile(make) or "")
    except (TypeError, OSError):
        file = Path()
    if not file.is_file() or "." in name:
        better = f"write it at the top of a file, such as nets.py, and give 'nets.py:{name.rpartition('.')[2]}'"
        raise BadInput(f"module: {name} stands in no file that a worker could import: {better}")
    return f"{foreign.shown(file)}:{name}"


def _listed(what: str, given: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return names as a list, also from one text as the command line takes it: "nll,ece"."""
    parts = given.split(",") if isinstance(given, str) else _names(what, given)
    return tuple(name.strip() for name in parts if name.strip())
