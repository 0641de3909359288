"""The whole path from a spec to records.

    spec → data → fit → posterior → predictive → metrics → record

The rows of one batch are all replicates of a cell, and of cells that differ only in per-replicate options.
"""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import environment, files, foreign, torch_state
from bdlbench.core.clock import Stopwatch, now, peak_memory_bytes, reset_peak_memory
from bdlbench.core.errors import BadInput, BenchError, Diverged
from bdlbench.core.memory import keep_freed_memory
from bdlbench.core.spec import Cell, Curves, Replicate, Spec
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import version
from bdlbench.data import task
from bdlbench.data.added import asked_scores
from bdlbench.data.task import Problem
from bdlbench.data.validation import hold_out
from bdlbench.protocols import Conjugate, Evaluation, HasRemark, Method, Posterior, Reference
from bdlbench.records import record as records
from bdlbench.records.arrays import row_axis
from bdlbench.records.contents import (
    Environment,
    TestedExamples,
    Values,
)
from bdlbench.records.record import SELECTION_SECONDS, Record
from bdlbench.runs import curves, loading, provenance, scoring
from bdlbench.runs.choosing import Built, Choices, assembled, choose
from bdlbench.training import checkpoints
from bdlbench.training.loop import Nudge, Session, session, unchanged

CHECKPOINTS = ".checkpoints"
"""The subfolder of a folder of records that holds unfinished fits."""


class Row(NamedTuple):
    """One row of a batch: a cell and a replicate."""

    cell: Cell
    replicate: Replicate


@dataclass(frozen=True)
class Batch:
    """Rows that are trained together.

    Attributes:
        rows: The rows.
        points: The point of the grid that each row has chosen, where its cell's replicates choose options; () before.
    """

    rows: tuple[Row, ...]
    points: tuple[int, ...] = ()

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells, each once, in order."""
        return tuple(dict.fromkeys(row.cell for row in self.rows))

    @property
    def key(self) -> str:
        """A hash of the rows, in order; it names the checkpoint."""
        return files.digest([[row.cell.key, row.replicate.seed, row.replicate.split] for row in self.rows])


@dataclass(frozen=True)
class Settings:
    """How to run batches and where to write.

    Attributes:
        results: The folder for records.
        checkpoint_every: Seconds between checkpoints of a fit.
        keep_parameters: Whether parameters are written beside records.
        selection: The data that the options were chosen on, if the suite states it; the record keeps it.
        searches: As in `Spec`; the record of a cell keeps its own.
        nudge: As in `training.Session`.
        curves: What is measured while training goes on; the record keeps it.
        code: Hashes of the code of each cell, by the cell's key, computed when the job began. The code of any other
            cell is hashed when it is needed.
    """

    results: Path
    checkpoint_every: float = 60.0
    keep_parameters: bool = False
    selection: str = ""
    searches: Mapping[str, str] = field(default_factory=dict)
    nudge: Nudge = unchanged
    curves: Curves | None = None
    code: Mapping[str, provenance.Code] = field(default_factory=dict)

    def code_of(self, cell: Cell) -> provenance.Code:
        """Return the hashes of the code that a cell's numbers depend on, as its record keeps them."""
        return self.code.get(cell.key) or provenance.code_of(cell)


class Outcome(NamedTuple):
    """The result of a batch.

    Attributes:
        records: The records that were written, one for each cell.
        skipped: Why the model or the method rejects the cells; "" if it does not.
        unwritten: The cell that was not written, and why; "" if all were.
        refused: Why the folder takes no record of any batch; "" if it does.
    """

    records: list[Record]
    skipped: str = ""
    unwritten: str = ""
    refused: str = ""


def say(line: str) -> None:
    """Print one line on stderr for a person to read while a batch runs."""
    print(f"bdlbench: note: {line}", file=sys.stderr, flush=True)


def batches(spec: Spec, existing: Sequence[Record]) -> list[Batch]:
    """Group the replicates missing from `existing` into batches of rows that can be trained together.

    Code from outside keeps no checkpoint: each of its rows is a batch, whose record stays when a later row is stopped.
    """
    groups: dict[Any, list[Row]] = {}
    done = records.done(existing)
    for cell in spec.cells:
        have = done.get(cell.key, set())
        lacking = [replicate for replicate in spec.replicates if replicate not in have]
        if not lacking:
            continue
        shared = (
            *(catalog.batch_key("methods", cell.method), catalog.batch_key("models", cell.model), cell.dataset),
            *(cell.samples, cell.device, cell.threads, cell.tuning),
        )
        for replicate in lacking:
            alone = (cell, replicate) if catalog.is_row_by_row(cell.method) else ()
            groups.setdefault((*shared, *alone), []).append(Row(cell, replicate))
    return [Batch(tuple(rows)) for rows in groups.values()]


def run_batch(
    batch: Batch,
    settings: Settings,
    listen: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = say,
    predicting: Callable[[float], None] = lambda fraction: None,
) -> Outcome:
    """Train, predict, score and write one batch. A failure becomes a record with its reason; bad input is raised.

    The checkpoint of the fit is kept until everything computed from it is written, so that after a failure of a
    prediction or a metric the same batch continues from there. Settings of the whole process that the batch or code of
    a plugin changes, such as the number of threads, are restored afterwards.

    Args:
        batch: Its rows.
        settings: How to run it and where to write.
        listen: listen(done, total) is told the steps of training.
        note: note(line) is told what a person should know at once.
        predicting: predicting(fraction) is told how much of all predictions is done.
    """
    cell, device = batch.rows[0].cell, torch.device(batch.rows[0].cell.device)
    told, written = f"{cell.title}: ", list[Record]()
    spent, choosing = (
        Session(
            settings.results / CHECKPOINTS / name,
            settings.checkpoint_every,
            listen,
            settings.nudge,
            note=lambda line: note(told + line),
            predicting=predicting,
        )
        for name in (batch.key, f"{batch.key}.choice")
    )
    reset_peak_memory(device)
    with torch_state.kept():
        try:
            built = build(replace(batch, points=()))  # they are chosen below
            if reason := built.model.unsupported() or built.method.unsupported(built.model):
                return Outcome([], told + reason)
            spent.depends = _depends(cell, built.problem, settings.code_of(cell))
            result = _result(batch, built, settings, spent, choosing)
            for one in batch.cells:
                written.append(_write_cell(batch, one, result, settings))
        except BadInput:
            raise
        except (Exception, SystemExit) as error:  # the rest of the run continues; the record keeps the reason
            if isinstance(error, Diverged):  # it would diverge again: the same steps from the same numbers
                _forget(spent, choosing)
            if refused := refusal(error, settings.results):  # no failure of the cell
                return Outcome(written, refused=refused)
            failed = write_failures(batch, settings, foreign.reason_of(error))
            return failed._replace(records=[*written, *failed.records])
    for name, reason in result.unscored.items():
        note(f"{told}metric {name} fails: {reason}")
    if not any(record.unscored for record in written):
        _forget(spent, choosing)
    return Outcome(written)


REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""Errors of the system that concern a folder, whatever is written there. Others may concern one file: EFBIG."""


def refusal(error: BaseException, folder: Path) -> str:
    """Return why a folder takes no record any more, if an error says so: its disk is full or read-only; else ""."""
    if not isinstance(error, OSError) or error.errno not in REFUSALS or not isinstance(error.filename, str):
        return ""
    return (error.strerror or "") if Path(error.filename).is_relative_to(folder) else ""


def _forget(*fits: Session) -> None:
    """Remove the checkpoints of fits, including those that were set aside."""
    for file in (file for fit in fits for file in fit.files()):
        with suppress(OSError):  # the disk has turned read-only: the records are written, and nothing reads it again
            file.unlink(missing_ok=True)
            file.with_name(file.name + checkpoints.ASIDE).unlink(missing_ok=True)


def _depends(cell: Cell, problem: Problem, code: provenance.Code) -> dict[str, str]:
    """Return what besides the rows decides a fit's bits; a checkpoint that differs in any of it is set aside."""
    where = environment.describe(cell.device, cell.threads)
    rows = problem.train.row(0) if task.shared(problem.train.x) else problem.train
    examples = [hashlib.sha256(value.cpu().contiguous().numpy().data).hexdigest() for value in (rows.x, rows.y)]
    return {
        **{f"the source of {name}": sha256 for name, sha256 in code.items() if not name.startswith("metrics ")},
        **{name: where["packages"][name] for name in ("bdlbench", "torch", "numpy")},
        "device": where["device"],
        "instructions": json.dumps([where["cpu_capability"], where["instructions"]]),
        "the training data": files.digest(examples),
    }


def unsupported(batch: Batch) -> str:
    """Return why the model or the method rejects the cells of a batch; "" if it accepts them. Loads one split."""
    signature = loading.load_task(batch.rows[0].cell.dataset, batch.rows[0].replicate.split).signature
    model = catalog.build_model([row.cell.at(0).model for row in batch.rows], signature)
    method = catalog.build_method([row.cell.at(0).method for row in batch.rows])
    return model.unsupported() or method.unsupported(model) or ""


def seeds_of(batch: Batch) -> list[int]:
    """Return the seed of each row."""
    return [row.replicate.seed for row in batch.rows]


def build(batch: Batch) -> Built:
    """Build the data, model and method of a batch on its device, and set torch's number of threads to its cells'.

    Until replicates have chosen their options, each row has the first point of the grid.
    """
    cell = batch.rows[0].cell
    torch.set_num_threads(cell.threads)
    keep_freed_memory()
    problem = data_of(batch)
    if share := cell.dataset.get("calibration", 0.0):
        rest, held = hold_out(problem, seeds_of(batch), share, "calibration")
        problem = replace(rest, calibration=held)
    scores = asked_scores(cell.dataset.get("ood_scores", "none"), cell.dataset.name)
    problem = replace(problem, ood_scores=scores, joint=cell.dataset.get("joint", 0))
    if batch.points and cell.tuning and not cell.tuning.refit:
        problem = hold_out(problem, seeds_of(batch), cell.tuning.validation).problem
    points = batch.points or [0] * len(batch.rows)
    return assembled(problem, [row.cell.at(point) for row, point in zip(batch.rows, points, strict=True)])


def data_of(batch: Batch) -> Problem:
    """Return the data of a batch as the data set has them, on its device."""
    cell = batch.rows[0].cell
    splits = sorted({row.replicate.split for row in batch.rows})
    stacked = task.stack(
        [loading.load_task(cell.dataset, split) for split in splits],
        [splits.index(row.replicate.split) for row in batch.rows],
    )
    return task.to_device(stacked, torch.device(cell.device))


NOT_FINITE = "parameters or predictions are not finite"
UNDECIDED = "it has chosen nothing: no point of the grid has a finite log-likelihood of its validation rows"
"""Why a row fails."""


@dataclass(frozen=True)
class _Result:
    """All rows of a batch, scored; `broken` says why a row has failed, "" where it has not."""

    values: Values
    unscored: dict[str, str]
    arrays: dict[str, Tensor]
    broken: list[str]
    cost: dict[str, float]
    state: Mapping[str, Tensor]
    measured: Mapping[str, Tensor]
    examples: TestedExamples

    def after(self, choices: Choices) -> _Result:
        """Return the result with what its rows chose."""
        return replace(
            self,
            values=replace(self.values, facts={**self.values.facts, **choices.facts}),
            broken=[UNDECIDED if none else one for none, one in zip(choices.undecided, self.broken, strict=True)],
            cost={**self.cost, SELECTION_SECONDS: choices.seconds},
        )


def _result(batch: Batch, built: Built, settings: Settings, spent: Session, choosing: Session) -> _Result:
    """Choose options where the rows of the batch do, then train and score, with curves where they are asked for."""
    cell, choices = batch.rows[0].cell, None
    if cell.tuning:
        choosing.depends = spent.depends
        choices = choose([row.cell for row in batch.rows], cell.tuning, seeds_of(batch), built.problem, choosing)
        built = build(replace(batch, points=choices.points))
    if settings.curves is not None:
        spent.depends = {**spent.depends, "the curves": str(settings.curves)}
        streams = Streams.of_seeds(seeds_of(batch))
        spent.watch = curves.watch(settings.curves, streams, built.problem, built.model, spent.note)
    if isinstance(built.model, HasRemark) and (line := built.model.remark()):
        spent.note(line)
    result = _fit_and_score(batch, built, spent, torch.device(cell.device))
    if settings.curves is not None:
        result = replace(result, values=replace(result.values, curves=curves.measured(settings.curves, spent)))
    if cell.tuning or cell.dataset.get("calibration"):  # rows held out change the scale, not the test examples
        result = replace(result, examples=replace(result.examples, test_sha256=_examples(data_of(batch)).test_sha256))
    return result.after(choices) if choices else result


def _fit_and_score(batch: Batch, built: Built, spent: Session, device: torch.device) -> _Result:
    """Train all rows of a batch, predict, and score; measured times and memory are of training and prediction only."""
    problem, model, method = built
    rng = Streams.of_seeds(seeds_of(batch))
    watch = Stopwatch(device)
    given = [problem.train.x, problem.train.y, problem.test.x, problem.test.y]
    versions = [version(value) for value in given]
    spent.started = now()  # what came before, such as a choice of options, is no part of the fit that is resumed
    with session(spent):
        posterior = method.fit(model, problem.train, rng)
    if [version(value) for value in given] != versions:
        loading.forget()  # other cells would train on the changed data
        raise BenchError(f"it changes the data that it is given: clone them ({Path(foreign.place(None, method)).name})")
    refuse_broken(posterior, method, batch.rows[0].cell.method.name, len(batch.rows))
    train_seconds = spent.seconds_before + watch.seconds() - spent.keeping - spent.watching
    watch = Stopwatch(device)
    evaluation = scoring.evaluate(posterior, problem, model, batch.rows[0].cell.samples, rng, spent.predicting)
    predict_seconds = watch.seconds()
    for line in scoring.lacking(problem, evaluation):
        spent.note(line)
    if posterior.bound is not None:
        bound = posterior.bound.double()  # a target y has the density p(y / y_sd) / y_sd
        jacobian = _trained_on(spent, problem) * problem.y_sd.log().to(bound.device)
        evaluation = replace(evaluation, elbo=bound - jacobian)
    if isinstance(model, Conjugate):
        exact = model.exact(problem.train)
        predictive = exact.predict(problem.test.x, 1, rng.child("predict exactly"))
        reference = Reference(exact, predictive.in_units(problem.y_mean, problem.y_sd))
        evaluation = replace(evaluation, bound=posterior.bound, moments=posterior.moments(), reference=reference)
    arrays = scoring.stored_arrays(evaluation)
    metrics, unscored = scoring.scored(evaluation, catalog.metrics())
    # before the audit in `objectives`, whose memory is not part of the cell's cost
    cost = _cost(batch, problem, evaluation, spent, train_seconds, predict_seconds, device)
    return _Result(
        values=Values(
            metrics,
            parameters_sha256=tuple(scoring.row_hashes(posterior.state)),
            samples=(evaluation.test.samples,) * len(batch.rows),
            elbo_nats=() if posterior.bound is None else tuple(posterior.bound.double().tolist()),
            facts={name: tuple(value.double().tolist()) for name, value in posterior.facts.items()}
            | _best_epochs(spent, len(batch.rows)),
            first_steps=scoring.first_steps(spent.fits, len(batch.rows)),
            objective=scoring.objectives(spent.fits, len(batch.rows)),
        ),
        unscored=unscored,
        arrays=arrays,
        broken=_broken_rows({**posterior.state, "log_prob": evaluation.test.log_prob(evaluation.y)}),
        cost=cost,
        state=posterior.state,
        measured=posterior.measured(problem.test.x, rng.child("measured")),
        examples=replace(_examples(problem), train=_trained_on(spent, problem)),
    )


def _trained_on(spent: Session, problem: Problem) -> int:
    """Return how many examples of a row were trained on: all but those that a recipe holds out."""
    held_out = bool(spent.fits) and spent.fits[-1].plan.validation is not None
    return spent.fits[-1].data.num_data if held_out else problem.train.num_data


def _best_epochs(spent: Session, rows: int) -> dict[str, tuple[float, ...]]:
    """Return for the record which epoch validation rows chose for each replicate, and their mean log-likelihood.

    Of an ensemble it is the mean over its members.
    """
    state = spent.fits[-1].state if spent.fits else None
    if state is None or not state.best:
        return {}
    named = {"best_epoch": state.best["epoch"], "best_epoch_log_likelihood": state.best["score"]}
    return {name: tuple(value.double().reshape(rows, -1).mean(1).tolist()) for name, value in named.items()}


def refuse_broken(posterior: Posterior, method: Method, name: str, rows: int) -> None:
    """Refuse a plugin's result of `fit` that is not a posterior of this many replicates (rows: R).

    Raises BadInput with the file and line of the method.
    """
    with foreign.calling(f"method {name}", method):
        for word in ("state", "bound", "facts", "predict"):
            if not hasattr(posterior, word):
                what = f"fit returned a {type(posterior).__name__} without {word}"
                raise foreign.Broken(f"{what}: return a Posterior, see bdlbench/protocols.py")
        if not posterior.state:
            raise foreign.Broken("the posterior's state is empty: all that was learnt belongs there, {name: (R, …)}")
        found: dict[str, Any] = {f"state[{key!r}]": value for key, value in posterior.state.items()}
        found |= {f"facts[{key!r}]": value for key, value in posterior.facts.items()}
        for key, value in (found if posterior.bound is None else {**found, "bound": posterior.bound}).items():
            exact = not key.startswith("state")
            if not isinstance(value, Tensor) or value.shape[:1] != (rows,) or (exact and value.ndim != 1):
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                wanted = f"({rows},)" if exact else f"({rows}, …)"
                raise foreign.Broken(f"the posterior's {key} is {shape}, not {wanted} for {rows} replicates")


def _broken_rows(state: Mapping[str, Tensor]) -> list[str]:
    """Say of each row why it has failed, or ""."""
    rows = [torch.isfinite(value).reshape(len(value), -1).all(1) for value in state.values()]
    return ["" if ok else NOT_FINITE for ok in torch.stack(rows).all(0)]


def _cost(
    batch: Batch,
    problem: Problem,
    evaluation: Evaluation,
    spent: Session,
    train_seconds: float,
    predict_seconds: float,
    device: torch.device,
) -> dict[str, float]:
    """Return the cost of the whole batch: seconds, throughputs, memory. It is never divided by seeds."""
    rows, peak = len(batch.rows), peak_memory_bytes(device)
    others = [*problem.ood.values(), *(shift.x for shift in problem.shifts.values())]
    others += [] if problem.calibration is None else [problem.calibration.x]
    predicted = problem.test.num_data + sum(x.shape[1] for x in others)
    found = {
        "rows": float(rows),
        "train_seconds": train_seconds,
        "predict_seconds": predict_seconds,
        "predict_sample_examples_per_second": evaluation.test.samples * predicted * rows / predict_seconds,
    }
    if spent.examples:  # a closed form makes no passes, so it has no rate
        found["train_examples_per_second"] = spent.examples / train_seconds
        found["train_replicate_examples_per_second"] = spent.examples * rows / train_seconds
    return found if peak is None else found | {"peak_memory_bytes": float(peak)}


def _write_cell(batch: Batch, cell: Cell, result: _Result, settings: Settings) -> Record:
    """Write the record of one cell: its rows of the batch, with broken rows as failures."""
    mine = [i for i, row in enumerate(batch.rows) if row.cell == cell]
    good = [i for i in mine if not result.broken[i]]
    unscored = {f"metrics {name}" for name in result.unscored}  # they do not outdate the record
    code = {name: sha256 for name, sha256 in settings.code_of(cell).items() if name not in unscored}
    record = Record(
        cell=cell,
        replicates=tuple(batch.rows[i].replicate for i in good),
        values=result.values.take(good),
        cost=result.cost | {name: float(value[mine].mean()) for name, value in result.measured.items()},
        environment=Environment(
            **environment.describe(cell.device, cell.threads),
            **loading.data_facts(cell.dataset, {batch.rows[i].replicate.split for i in mine}),
            code=code,
            selection=settings.selection,
            search=settings.searches.get(cell.key, ""),
            examples=result.examples,
        ),
        failed={batch.rows[i].replicate: result.broken[i] for i in mine if i not in good},
        unscored=result.unscored if good else {},
    )
    rows = torch.tensor(good, dtype=torch.int64)
    arrays = {name: value.index_select(row_axis(name), rows) for name, value in result.arrays.items()}
    if settings.keep_parameters and good:  # before the record, whose existence means that all files exist
        state = {name: value.detach().cpu()[rows] for name, value in result.state.items()}
        records.write_parameters(settings.results, record, state)
    return records.read_one(records.write(settings.results, record, arrays if good else {}))


def write_failures(batch: Batch, settings: Settings, reason: str) -> Outcome:
    """Write a record of failures for each cell of a batch that has no values yet, and report what cannot be written."""
    failures: list[Record] = []
    for cell in batch.cells:
        failed = {row.replicate: reason for row in batch.rows if row.cell == cell}
        where = Environment(**environment.describe(cell.device, cell.threads), code=settings.code_of(cell))
        record = Record(cell, (), Values(), {}, where, failed)
        path = settings.results / f"{record.name}.json"
        try:
            if path.exists() and records.read_one(path).replicates:
                continue  # values of the same replicates survive a failure now
        except BadInput as error:  # so does what cannot be read
            return Outcome(failures, unwritten=f"{cell.title}: {reason}; {error}")
        try:
            records.write(settings.results, record, {})
        except OSError as error:
            said = f"{cell.title}: {reason}; {path} cannot be written: {error.strerror}"
            return Outcome(failures, unwritten=said, refused=refusal(error, settings.results))
        failures.append(record)
    return Outcome(failures)


def _examples(problem: Problem) -> TestedExamples:
    """Count examples and hash the test inputs: a comparison must know whether replicates share their test examples."""
    test = problem.test.x[:1] if task.shared(problem.test.x) else problem.test.x
    hashes = {files.sha256(row.cpu().contiguous().numpy().tobytes()) for row in test}
    return TestedExamples(problem.train.num_data, problem.test.num_data, tuple(sorted(hashes)))
