"""`check`: test entries against the catalog's contracts, on small problems, in seconds."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from bdlbench import catalog
from bdlbench.core import torch_state
from bdlbench.core.errors import BadInput, BenchError, unknown
from bdlbench.core.foreign import place, told, written
from bdlbench.core.options import per_row_names
from bdlbench.data.task import Data, Signature
from bdlbench.entries import Kind, word_of
from bdlbench.gate import contracts
from bdlbench.gate.contracts import SEEDS, EntrySettings, streams
from bdlbench.protocols import Method, Model, Posterior
from bdlbench.records import evaluation
from bdlbench.records.contents import MetricValues
from bdlbench.runs import batch, lint, scoring


@dataclass(frozen=True)
class EntryCheck:
    """One result for an entry: contracts that hold, a fault, or a note that nothing was checked.

    Attributes:
        entry: The entry's kind and name.
        where: The file and line of the responsible code.
        verdict: Whether contracts hold, one is broken, or none was checked.
        words: The contracts, or the fault.
    """

    entry: str
    where: str
    verdict: Literal["holds", "fault", "unchecked"]
    words: str


class _Question(NamedTuple):
    """A contract.

    Attributes:
        what: Its name.
        answers: The responsible code.
        ask: ask() yields a description of each fault.
    """

    what: str
    answers: Any
    ask: Callable[[], Iterable[str]]


def chosen(names: Sequence[str], plugins: Sequence[Path]) -> list[tuple[Kind, str]]:
    """List the entries to check: those with these names, or else all entries of the plugins.

    Raises BadInput for a name that no entry has, and if neither names nor plugins are given.
    """
    here = [(kind, name) for kind in catalog.KINDS for name in catalog.names(kind)]
    if strange := [name for name in names if name not in {known for _, known in here}]:
        raise unknown("entry", strange[0], {name for _, name in here})
    if names:
        return [(kind, name) for kind, name in here if name in names]
    if not plugins:
        raise BadInput("nothing to check: name a file by --plugin, or an entry")
    return [(kind, name) for kind, name in here if any(catalog.is_of(kind, name, path) for path in plugins)]


def check(kind: Kind, name: str) -> Iterator[EntryCheck]:
    """Check an entry against all contracts of its kind; yield faults, contracts that hold, and what was not checked."""
    entry, title = catalog.load(kind, name), f"{word_of(kind)} {name}"
    try:
        questions = _QUESTIONS[kind](name)
    except (Exception, SystemExit) as error:  # the entry cannot even be built
        yield EntryCheck(title, _place(error, entry), "fault", _said(error))
        return
    if not questions:
        yield EntryCheck(title, written(entry), "unchecked", "no small problem suits it: nothing was asked")
    held, heard = [], set()
    for question in [_Question("its docstring", entry, partial(_described, kind, name)), *questions]:
        during = ""
        with torch_state.kept():
            try:
                found = [(written(question.answers), words) for words in question.ask()]
            except (Exception, SystemExit) as error:
                found = [(_place(error, question.answers), _said(error))]
                during = f"{question.what}: "
        held += [question.what] if not found else []
        yield from (EntryCheck(title, where, "fault", during + words) for where, words in found if words not in heard)
        heard |= {words for _, words in found}  # a fault that breaks several contracts is reported once
    if questions and held:
        yield EntryCheck(title, written(entry), "holds", ", ".join(held))


def _described(kind: Kind, name: str) -> list[str]:
    entry, line = catalog.load(kind, name), catalog.summary(kind, name)
    made = not entry.__doc__ or line.startswith(f"{getattr(entry, '__name__', '')}(")  # by @dataclass, from its fields
    return ["it does not say in one line what it is: give its class a docstring"] if kind != "metrics" and made else []


def _place(error: BaseException, entry: Any) -> str:
    while isinstance(error, BadInput) and error.__cause__ is not None:
        error = error.__cause__
    return place(error, entry)


def _said(error: BaseException) -> str:
    while isinstance(error, BadInput) and error.__cause__ is not None:  # its place is reported separately
        error = error.__cause__
    return str(error) if isinstance(error, BenchError) else told(error)


# Methods


@dataclass(frozen=True)
class _Trial:
    """A method on a small problem: three rows that share their data, five rows with their own data, and test inputs."""

    name: str
    method: Method
    model: Model
    settings: EntrySettings
    few: Data
    rows: Data
    x: Tensor

    @cached_property
    def learnt(self) -> Posterior:
        """The posterior of the three rows."""
        return self.fit()

    def fit(self) -> Posterior:
        """Train the three rows anew."""
        return self.method.fit(self.model, self.few, streams(SEEDS[:3]))


def _of_method(name: str) -> list[_Question]:
    entry, found = catalog.load("methods", name), _small_problem(name)
    if found is None:
        return []
    model, settings = found
    fit = getattr(entry, "made_by", entry.fit)
    few, rows = contracts.data_for(model.signature, 3), contracts.data_for(model.signature, len(SEEDS), own=True)
    x = contracts.data_for(model.signature, len(SEEDS), 29, seed=6, own=True).x
    trial = _Trial(name, contracts.method_of(name, settings), model, settings, few, rows, x)
    questions = [
        _Question("shapes", fit, partial(_shapes, trial)),
        _Question("the same again", fit, partial(_again, trial)),
        _Question("rows alone and together", fit, partial(_apart, trial)),
        _Question("options as rows", fit, partial(_sweeps, trial)),
    ]
    if not getattr(entry, "row_by_row", False):  # code from outside draws as it likes, and is not interrupted
        questions.append(_Question("a joint sample is one network", fit, partial(_jointly, trial)))
        questions.append(_Question("interrupted = uninterrupted", fit, partial(_resumes, trial)))
    if hasattr(entry, "restored"):
        questions.append(_Question("restored = learnt", entry.restored, partial(_restores, trial)))
    if contracts.rates(entry):
        limit = partial(contracts.without_dropping, name, model, few, settings)
        questions.append(_Question("without dropping it is one network", fit, limit))
    return questions


def _shapes(trial: _Trial) -> list[str]:
    """Find faults in the shape of a posterior, or of its predictions."""
    batch.refuse_broken(trial.learnt, trial.method, trial.name, trial.few.rows)
    found = contracts.predict(trial.learnt, trial.few.x, SEEDS[:3], 12)
    shape = (trial.few.rows, trial.few.num_data)
    numbers = {**found.scores, "log_prob": found.log_prob(trial.few.y)}
    wrong = [f"{name} is {tuple(v.shape)}, not (R, N) = {shape}" for name, v in numbers.items() if v.shape != shape]
    wrong += [f"{name} is not finite" for name, v in numbers.items() if not v.isfinite().all()]
    probs = found.arrays().get("probs")
    if probs is not None and not ((probs.sum(-1) - 1).abs() < 1e-4).all():
        wrong.append("the probabilities of the classes do not add up to 1")
    return [f"predictions: {words}" for words in wrong]


def _again(trial: _Trial) -> Iterator[str]:
    why = "draw from rng, not from generators of the process"
    if differ := contracts.twice(lambda: dict(trial.fit().state)):
        yield f"the same seeds give a different {differ[0]} in each fit: {why}"
    if differ := contracts.twice(lambda: contracts.tensors(contracts.predict(trial.learnt, trial.few.x, SEEDS[:3]))):
        yield f"the same seeds give a different {differ[0]} in each prediction: {why}"


def _apart(trial: _Trial) -> Iterator[str]:
    if differ := contracts.alone_and_together(trial.model, trial.method, trial.rows, trial.x):
        yield f"a row has a different {differ[0]} alone and among {len(SEEDS)}: rows are mixed, or share their noise"


def _jointly(trial: _Trial) -> Iterator[str]:
    why = "with joint, draw once for each leaf, for all examples, and keep it"
    if differ := contracts.joint_of_one_network(trial.model, trial.learnt, trial.few.x, SEEDS[:3]):
        yield f"a joint sample has a different {differ[0]} for an example that occurs again: {why}"


def _sweeps(trial: _Trial) -> Iterator[str]:
    data, entry = partial(contracts.data_for, trial.model.signature), catalog.load("methods", trial.name)
    for option in sorted(per_row_names(entry)):
        if differ := contracts.swept(trial.name, trial.name, option, trial.model, data, trial.settings, near=True):
            yield f"rows of one batch have a different {differ[0]} than alone: {option} is not used row by row"


def _resumes(trial: _Trial) -> Iterator[str]:
    steps = contracts.steps_of(trial.fit)
    stops = {steps // 3 + 1, 2 * steps // 3 + 1, steps - 1} & set(range(1, steps))
    with tempfile.TemporaryDirectory(prefix="bdlbench-") as folder:
        checkpoint = Path(folder) / "fit"
        differ, _ = contracts.resumed(trial.method, trial.model, trial.few, trial.few.x, checkpoint, stops)
    if differ:
        why = "gather state by Collect, so that checkpoints hold it, or compute it anew"
        yield f"an interrupted and resumed fit has a different {differ[0]}: {why}"


def _restores(trial: _Trial) -> Iterator[str]:
    if differ := contracts.restored(trial.method, trial.model, trial.learnt, trial.few.x, SEEDS[:3]):
        yield f"restored from its state, it predicts a different {differ[0]}"


def _small_problem(name: str) -> tuple[Model, EntrySettings] | None:
    """Find a model that a method supports, and options that make its training quick.

    Some methods need more epochs than the quickest options have, to collect states. If no quick options work, the
    defaults are used.
    """
    order = dict.fromkeys(["mlp", "logistic", *catalog.names("models")])
    own = _signatures("methods", name)
    few = [contracts.quick(epochs=4), contracts.quick(epochs=16, batch_size=53), contracts.quick(64, batch_size=53)]
    for settings in (*few, contracts.quick() | {name: {}}):
        method = contracts.method_of(name, settings)
        for model in (m for known in order for m in contracts.models_of(known, {"mlp": {"widths": "17"}}, others=own)):
            if method.unsupported(model) is None:
                return model, settings
    return None


def _signatures(kind: Kind, name: str) -> list[Signature]:
    """Return the signatures of data sets in the same plugin file: the entry may be written for them alone."""
    beside = [
        dataset
        for dataset in catalog.names("datasets")
        if any(catalog.is_of(kind, name, path) for path in catalog.plugin_files([dataset]))
    ]
    return [catalog.load_task(catalog.choice("datasets", dataset, {}), 0).signature for dataset in beside]


# Models


def _of_model(name: str) -> list[_Question]:
    entry = catalog.load("models", name)
    model = next(contracts.models_of(name, others=_signatures("models", name)), None)
    if model is None:
        return []
    few, rows = contracts.data_for(model.signature, 2), contracts.data_for(model.signature, 3, 40, own=True)
    settings, forward = contracts.quick(), entry.__call__
    x = contracts.data_for(model.signature, 3, 19, seed=6, own=True).x

    def trained() -> Iterator[str]:
        for name in ("mc_dropout", "mean_field_vi", "map"):
            method: Method = contracts.method_of(name, settings)
            if method.unsupported(model) is None:
                if differ := contracts.alone_and_together(model, method, rows, x, r=1):
                    yield f"under {name} a row has a different {differ[0]} alone and among 3: the model mixes rows"
                return

    def leaves() -> Iterator[str]:
        for leaf in model.leaves():
            if not evaluation.KEY.fullmatch(leaf) or not leaf:
                yield f"the leaf {leaf!r} cannot name a column: use letters, digits, _ and . only"

    return [
        _Question("names of leaves", entry.leaves, leaves),
        _Question("every weight meets the method's rule", forward, lambda: contracts.meets_rule(model, few)),
        _Question("masks matter", forward, lambda: contracts.equals_its_point(model, few, settings)),
        _Question("rows alone and together", forward, trained),
    ]


# Data sets and metrics


def _of_dataset(name: str) -> list[_Question]:
    entry, choice = catalog.load("datasets", name), catalog.choice("datasets", name, {})

    def loads() -> Iterator[str]:
        for split in (0, 1):
            yield from contracts.loads_the_same(partial(catalog.load_task, choice), split)

    def protocol() -> Iterator[str]:
        for finding in lint.of_task(name, catalog.load_task(choice, 0)):
            if finding.severity == "refused":
                yield finding.message

    return [
        _Question("splits 0 and 1 are the same each time", entry.load, loads),
        _Question("no statistics of test data", entry.load, protocol),
    ]


def _of_metric(name: str) -> list[_Question]:
    metric = catalog.load("metrics", name)
    given = contracts.evaluations()
    answers = type(metric).__call__ if inspect.isfunction(type(metric).__call__) else metric

    @cache
    def columns() -> dict[str, MetricValues]:
        return {key: entry for one in given.values() for key, entry in scoring.measure(one, {name: metric}).items()}

    def measured() -> list[str]:
        columns()
        return []

    questions = [_Question("shape, keys and type of its values", answers, measured)]
    for target, one in given.items():
        what = f"rows, stored predictions and examples ({target})"
        questions.append(_Question(what, answers, partial(contracts.scored, metric, one)))
    return questions


_QUESTIONS: dict[Kind, Callable[[str], list[_Question]]] = {
    "methods": _of_method,
    "models": _of_model,
    "datasets": _of_dataset,
    "metrics": _of_metric,
}
