"""Contracts of the catalog's entries, tested on small problems: `check` tests a plugin's, the tests every entry's.

A contract returns a description of each fault; nothing if it holds. Sizes are odd on purpose: no multiple of a
vector's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import torch_state
from bdlbench.core.layout import Layout, LinearOp
from bdlbench.core.options import fields, is_open
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples, Signature, Task, stack
from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import initial_network
from bdlbench.posteriors.weights import EXAMPLES_OF_ONE_NETWORK, WeightPosterior
from bdlbench.predictives.mixtures import Predictive
from bdlbench.protocols import (
    TEST,
    Evaluation,
    MeanOverExamples,
    Method,
    Metric,
    Model,
    Posterior,
    Restores,
    WithoutBlocks,
)
from bdlbench.records import evaluation
from bdlbench.records.arrays import row_axis
from bdlbench.records.contents import Environment, Values
from bdlbench.records.record import Record
from bdlbench.runs import scoring
from bdlbench.training.loop import Session, session

SEEDS = (3, 1, 4, 15, 9)
ROW = 3
"""The row that is also trained alone."""

CONTRACT_SHAPES = ((1, 5, 7), (1, 8, 8), (1, 16, 16), (1, 28, 28))
CONTRACT_TARGETS = ((3, "categorical"), (2, "categorical"), (1, "gaussian"), (3, "bernoulli"))
EntrySettings = Mapping[str, Mapping[str, Any]]
"""{entry: {option: value}}"""


# Small problems


def classes(
    rows: int,
    num: int = 53,
    shape: Sequence[int] = (1, 5, 7),
    classes: int = 3,
    *,
    own: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Data:
    """Make training data (R, N, *shape) of classes; with `own` each row has its own, else all rows share one memory."""
    rng = torch.Generator().manual_seed(seed)
    count = rows if own else 1
    x = torch.rand(count, num, *shape, generator=rng, dtype=dtype)
    y = torch.randint(classes, (count, num), generator=rng)
    return Data(x, y) if own else Data(x.expand(rows, *x.shape[1:]), y.expand(rows, num))


def data_for(signature: Signature, rows: int, num: int = 53, **options: Any) -> Data:
    """Make training data for a signature, as `classes` does; targets are real if the likelihood is Gaussian."""
    data = classes(rows, num, signature.input_shape, max(2, signature.outputs), **options)
    return Data(data.x, data.y.to(data.x.dtype)) if signature.likelihood == "gaussian" else data


def row(data: Data, r: int) -> Data:
    """Copy row r of data, as it would be in memory alone."""
    return Data(data.x[r : r + 1].clone(), data.y[r : r + 1].clone())


def quick(epochs: int = 2, batch_size: int = 13) -> dict[str, dict[str, Any]]:
    """Return options that make every method of the catalog quick."""
    given: dict[str, float] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "members": 2,
        "start": 11,
        "step": 5,
        "rounds": 2,
        "chunks": 3,
    }
    given |= {"chains": 2, "warmup_draws": 3 * epochs, "draws": 2 * epochs, "most_steps": 5}
    given |= {"initial_hessian": 100.0}  # so that ivon's first draws stay near their mean
    return {
        name: {key: value for key, value in given.items() if key in fields(catalog.load("methods", name))}
        for name in catalog.names("methods")
    }


def own_methods() -> list[str]:
    """List the methods that train by this package's loop, or in closed form: only of these is the objective known."""
    return [name for name in catalog.names("methods") if not catalog.is_row_by_row(catalog.choice("methods", name, {}))]


def method_of(name: str, settings: EntrySettings, rows: Sequence[EntrySettings] = ({},)) -> Method:
    """Build the method whose row r has the options rows[r] over `settings`."""
    chosen = [
        catalog.choice("methods", name, {e: {**settings.get(e, {}), **over.get(e, {})} for e in {**settings, **over}})
        for over in rows
    ]
    return catalog.build_method(chosen)


def models_of(
    name: str,
    settings: EntrySettings = {},  # noqa: B006
    rows: Sequence[Mapping[str, Any]] = ({},),
    others: Iterable[Signature] = (),
) -> Iterator[Model]:
    """Build a model for each small signature that it supports, and for each of `others`."""
    small = [Signature(shape, *target) for target in CONTRACT_TARGETS for shape in CONTRACT_SHAPES]  # type: ignore[arg-type]
    for signature in (*small, *others):
        chosen = [catalog.choice("models", name, {name: {**settings.get(name, {}), **over}}) for over in rows]
        model = catalog.build_model(chosen, signature)
        if model.unsupported() is None:
            yield model


def is_dense(model: Model) -> bool:
    """Return whether all linear maps of a model are matrices."""
    return all(len(leaf.shape) <= 2 for leaf in model.leaves().values())


def streams(seeds: Sequence[int] = SEEDS) -> Streams:
    """Make the streams of rows with these seeds."""
    return Streams.of_seeds(seeds)


def predict(
    posterior: Posterior, x: Tensor, seeds: Sequence[int] = SEEDS, samples: int = 7, joint: bool = False
) -> Predictive:
    """Predict as a run does."""
    return posterior.predict(x, samples, streams(seeds).child("predict test"), joint)


# Comparing


def tensors(predictive: Predictive) -> dict[str, Tensor]:
    """Return all tensors of a predictive, by name."""
    facts = {f"fact {name}": value for name, value in predictive.facts.items()}
    return {**predictive.arrays(), **predictive.scores, **facts}


def everything(posterior: Posterior, predictive: Predictive, y: Tensor) -> dict[str, Tensor]:
    """Return all numbers of a fit that are (R, …), by name."""
    found = {**posterior.state, **posterior.facts, **tensors(predictive), "log_prob": predictive.log_prob(y)}
    found["group_log_prob"] = predictive.group_log_prob(y).transpose(0, 1)
    return found if posterior.bound is None else {**found, "bound": posterior.bound}


def row_of(tensors: Mapping[str, Tensor], r: int) -> dict[str, Tensor]:
    """Take row r of each tensor, as a row."""
    return {name: value[r : r + 1] for name, value in tensors.items()}


def differences(left: Mapping[str, Tensor], right: Mapping[str, Tensor], near: bool = False) -> list[str]:
    """Name the tensors that differ in any bit, or beyond `near`, and those that only one side has."""
    shared = [name for name in left if name in right]
    apart = [name for name in shared if not (_near if near else torch.equal)(left[name], right[name])]
    return [*apart, *sorted(left.keys() ^ right.keys())]


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)


# Methods


def alone_and_together(
    model: Model, method: Method, data: Data, x: Tensor, *, single: Method | None = None, r: int = ROW
) -> list[str]:
    """Name the numbers of row r that differ when it is trained alone and among the rows of `data`.

    The row alone is trained by `single`, if it is given, else by `method`.
    """
    y = data_for(model.signature, data.rows, x.shape[1], seed=5).y
    seeds, near = SEEDS[: data.rows], not is_dense(model)
    posterior = method.fit(model, data, streams(seeds))
    together = everything(posterior, predict(posterior, x, seeds), y)
    seeds, x, y = seeds[r : r + 1], x[r : r + 1].clone(), y[r : r + 1].clone()
    posterior = (method if single is None else single).fit(model, row(data, r), streams(seeds))
    alone = everything(posterior, predict(posterior, x, seeds), y)
    return differences(row_of(together, r), alone, near)


class _Stopped(BaseException):  # an author's `except Exception` does not catch it
    """A fit was stopped on purpose."""


def steps_of(fit: Callable[[], Posterior]) -> int:
    """Count the steps that a fit reports; 0 if it trains by its own loop, which cannot be interrupted."""
    seen = [0]
    with session(Session(listen=lambda done, total: seen.append(done))):
        fit()
    return seen[-1]


def resumed(
    method: Method, model: Model, data: Data, x: Tensor, checkpoint: Path, stops: Iterable[int]
) -> tuple[list[str], Session]:
    """Name the differences after a fit was stopped at each of `stops` and resumed; return also the last session.

    Checkpoints are written at every step beside `checkpoint`, a path without ending.
    """
    seeds = SEEDS[: data.rows]

    def fit() -> Posterior:
        return method.fit(model, data, streams(seeds))

    def stop_at(stop: int) -> Callable[[int, int], None]:
        def listen(done: int, total: int) -> None:
            if done == stop:
                raise _Stopped

        return listen

    whole = fit()
    for stop in sorted(stops):
        try:
            with session(Session(checkpoint, 0.0, stop_at(stop))):
                fit()
        except _Stopped:
            continue
    with session(Session(checkpoint, 0.0)) as current:
        again = fit()
    left, right = ({**one.state, **tensors(predict(one, x, seeds))} for one in (whole, again))
    return differences(left, right), current


def some_values(entry: type, option: str) -> list[float]:
    """List the default of an option, half of it, and the lower end if that is 0 and allowed."""
    chosen = fields(entry)[option]
    ends = [] if is_open(chosen, "low") or chosen.metadata["low"] != 0 else [0.0]
    default: Any = chosen.default
    return [default, default / 2, *ends]


def swept(
    name: str,
    entry: str,
    option: str,
    model: Model,
    data: Callable[[int], Data],
    settings: EntrySettings,
    near: bool = False,
) -> list[str]:
    """Name the differences of a method between values of an option as rows of one batch, and each value alone.

    Args:
        name: The method.
        entry: The method that has the option: `name`, or one that it builds on.
        option: The option.
        model: The model.
        data: data(R) returns training data.
        settings: Options of both.
        near: Whether rounding differences are allowed, as between a number and a tensor; dense models must otherwise
            agree in every bit.

    Returns:
        A description of each difference.
    """
    values = some_values(catalog.load("methods", entry), option)
    rows: list[EntrySettings] = [{entry: {option: value}} for value in values]
    seeds = [7] * len(values)

    def learnt(rows: Sequence[EntrySettings], data: Data) -> dict[str, Tensor]:
        posterior = method_of(name, settings, rows).fit(model, data, streams(seeds[: len(rows)]))
        x = data_for(model.signature, len(rows), 19, seed=77).x
        return {**posterior.state, **tensors(predict(posterior, x, seeds[: len(rows)]))}

    together, near = learnt(rows, data(len(values))), near or not is_dense(model)
    return [
        f"{name} at {option}={values[r]:g}"
        for r, one in enumerate(rows)
        for name in differences(row_of(together, r), learnt([one], row(data(len(values)), r)), near)
    ]


def joint_of_one_network(model: Model, posterior: Posterior, x: Tensor, seeds: Sequence[int]) -> list[str]:
    """Name the predictions of one joint sample that differ where an example occurs again, also in a later pass.

    A model of inputs draws latents of its own for each occurrence, so it is not asked.
    """
    if model.signature.likelihood not in ("categorical", "gaussian"):
        return []
    num, copies = x.shape[1], EXAMPLES_OF_ONE_NETWORK // x.shape[1] + 2  # the last copy lies in a second pass
    found = tensors(predict(posterior, torch.cat([x] * copies, 1), seeds, 1, joint=True))
    per_example = {name: value for name, value in found.items() if value.ndim > 1 and value.shape[1] == num * copies}
    parts = [{name: value[:, i * num :][:, :num] for name, value in per_example.items()} for i in range(copies)]
    return [name for again in (parts[1], parts[-1]) for name in differences(parts[0], again, near=True)]


def restored(method: Method, model: Model, posterior: Posterior, x: Tensor, seeds: Sequence[int]) -> list[str]:
    """Name the predictions that differ after a posterior is restored from its state; nothing if it cannot be."""
    state = {name: value.clone() for name, value in posterior.state.items()}
    again = method.restored(model, state) if isinstance(method, Restores) else None
    if again is None:
        return []
    return differences(tensors(predict(posterior, x, seeds)), tensors(predict(again, x, seeds)))


def point_of(model: Model, leaves: Mapping[str, Tensor]) -> WeightPosterior:
    """Make the posterior whose every draw is the network with these leaves."""

    def draw(noise: Streams, joint: bool) -> Point:
        return Point({name: value.expand(noise.lead[0], *value.shape) for name, value in leaves.items()})

    return WeightPosterior(model, leaves, draw)


def rates(entry: type) -> list[str]:
    """Name a method's options that are dropout rates and may be 0, at which the method becomes another one."""
    return [
        name
        for name, chosen in fields(entry).items()
        if name != "learning_rate"
        and ("rate" in name or "drop" in name or name == "p")
        and isinstance(chosen.default, float)
        and chosen.metadata["low"] == 0
        and chosen.metadata["high"] <= 1
        and not is_open(chosen, "low")
    ]


def without_dropping(name: str, model: Model, data: Data, settings: EntrySettings) -> list[str]:
    """Describe how a method with all its rates at 0 differs from the network without dropout.

    Its parameters are compared with those of `map`, or of `mle` if it has no prior, provided that it shares their
    options; its predictions are compared with those of its own network. Methods without a rate, or whose state is more
    than a network, are not compared.
    """
    entry, seeds = catalog.load("methods", name), SEEDS[: data.rows]
    data = replace(data, x=data.x.round())  # black and white, so that a draw of a binary image has one outcome
    zero = {**settings, name: {**settings.get(name, {}), **dict.fromkeys(rates(entry), 0.0)}}
    if not rates(entry):
        return []
    posterior = method_of(name, zero).fit(model, data, streams(seeds))
    if posterior.state.keys() != model.leaves().keys():
        return []
    found = []
    pair = [tensors(predict(one, data.x, seeds, 6)) for one in (posterior, point_of(model, posterior.state))]
    if differences(pair[0], pair[1], near=True):
        found.append(f"with {', '.join(rates(entry))} = 0 it predicts as if it still dropped")
    point = "map" if "prior_sd" in fields(entry) else "mle"
    options = dict(catalog.choice("methods", name, zero).options)
    shared = {key: options[key] for key in fields(catalog.load("methods", point)) if key in options}
    if {"epochs", "batch_size", "learning_rate"} <= shared.keys():
        other = method_of(point, {point: shared}).fit(model, data, streams(seeds))
        if apart := differences(dict(posterior.state), dict(other.state), near=True):
            found.append(f"with {', '.join(rates(entry))} = 0 it is not {point} with the same options: {apart[0]}")
    return found


# Models


@dataclass(frozen=True)
class Listening:
    """A layer rule that acts as a point and records the leaves that it is asked for.

    Attributes:
        point: The rule that it acts as.
        applied: Leaves that are applied in a linear map.
        taken: Leaves, including biases, that are taken directly.
    """

    point: Point
    applied: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` with the leaves."""
        self.applied.add(name)
        if bias:
            self.taken.add(bias)
        return self.point(name, op, x, bias)

    def leaf(self, name: str) -> Tensor:
        """Return the leaf itself."""
        self.taken.add(name)
        return self.point.leaf(name)


def meets_rule(model: Model, data: Data) -> list[str]:
    """Name the leaves of a model that bypass the method's rule, so that a method does not act on them."""
    layout, seeds = Layout(model.leaves()), SEEDS[: data.rows]
    flat = initial_network(model, data, streams(seeds)).detach().requires_grad_()
    rule = Listening(Point(layout.views(flat)))
    elbo = model(rule, data.x, streams(seeds).child("noise")).elbo(data.y)
    if tuple(elbo.shape) != (data.rows, data.num_data):
        return [f"elbo is {tuple(elbo.shape)}, not (R, B) = {(data.rows, data.num_data)}"]
    maps = {name for name, leaf in layout.leaves.items() if leaf.role in ("input", "weight")}
    found = [f"the leaf {name} is never used" for name in layout.leaves if name not in rule.applied | rule.taken]
    found += [
        f"the weight {name} is taken by layer.leaf, so no noise acts on it: call layer(name, op, x, bias)"
        for name in sorted(maps & rule.taken - rule.applied)
    ]
    if not layout.leaves or not elbo.requires_grad:
        return [*found, "what it returns does not depend on any leaf that a layer rule gave it"]
    (gradient,) = torch.autograd.grad(elbo.sum(), flat, allow_unused=True)
    still = [name for name, part in layout.views(gradient).items() if not part.any() and name in maps]
    return found + [f"what it returns does not depend on the weight {name}" for name in still]


def equals_its_point(model: Model, data: Data, settings: EntrySettings) -> list[str]:
    """Report a model that predicts the same with and without dropout: its weights never met the rule."""
    dropping, seeds = method_of("mc_dropout", settings), SEEDS[: data.rows]
    if dropping.unsupported(model):
        return []
    posterior = dropping.fit(model, data, streams(seeds))
    point = point_of(model, posterior.state)
    masked, plain = (predict(one, data.x, seeds, 6).group_log_prob(data.y) for one in (posterior, point))
    return ["mc_dropout predicts the same with and without masks"] if torch.allclose(masked, plain, rtol=1e-6) else []


def twice(make: Callable[[], Mapping[str, Tensor]]) -> list[str]:
    """Name the differences between two calls, with the process's random generators in different states."""
    with torch_state.stirred(1):
        first = {name: value.clone() for name, value in make().items()}
    with torch_state.stirred(2):
        return differences(first, make())


# Metrics


def evaluations() -> dict[str, Evaluation]:
    """Make predictions of three replicates for scoring: of classes and of a real target, each with an OOD set."""
    found = {}
    for likelihood, outputs in (("categorical", 3), ("gaussian", 1)):
        signature = Signature((1, 5, 7), outputs, likelihood)  # type: ignore[arg-type]
        parts = [data_for(signature, 1, num, seed=seed) for num, seed in ((53, 0), (61, 1), (47, 2))]
        train, test, far = (Examples(part.x[0], part.y[0]) for part in parts)
        problem = stack([Task(signature, train, test, {"far": 5 * far.x}, y_mean=2.0, y_sd=3.0)], [0, 0, 0])
        model = next(m for m in models_of("mlp", {"mlp": {"widths": "17"}}) if m.signature == signature)
        posterior = method_of("mc_dropout", quick()).fit(model, problem.train, streams(SEEDS[:3]))
        found[likelihood] = scoring.evaluate(posterior, problem, model, 12, streams(SEEDS[:3]))
    return found


def stored(evaluation: Evaluation) -> dict[str, Tensor]:
    """Return the arrays that a record would store of these predictions."""
    return scoring.stored_arrays(evaluation)


def read_again(arrays: Mapping[str, Tensor], samples: int, rows: Sequence[int]) -> Evaluation:
    """Read the predictions of some rows as a record stores them."""
    index = torch.tensor(rows)
    kept = {name: value.index_select(row_axis(name), index) for name, value in arrays.items()}
    values = Values(samples=(samples,) * len(rows))
    cell = Cell(Choice("any"), Choice("any"), Choice("any"), samples)
    again = evaluation.read(Record(cell, tuple(map(Replicate, rows)), values, {}, Environment()), kept)
    assert again is not None
    return again


def scored(metric: Metric, given: Evaluation) -> list[str]:
    """Describe how a metric breaks its contract on predictions: values of rows, of stored predictions, of examples.

    Raises what the metric raises.
    """
    asked = partial(evaluation.asked, metric)
    arrays = {name: value.clone() for name, value in stored(given).items()}
    whole = asked(given)
    found = [f"asked twice, it gives other values of {key!r}" for key in twice(lambda: asked(given))]
    if changed := differences(arrays, stored(given)):
        found.append(f"it changes the predictions that it is given: {changed[0]}")
    kept = read_again(arrays, given.test.samples, range(len(given.y)))
    again, single = asked(kept), asked(read_again(arrays, given.test.samples, [1]))
    found += [f"for stored predictions it gives another value of {k!r}" for k in _apart(whole, again)]
    alone = _apart(row_of(again, 1), single)
    found += [f"a replicate alone has another value of {key!r} than among others" for key in alone]
    by_example = metric.by_example(kept) if isinstance(metric, MeanOverExamples) else {}
    means = {key: value.double().mean(1) for key, value in by_example.items()}
    found += [f"the mean of by_example is not the value of {key!r}" for key in _apart(means, again)]
    evaluation.by_example(metric, kept)
    if isinstance(metric, WithoutBlocks):
        for population in (TEST, *kept.ood):
            block = torch.arange(evaluation.num_examples(kept, population)) % 5
            told = metric.without_blocks(kept, population, block)
            plain = evaluation.without_blocks(_Plain(metric), kept, population, block)
            shared = {key: value for key, value in plain.items() if key in told}
            found += [
                f"without_blocks of {population} differs from the metric of the other examples for {key!r}"
                for key in _apart(told, shared)
            ]
    return found


@dataclass(frozen=True)
class _Plain:
    """A metric without its faster methods."""

    metric: Metric
    summary: str = ""
    unit: str = ""
    better: Literal["higher", "lower"] = "lower"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Return the metric's values."""
        return self.metric(evaluation)


def _apart(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    """Return the keys of both whose values differ by more than float32 rounding."""
    shared = [key for key in left if key in right]
    return [
        key
        for key in shared
        if left[key].shape != right[key].shape
        or not torch.allclose(left[key].double(), right[key].double(), rtol=1e-4, atol=1e-6, equal_nan=True)
    ]


# Data sets


def examples_of(task: Task) -> dict[str, Tensor]:
    """Return all arrays of a task, by name."""
    parts = {"train": task.train, TEST: task.test, **({"validation": task.validation} if task.validation else {})}
    found = {f"{name}.{axis}": getattr(part, axis) for name, part in parts.items() for axis in ("x", "y")}
    shifts = {f"shifts[{name!r}].x": shift.x for name, shift in task.shifts.items()}
    shifts |= {f"shifts[{name!r}].y": shift.y for name, shift in task.shifts.items() if shift.y is not None}
    return found | {f"ood[{name!r}]": x for name, x in task.ood.items()} | shifts


def loads_the_same(load: Callable[[int], Task], split: int) -> list[str]:
    """Describe what differs when a split is loaded twice."""
    return [f"load({split}) gives another {name} each time" for name in twice(lambda: examples_of(load(split)))]
