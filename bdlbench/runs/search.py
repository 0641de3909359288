"""Search the options of a suite's methods, with equal budgets, on rows held out of the training rows.

    suite → contenders → trials → rungs of successive halving, each in batches → a table of all of it → winners

A rung trains its trials anew on all of its epochs, as rows of one batch for each replicate, and the better half goes on
(Jamieson & Talwalkar 2016). All rungs cost the same, and so do all methods. Test rows are not at hand here.
"""

from __future__ import annotations

import csv
import io
import math
import queue
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bdlbench import catalog
from bdlbench.core import files, torch_state
from bdlbench.core.clock import now
from bdlbench.core.errors import INCOMPLETE, BadInput, BenchError, Diverged, one_line
from bdlbench.core.options import searched, spell
from bdlbench.core.spec import Cell
from bdlbench.data import task
from bdlbench.data.task import Data
from bdlbench.runs import executors, loading, provenance, remote, suites
from bdlbench.runs.batch import say
from bdlbench.runs.choosing import scores_on_held_out
from bdlbench.runs.executors import Event, Pool, Report, Travel
from bdlbench.runs.remote import Sending
from bdlbench.training.loop import Session

MOST_RUNGS = 4
"""Rungs at most: the first has an eighth of the budget. Fewer epochs would rank methods' speed of starting."""

SILENCE = 60.0
"""Seconds of one batch after which a line says how far it is."""

SIGNIFICANT = 3
"""Significant digits of a drawn option, so that a suite can repeat it."""


class Unfinished(BenchError):
    """A search ends before all is trained, and the same command goes on from there."""

    exit_code = INCOMPLETE


@dataclass(frozen=True)
class SearchProtocol:
    """What is the same for every method.

    Attributes:
        trials: Settings of each method. The first is the method's defaults.
        budget: Epochs of the last rung.
        replicates: How often each trial is trained, on other rows and from another start.
        validation: The share of the training rows that is held out.
        seed: It decides the trials and the seeds of the replicates.
    """

    trials: int
    budget: int
    replicates: int = 3
    validation: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse with BadInput a protocol that cannot be followed."""
        for name in ("trials", "budget", "replicates", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise BadInput(f"--{name} {value!r} is not a whole number")
            if name != "seed" and value < 1:
                raise BadInput(f"--{name} {value} is out of range: at least 1")
        share: Any = self.validation
        if not isinstance(share, int | float) or not 0 < share < 1:
            raise BadInput(f"--validation {share} is out of range: a share between 0 and 1")
        if not 0 <= self.seed < 2**40:
            raise BadInput(f"--seed {self.seed} is out of range: 0 or more, below 2^40")

    @property
    def words(self) -> str:
        """For people: 24 trials, 120 epochs, 3 replicates, 20 % held out, seed 0."""
        held_out = f"{100 * self.validation:g} % held out"
        return f"{self.trials} trials, {self.budget} epochs, {self.replicates} replicates, {held_out}, seed {self.seed}"

    @property
    def rungs(self) -> tuple[tuple[int, int], ...]:
        """Trials and epochs of each rung: half as many trials and twice as many epochs as in the one before."""
        count = min(MOST_RUNGS, self.trials.bit_length(), self.budget.bit_length())
        return tuple((self.trials >> i, self.budget >> (count - 1 - i)) for i in range(count))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the replicates: no small numbers, so that no row of a suite's own seeds has chosen."""
        return tuple(1000 * (self.seed + 1) + i for i in range(self.replicates))


@dataclass(frozen=True)
class MethodSearch:
    """A method on a model and a data set of a suite, with what is searched.

    Attributes:
        cells: The cells of each rung, in the order of the trials.
        options: The values of each trial's searched options, by "method.option".
        code: A hash of the code that its numbers depend on.
    """

    cells: tuple[tuple[Cell, ...], ...]
    options: tuple[Mapping[str, float], ...]
    code: str

    @property
    def place(self) -> tuple[str, str, str]:
        """The names of method, model and data set."""
        cell = self.cells[0][0]
        return cell.method.name, cell.model.name, cell.dataset.name


@dataclass(frozen=True)
class Search:
    """All that is to be trained, and by what.

    `left_out` has a line for each method that is not searched; `unsupported` for each that should be, and cannot.
    """

    protocol: SearchProtocol
    contenders: tuple[MethodSearch, ...]
    left_out: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoredTrial:
    """One trial of a rung, trained on one replicate: a row of the table.

    Attributes:
        method: Its name.
        model: Its name.
        dataset: Its name.
        rung: From 1.
        epochs: As many as it was trained.
        trial: From 0, which are the method's defaults.
        replicate: The seed.
        options: What is searched, as the option --set takes it.
        validation_nll: Of the held-out rows in nats, original units; infinite where it is not finite.
        seconds: Of the batch that it was trained in.
        trials: As in `SearchProtocol`, like the next four.
        budget: Epochs.
        replicates: How many.
        validation: A share.
        seed: The search's.
        cell: The beginning of the cell's hash, which is over all options.
        code: Of what it was trained by.
    """

    method: str
    model: str
    dataset: str
    rung: int
    epochs: int
    trial: int
    replicate: int
    options: str
    validation_nll: float
    seconds: float
    trials: int
    budget: int
    replicates: int
    validation: float
    seed: int
    cell: str
    code: str

    @property
    def place(self) -> tuple[str, str, str]:
        """The names of method, model and data set."""
        return self.method, self.model, self.dataset


class TrialBatch(NamedTuple):
    """Trials of one rung on one replicate, which are trained together."""

    contender: MethodSearch
    rung: int
    trials: tuple[int, ...]
    replicate: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells."""
        return tuple(self.contender.cells[self.rung][trial] for trial in self.trials)

    @property
    def work(self) -> int:
        """Epochs of all rows."""
        return sum(int(cell.method.get("epochs")) for cell in self.cells)


# What is to be trained


def plan(suite: suites.Suite, asked: suites.Overrides, protocol: SearchProtocol, keep: Sequence[str] = ()) -> Search:
    """Find what is to be searched in a suite: every method of a grid that trains, on one model and one data set.

    Args:
        suite: The suite.
        asked: The command line's changes. Options that it sets are not searched.
        protocol: The same for every method.
        keep: Names of options that have the suite's values and are not searched, in any method.

    Returns:
        The search.

    Raises:
        BadInput: A name is unknown, nothing can be searched, or the suite sweeps an option.
        DataUnavailable: The data are not at hand.
    """
    model, dataset = asked.models[0] if asked.models else "", asked.datasets[0] if asked.datasets else ""
    for kind, name in (("models", model), ("datasets", dataset)):
        if name:
            catalog.load(kind, name)  # type: ignore[arg-type]
    fitting = [g for g in suite.grids if (not model or model in g.models) and (not dataset or dataset in g.datasets)]
    if not fitting or not (fitting[0].models and fitting[0].datasets):
        raise BadInput(f"{suite.file}: no grid has {' · '.join(n for n in (model, dataset) if n)}: name one that has")
    grid = fitting[0]
    if grid.choose is not None:
        raise BadInput(f"{suite.file}: replicates of this grid choose by themselves ([grid.choose]): run the suite")
    given = asked.settings if isinstance(asked.settings, Mapping) else suites.parse_settings(asked.settings)
    _refuse(suite, given)
    model, dataset = model or grid.models[0], dataset or grid.datasets[0]
    methods = asked.methods or grid.methods
    asked = replace(asked, methods=methods, models=(model,), datasets=(dataset,), settings=given)
    suites.build_spec(suite, asked)  # refuses unknown names and options, and options of what is not here
    left_out: dict[str, str] = {}
    contenders: list[MethodSearch] = []
    refused: list[str] = []
    for method in _trainers(methods, left_out):
        fixed = {*keep, *given.get(method, {})}
        ranges = {name: span for name, span in searched(catalog.load("methods", method)).items() if name not in fixed}
        if not ranges:
            left_out[method] = f"{method}: no option of it says where to search"
            continue
        own = {entry: table for entry, table in given.items() if entry in (method, model, dataset)}
        found = _contender(suite, replace(asked, methods=(method,), settings=own), protocol, method, ranges)
        if reason := _unsupported(found.cells[0][0]):
            refused.append(f"skipped: {method}: {reason}")
        else:
            contenders.append(found)
    known = {name for method in methods for name in searched(catalog.load("methods", method))}
    if stray := [name for name in keep if name not in known]:
        raise BadInput(f"--keep {stray[0]}: no method here searches it: {', '.join(sorted(known)) or 'none has any'}")
    if not contenders:
        raise BadInput(f"nothing to search: {'; '.join([*left_out.values(), *refused])}")
    return Search(protocol, tuple(contenders), tuple(left_out.values()), tuple(refused))


def _refuse(suite: suites.Suite, given: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise BadInput for a suite whose test rows would have a say, and for options that are the budget itself."""
    if suite.splits == "each":
        raise BadInput(
            f"{suite.file}: it tests several splits, and training rows of one are test rows of others: no row could "
            "choose options that no test row has seen"
        )
    for method, options in given.items():
        for name in sorted({"epochs", "steps"} & set(options)):
            if method in catalog.names("methods") and options[name] != [0]:
                raise BadInput(f"--set {method}.{name}: the budget is --budget EPOCHS, the same for every method")


def _trainers(methods: Sequence[str], left_out: dict[str, str]) -> list[str]:
    """Return the methods that have epochs, those that others build on included; say in `left_out` why the rest has not.

    A method that builds on another, such as an ensemble, has the options of the other in a suite, and so its winner's.
    """
    found: dict[str, None] = {}
    for method in methods:
        options = catalog.options_of("methods", method)
        below = [str(field.default) for field in options.values() if field.metadata["entry"] == "methods"]
        if "epochs" in options:
            found[method] = None
        elif below:
            left_out[method] = f"{method}: has the options of {', '.join(below)}, on which it builds"
            found |= dict.fromkeys(_trainers(below, left_out))
        else:
            left_out[method] = f"{method}: has no epochs"
    return list(found)


def _contender(
    suite: suites.Suite,
    asked: suites.Overrides,
    protocol: SearchProtocol,
    method: str,
    ranges: Mapping[str, tuple[float, float]],
) -> MethodSearch:
    """Draw the trials of a method, and make their cells.

    The draws cover the ranges evenly: a scrambled Sobol sequence, which the seed decides.
    """
    default: dict[str, Any] = {name: catalog.options_of("methods", method)[name].default for name in ranges}
    drawn = torch.quasirandom.SobolEngine(len(ranges), scramble=True, seed=protocol.seed)
    trials = [default]
    if protocol.trials > 1:
        for row in drawn.draw(protocol.trials - 1, dtype=torch.float64).tolist():
            values = (_within(*span, u) for span, u in zip(ranges.values(), row, strict=True))
            trials.append(dict(zip(ranges, values, strict=True)))
    assert isinstance(asked.settings, Mapping)
    by_rung = []
    for _, epochs in protocol.rungs:
        cells = []
        for trial in trials:
            one = {method: {"epochs": [epochs]} | {name: [value] for name, value in trial.items()}}
            spec = suites.build_spec(suite, replace(asked, settings=suites.merge(asked.settings, one)))
            if len(spec.cells) > 1:
                raise BadInput(f"{suite.file} sweeps options of {spec.cells[0].title}: set one value of each by --set")
            cells.append(spec.cells[0])
        by_rung.append(tuple(cells))
    first = by_rung[0][0]
    if first.method.get("steps"):
        raise BadInput(f"{suite.file}: {method}.steps is set, and --budget counts epochs: add --set {method}.steps=0")
    if first.dataset.get("calibration"):
        name = first.dataset.name
        raise BadInput(f"{name}.calibration keeps rows from every method, and so from a search: leave it at 0")
    options = tuple({f"{method}.{name}": value for name, value in trial.items()} for trial in trials)
    return MethodSearch(tuple(by_rung), options, files.digest(dict(_code(by_rung[0][0])))[:12])


def _within(least: float, largest: float, u: float) -> float:
    """Return the number at the place u, 0 to 1, of a range, in the logarithm where the range is above 0."""
    if least > 0:
        value = math.exp(math.log(least) + u * (math.log(largest) - math.log(least)))
    else:
        value = least + u * (largest - least)
    return float(f"{value:.{SIGNIFICANT}g}")


def _code(cell: Cell) -> provenance.Code:
    """Return the hashes of the code that a trial depends on: no metric has a part in it."""
    return {name: sha for name, sha in provenance.code_of(cell).items() if not name.startswith("metrics ")}


def _unsupported(cell: Cell) -> str:
    """Return why the model or the method rejects a cell, or ""; fetch its data before."""
    loading.fetch(cell.dataset)
    model = catalog.build_model([cell.model], loading.load_task(cell.dataset, 0).signature)
    return model.unsupported() or catalog.build_method([cell.method]).unsupported(model) or ""


# Training


def perform(
    search: Search,
    file: Path,
    jobs: int = 1,
    fresh: bool = False,
    report: Callable[[TrialBatch, float, float], None] = lambda batch, seconds, left: None,
    executor: str | Executor = "",
) -> list[ScoredTrial]:
    """Train what the file lacks of a search, and write it after each batch.

    Args:
        search: The search.
        file: A CSV file.
        jobs: Worker processes.
        fresh: Whether what the file holds of these methods is trained again.
        report: report(batch, seconds, left) hears of each batch, with the seconds that are probably left.
        executor: Trains instead, as in `executors.execute`.

    Returns:
        All rows of the file.

    Raises:
        BadInput: The file holds rows of another search, or cannot be read or written; or there is no such executor.
        Unfinished: The worker of one batch was lost each time that it was tried, or the scheduler of a cluster was.
    """
    files.refuse_unwritable(file.parent, "--results")
    rows = _kept(search, read(file) if file.exists() else [], file, fresh)
    began, done = now(), 0
    running: dict[Future[list[ScoredTrial]], TrialBatch] = {}
    lost: Counter[str] = Counter()
    most = math.inf if executor else jobs  # a cluster keeps what is due until a worker is free
    again = "the same command goes on from here"
    hear = _said_now_and_then()
    with _pool(search, jobs, executor, hear) as pool:
        while True:
            for batch in [one for contender in search.contenders for one in due(search.protocol, contender, rows)]:
                if len(running) < most and batch not in running.values():
                    try:
                        future = pool.submit(TrialTask(search.protocol, batch))
                    except (BrokenExecutor, CancelledError, RuntimeError, OSError) as error:
                        raise Unfinished(f"workers take no more batches: {one_line(error)}; {again}") from None
                    running[future] = batch
                    future.add_done_callback(pool.news.put)
            if not running:
                return rows
            heard = pool.heard()
            if isinstance(heard, Event):
                hear(heard)
                continue
            batch = running.pop(heard)
            said = headline(search.protocol, batch)
            try:
                found = heard.result()
            except CancelledError:
                if not pool.is_back():
                    raise Unfinished(f"{said}: the scheduler was lost; {again}") from None
                continue  # still due, it is given again
            except Exception as error:
                if not (how := pool.how_lost(error)):
                    raise
                lost[said] += 1
                if lost[said] >= pool.tries:
                    times = f", {lost[said]} times" if lost[said] > 1 else ""
                    fewer = ", with fewer --jobs if memory ran out" if jobs > 1 and not executor else ""
                    raise Unfinished(f"{said}: {how}{times}; {again}{fewer}") from None
                say(f"{said}: {how}; it is trained again")
                continue
            rows = _sorted(search, [*rows, *found])
            files.write_atomic(file, written(rows).encode())
            done += batch.work
            left = sum(_left(search.protocol, contender, rows) for contender in search.contenders)
            report(batch, found[0].seconds, (now() - began) * left / done)


def due(protocol: SearchProtocol, contender: MethodSearch, rows: Sequence[ScoredTrial]) -> list[TrialBatch]:
    """Return the batches of a method that can be trained now: replicates that its first unfinished rung lacks."""
    trials: tuple[int, ...] = tuple(range(protocol.trials))
    for rung in range(len(protocol.rungs)):
        trials = trials if rung == 0 else survivors(protocol, contender, rows, rung)
        have = {(row.trial, row.replicate) for row in rows if row.place == contender.place and row.rung == rung + 1}
        missing = [seed for seed in protocol.seeds if any((trial, seed) not in have for trial in trials)]
        if missing:
            return [TrialBatch(contender, rung, trials, seed) for seed in missing]
    return []


def survivors(
    protocol: SearchProtocol, contender: MethodSearch, rows: Sequence[ScoredTrial], rung: int
) -> tuple[int, ...]:
    """Return the trials of a rung (from 0; not the first): the best of the one before, by their mean NLL.

    Of equal ones, the first stay.
    """
    before = [row for row in rows if row.place == contender.place and row.rung == rung]
    means = {trial: statistics.fmean(r.validation_nll for r in before if r.trial == trial) for trial in _trials(before)}
    return tuple(sorted(sorted(means, key=lambda trial: (means[trial], trial))[: protocol.rungs[rung][0]]))


def train(protocol: SearchProtocol, batch: TrialBatch, report: Report = executors.only_notes) -> list[ScoredTrial]:
    """Train the trials of a batch on the rows that are not held out, and score them on those that are.

    Trials that cannot be rows of one batch are trained one after the other. A trial whose numbers are not finite, or
    whose loss diverges, has an infinite NLL. `report` hears of steps.
    """
    first, began, groups = batch.cells[0], now(), dict[Any, list[int]]()
    for i, cell in enumerate(batch.cells):
        alone = i if catalog.is_row_by_row(cell.method) else None
        groups.setdefault((catalog.batch_key("methods", cell.method), alone), []).append(i)
    scores = torch.full((len(batch.cells),), -torch.inf, dtype=torch.float64)
    title, due_at = headline(protocol, batch), 0.0

    def listen(done: int, total: int) -> None:
        nonlocal due_at
        if now() >= due_at:
            report(Event(0, title, "step", done, total))
            due_at = now() + executors.LISTEN_EVERY

    with torch_state.kept():
        torch.set_num_threads(first.threads)
        problem = task.to_device(task.stack([loading.load_task(first.dataset, 0)], [0]), torch.device(first.device))
        nobody = Data(problem.test.x[:, :0], problem.test.y[:, :0])  # no test row can take part
        problem = replace(problem, test=nobody, ood={}, shifts={})
        for group in groups.values():
            cells = [batch.cells[i] for i in group]
            try:
                found = scores_on_held_out(
                    cells, [batch.replicate], problem, protocol.validation, first.samples, Session(listen=listen)
                )
            except Diverged:
                continue
            scores[group] = torch.where(found[0].isfinite(), found[0], -torch.inf)
    seconds = round(now() - began, 3)
    return [
        ScoredTrial(
            *batch.contender.place,
            rung=batch.rung + 1,
            epochs=protocol.rungs[batch.rung][1],
            trial=trial,
            replicate=batch.replicate,
            options=_spelled(batch.contender.options[trial]),
            validation_nll=-score,
            seconds=seconds,
            trials=protocol.trials,
            budget=protocol.budget,
            replicates=protocol.replicates,
            validation=protocol.validation,
            seed=protocol.seed,
            cell=cell.key[:12],
            code=batch.contender.code,
        )
        for trial, score, cell in zip(batch.trials, scores.tolist(), batch.cells, strict=True)
    ]


def headline(protocol: SearchProtocol, batch: TrialBatch) -> str:
    """Return a batch in words: mle · mlp · digits, rung 1 of 4: 24 trials of 15 epochs, seed 1000."""
    count, rungs = len(batch.trials), len(protocol.rungs)
    counted = f"{count} trial{'s' * (count > 1)} of {protocol.rungs[batch.rung][1]} epochs"
    return f"{batch.cells[0].title}, rung {batch.rung + 1} of {rungs}: {counted}, seed {batch.replicate}"


def _spelled(options: Mapping[str, float]) -> str:
    return " ".join(f"{name}={spell(value)}" for name, value in options.items())


def _trials(rows: Sequence[ScoredTrial]) -> list[int]:
    return sorted({row.trial for row in rows})


def _left(protocol: SearchProtocol, contender: MethodSearch, rows: Sequence[ScoredTrial]) -> int:
    """Return the epochs of all rows that a method still lacks."""
    whole = sum(trials * epochs for trials, epochs in protocol.rungs) * protocol.replicates
    return whole - sum(row.epochs for row in rows if row.place == contender.place)


# Who trains


@dataclass(frozen=True)
class TrialTask:
    """A batch of trials as a task.

    Attributes:
        protocol: The search's.
        batch: The batch.
        origin: The process that it comes from, if that may be another one.
        code: Hashes there of the code that the trials depend on, by the cell of one.
    """

    protocol: SearchProtocol
    batch: TrialBatch
    origin: Sending | None = None
    code: Mapping[Cell, provenance.Code] = field(default_factory=dict)


@contextmanager
def _pool(search: Search, jobs: int, executor: str | Executor, hear: Report) -> Iterator[Pool]:
    """Yield who trains batches: an executor, worker processes, or this process, at once."""
    firsts = [contender.cells[0][0] for contender in search.contenders]  # its other cells differ in numbers alone

    @contextmanager
    def travelling() -> Iterator[Travel]:
        code = provenance.code_of_cells(firsts)
        origin = Sending(remote.AddedEntries.here())

        def pack(task: TrialTask) -> TrialTask:
            first = task.batch.contender.cells[0][0]
            return replace(task, origin=origin, code={first: code[first.key]})

        yield Travel(pack, _train_elsewhere)

    def at_once(task: TrialTask) -> Future[list[ScoredTrial]]:
        future: Future[list[ScoredTrial]] = Future()
        future.set_result(_train(task, hear))
        return future

    if executor or jobs > 1:
        with executors.workers(executor, jobs, firsts[0].device, _train, travelling) as pool:
            yield pool
    else:
        yield Pool(at_once, queue.SimpleQueue(), lambda task, found: found, lambda error: "")


def _train(task: TrialTask, report: Report) -> list[ScoredTrial]:
    return train(task.protocol, task.batch, report)


def _train_elsewhere(task: TrialTask, report: Report) -> list[ScoredTrial]:
    assert task.origin is not None
    with remote.equipped(task.origin, task.code):
        return _train(task, report)


def _said_now_and_then() -> Report:
    """Return what hears steps, and says of each batch how far it is, once in SILENCE seconds."""
    said: dict[str, float] = {}

    def hear(event: Event) -> None:
        if event.kind == "note":
            say(event.text)
        elif now() - said.setdefault(event.title, now()) > SILENCE:
            said[event.title] = now()
            say(f"{event.title}: {100 * event.done // event.total} % of its training")

    return hear


# The table


def read(file: Path) -> list[ScoredTrial]:
    """Read a table of trials. Raises BadInput, with the file and line, for one that is none."""
    types = {field.name: {"int": int, "float": float}.get(str(field.type), str) for field in fields(ScoredTrial)}
    try:
        table = csv.DictReader(io.StringIO(file.read_text("utf-8")))
        lines = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} cannot be read: {one_line(error)}") from None
    if missing := types.keys() - set(table.fieldnames or ()):
        raise BadInput(f"{file} is no table of trials of tune: it has no column {min(missing)}; name another folder")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            rows.append(ScoredTrial(**{name: kind(line[name]) for name, kind in types.items()}))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{file}, line {number}, is no trial of a search ({one_line(error)}): name another folder"
            ) from None
    return rows


def written(rows: Sequence[ScoredTrial]) -> str:
    """Return the text of a table of trials."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ScoredTrial)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def _sorted(search: Search, rows: Sequence[ScoredTrial]) -> list[ScoredTrial]:
    """Return rows in an order that does not depend on which was done first; first what is not of this search."""
    places = {contender.place: i for i, contender in enumerate(search.contenders)}
    return sorted(rows, key=lambda row: (places.get(row.place, -1), row.place, row.rung, row.trial, row.replicate))


def _kept(search: Search, rows: Sequence[ScoredTrial], file: Path, fresh: bool) -> list[ScoredTrial]:
    """Return the rows of a file that this search goes on from. Raises BadInput for those of another search."""
    protocol, places = search.protocol, {contender.place: contender for contender in search.contenders}
    kept = [row for row in rows if not (fresh and row.place in places)]
    for row in kept:
        then = SearchProtocol(row.trials, row.budget, row.replicates, row.validation, row.seed)
        if then != protocol:
            raise BadInput(
                f"{file} holds another search ({then.words}): name another folder by --results, or remove it"
            )
        if not (contender := places.get(row.place)):
            continue
        rung = row.rung - 1
        known = rung < len(contender.cells) and row.trial < protocol.trials and row.replicate in protocol.seeds
        if not known or contender.cells[rung][row.trial].key[:12] != row.cell:
            raise BadInput(f"{file} holds {row.method} with other options: --fresh searches it again")
        if row.code != contender.code:
            raise BadInput(f"{file} holds {row.method} as other code trained it: --fresh searches it again")
    return kept


class Winner(NamedTuple):
    """The best trial of the last rung."""

    place: tuple[str, str, str]
    options: Mapping[str, str]
    epochs: int
    trial: int
    validation_nll: float
    standard_error: float


def winners(rows: Sequence[ScoredTrial]) -> list[Winner]:
    """Return the trial of each method, model and data set whose mean NLL is least in the last rung.

    Of equal ones it is the first; where no mean is finite there is none. `options` are by "method.option"; the standard
    error is over replicates, and NaN where there is but one.
    """
    found = []
    for place in dict.fromkeys(row.place for row in rows):
        mine = [row for row in rows if row.place == place]
        last = [row for row in mine if row.epochs == row.budget]
        scores = {trial: [row.validation_nll for row in last if row.trial == trial] for trial in _trials(last)}
        best = min(scores, key=lambda trial: (statistics.fmean(scores[trial]), trial), default=-1)
        if best < 0 or not math.isfinite(statistics.fmean(scores[best])):
            continue
        row, count = next(row for row in last if row.trial == best), len(scores[best])
        error = statistics.stdev(scores[best]) / count**0.5 if count > 1 else math.nan
        options = dict(part.split("=", 1) for part in row.options.split())
        found.append(Winner(place, options, row.epochs, best, statistics.fmean(scores[best]), error))
    return found


def outcome(search: Search, rows: Sequence[ScoredTrial]) -> tuple[list[Winner], list[str]]:
    """Return the winner of each method of a search, in its order, and a line for each that has none."""
    won = {one.place: one for one in winners(rows)}
    places = [contender.place for contender in search.contenders]
    lost = [
        f"no winner: {' · '.join(place)}: no trial of the last rung has a finite NLL"
        for place in places
        if place not in won
    ]
    return [won[place] for place in places if place in won], lost


def as_toml(file: Path, won: Sequence[Winner]) -> str:
    """Return winners as the options of a suite's grid, which cites their table by its name and its hash."""
    lines = [f'search = "{file.name} {files.sha256(file.read_bytes())}"']
    for one in won:
        method, model, dataset = one.place
        what = "the defaults" if one.trial == 0 else f"trial {one.trial}"
        error = "" if math.isnan(one.standard_error) else f" ± {one.standard_error:.4f}"
        lines += [
            "",
            f"# {what} on {model} · {dataset}: {one.validation_nll:.4f}{error} nats on held-out training rows",
            f"[grid.options.{method}]",
            f"epochs = {one.epochs}",
            *(f"{name.removeprefix(f'{method}.')} = {value}" for name, value in one.options.items()),
        ]
    return "\n".join(lines)
