"""From a posterior to what a record holds of it: predictions, metrics, fingerprints, and the audit of the objective."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import foreign, memory
from bdlbench.core.errors import BadInput, BenchError
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import version
from bdlbench.data.task import Problem
from bdlbench.posteriors import features
from bdlbench.posteriors.functions import function_log_probs
from bdlbench.predictives.mixtures import (
    Categorical,
    OfNumbers,
    Predicted,
    Predictive,
    log_at,
    with_probs,
    without_probs,
)
from bdlbench.protocols import TEST, Calibration, Evaluation, Metric, Model, Posterior, ShiftedTest, Truth
from bdlbench.records import evaluation as evaluations
from bdlbench.records.contents import FirstSteps, MetricValues, ObjectiveFactors
from bdlbench.runs import loading
from bdlbench.stats.ood_scores import OF_LOGITS
from bdlbench.training.audit import audit
from bdlbench.training.loop import Fit, Session, session


def evaluate(
    posterior: Posterior,
    problem: Problem,
    model: Model,
    samples: int,
    rng: Streams,
    predicting: Callable[[float], None] = lambda fraction: None,
) -> Evaluation:
    """Predict the test set, each other set and the calibration rows, all with their own random streams.

    As examples are predicted, predicting(fraction) is told how much of all sets is done.
    """
    held = problem.calibration
    inputs = [problem.test.x, *problem.ood.values(), *(shift.x for shift in problem.shifts.values())]
    inputs += [] if held is None else [held.x]
    inputs += [problem.train.x] if problem.ood_scores and problem.ood else []
    total = sum(x.shape[1] for x in inputs)
    before = 0.0

    def predict(name: str, x: Tensor, by: Posterior = posterior) -> Predictive:
        nonlocal before
        share, start = x.shape[1] / total, before
        with session(Session(predicting=lambda fraction: predicting(start + share * fraction))):
            predictive = by.predict(x, samples, rng.child(f"predict {name}"))
        before = start + share
        predicting(before)
        return predictive.in_units(problem.y_mean, problem.y_sd)

    def in_units(y: Tensor) -> Tensor:
        return y * problem.y_sd[:, None] + problem.y_mean[:, None] if y.is_floating_point() else y

    y, sets = in_units(problem.test.y), {TEST: problem.test.x, **problem.ood}
    predicted = _with_scores(posterior, problem, predict) if problem.ood_scores and problem.ood else None
    test, *others = predicted or (predict(name, x) for name, x in sets.items())
    ood = dict(zip(problem.ood, others, strict=True))
    shifts = {}
    for name, shift in problem.shifts.items():
        own = y if shift.y is None else in_units(shift.y)
        shifts[name] = ShiftedTest(_without_groups(predict(f"shift {name}", shift.x), own), own, shift.y is None)
    calibration = None
    if held is not None:
        calibration = Calibration(_without_groups(predict("calibration", held.x), held.y), held.y)
    functions, of_classes = None, None
    if problem.joint:
        memory.refuse(4 * problem.joint * y.numel() * problem.signature.outputs, f"{problem.joint:,} joint functions")
        of_classes = function_log_probs(posterior, problem.test.x, problem.joint, rng.child("predict jointly"))
        if of_classes is not None:
            functions = log_at(of_classes, y.expand(len(of_classes), *y.shape))
    truth = Truth(evaluations.Kept(1, with_probs(problem.truth)), of_classes) if problem.truth else None
    parameters = sum(leaf.size for leaf in model.leaves().values())
    seen = Evaluation(test, y, ood, posterior.facts, parameters, shifts=shifts, inputs=problem.test.x)
    return replace(seen, calibration=calibration, functions=functions, truth=truth)


def _with_scores(
    posterior: Posterior, problem: Problem, predict: Callable[[str, Tensor, Posterior], Any]
) -> list[Categorical] | None:
    """Predict the test set and each out-of-distribution set, with the scores that `problem.ood_scores` names.

    The predictions are those without scores. The training rows are predicted once, only where a score is made of
    features. None where the posterior, or its network, has none.
    """
    watching, telling = features.watched(posterior), features.watched(posterior, weights=True)
    if watching is None or telling is None:
        return None
    sets = {TEST: problem.test.x, **problem.ood}
    try:
        seen = [predict(name, x, watching) for name, x in sets.items()]
        known = problem.train.x if not set(problem.ood_scores) <= set(OF_LOGITS) else problem.train.x[:, :1]
        train = predict("features of training rows", known, telling)
    except features.NoFeatures:
        return None
    return features.scored(problem.ood_scores, train, problem.train.y, seen)


def lacking(problem: Problem, evaluation: Evaluation) -> list[str]:
    """Say, in a line each, what the data set was asked for and the posterior cannot tell."""
    scores = [name for name in problem.ood_scores if problem.ood and name not in evaluation.test.scores]
    words = "its posterior tells of no network with one last linear map in front of class logits"
    found = [f"no scores {', '.join(scores)}: {words}"] if scores else []
    drawn = evaluation.functions is not None or not problem.joint
    return found if drawn else [*found, f"no joint likelihoods: {words}"]


def _without_groups(predictive: Predictive, y: Tensor) -> evaluations.Kept:
    """Keep what is stored of the predictions for a set with targets y (R, N): no groups and no scores.

    With a shifted test set for each kind and severity they would take most of a record.
    """
    arrays = {
        name: value for name, value in predictive.arrays().items() if name not in ("running_class", "latent_mean")
    }
    if "probs" not in arrays and "log_density" not in arrays:  # components of a mixture are not kept
        arrays["log_density"] = predictive.log_prob(y)
    return evaluations.Kept(predictive.samples, arrays | _told(predictive, y))


def _told(predicted: Predicted, y: Tensor) -> dict[str, Tensor]:
    """Return what only the components of a mixture tell of its targets y (R, N): cdf and CRPS. They are not kept."""
    told = {"cdf": predicted.cdf(y), "crps": predicted.crps(y)} if isinstance(predicted, OfNumbers) else {}
    return {name: value for name, value in told.items() if value is not None}


def scored(evaluation: Evaluation, metrics: Mapping[str, Metric]) -> tuple[dict[str, MetricValues], dict[str, str]]:
    """Compute all metrics as `measure` does; a metric that fails is returned with its reason and the line of its code.

    Raises BenchError if a metric changes predictions in place, because everything computed after it would be wrong.
    """
    found: dict[str, MetricValues] = {}
    unscored: dict[str, str] = {}
    read = [value for value in _tensors(evaluation) if not value.is_inference()]  # inference tensors cannot be changed
    for name, metric in metrics.items():
        versions = [version(value) for value in read]
        try:
            found |= measure(evaluation, {name: metric})
        except (Exception, SystemExit) as error:  # one metric's failure does not concern the others
            cause = error.__cause__ if isinstance(error, BadInput) and error.__cause__ else error
            unscored[name] = f"{foreign.told(cause)} ({Path(foreign.place(cause, metric)).name})"
        if [version(value) for value in read] != versions:
            loading.forget()  # its targets may have been changed
            words = "changes the predictions that others read and that are stored: clone them"
            raise BenchError(f"metric {name} {words} ({Path(foreign.place(None, metric)).name})")
    return found, unscored


def measure(evaluation: Evaluation, metrics: Mapping[str, Metric]) -> dict[str, MetricValues]:
    """Compute every metric that is defined, in the form of a record, by column: name, or name[key].

    Raises BadInput, with file and line, if a metric of a plugin raises or returns something malformed.
    """
    scored: dict[str, tuple[Metric, dict[str, Tensor]]] = {}
    for name, metric in metrics.items():
        with foreign.calling(f"metric {name}", metric):
            scored[name] = (metric, evaluations.asked(metric, evaluation))
    return {
        f"{name}[{key}]" if key else name: replace(entry_of(metric), values=tuple(value.tolist()))
        for name, (metric, found) in scored.items()
        for key, value in found.items()
    }


def entry_of(metric: Metric) -> MetricValues:
    """Return a metric's column in a record, without values."""
    return MetricValues(metric.unit, metric.better, catalog.definition(metric))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in a dataclass, and in mappings and dataclasses inside it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for held in value.values():
            yield from _tensors(held)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors(getattr(value, "__dict__", {}))


LOCATED = ("y", "mean", "sd", "cdf", "crps")
"""Arrays of real targets and of their predictions, in original units; they are stored in float64."""


def stored_arrays(evaluation: Evaluation, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the per-example predictions to store beside the record, in `dtype`; classes in int16, or int32 if needed.

    Real targets and a predictive's mean and sd are stored in float64, because a density needs their difference. Scores
    keep their own type: rounding to float32 would make different scores equal, such as entropies below 1e-38 of
    confident networks.
    """
    test = evaluation.test
    parts = {"test": {**test.arrays(), "y": evaluation.y, **_told(test, evaluation.y)}}
    if test.samples > 1:
        parts["test"]["group_log_prob"] = test.group_log_prob(evaluation.y)
    for name, shift in evaluation.shifts.items():
        own = {} if shift.of_test else {"y": shift.y}
        parts[f"{evaluations.SHIFT}{name}"] = {**shift.predicted.arrays(), **own}
    if evaluation.calibration is not None:
        held = evaluation.calibration
        parts[evaluations.CALIBRATION] = {**held.predicted.arrays(), "y": held.y}
    arrays = {
        f"{place}.{name}": value.to(_compact(value, torch.float64 if name in LOCATED else dtype))
        for place, part in parts.items()
        for name, value in without_probs(part).items()
    }
    if evaluation.functions is not None:
        arrays[evaluations.FUNCTIONS] = evaluation.functions.to(dtype)
    if evaluation.truth is not None:
        known = without_probs(evaluation.truth.predicted.arrays())
        arrays |= {f"{evaluations.TRUTH}.{name}": value for name, value in known.items()}
        if evaluation.truth.functions is not None:
            arrays[evaluations.CLASS_FUNCTIONS] = evaluation.truth.functions.to(dtype)
    for place, predicted in {"test": test, **{f"ood.{name}": found for name, found in evaluation.ood.items()}}.items():
        arrays |= {f"{place}.{score}": value for score, value in predicted.scores.items()}
    return {name: value.cpu() for name, value in arrays.items()}


def _compact(value: Tensor, dtype: torch.dtype) -> torch.dtype:
    if value.is_floating_point():
        return dtype
    return torch.int16 if not value.numel() or int(value.max()) <= torch.iinfo(torch.int16).max else torch.int32


def row_hashes(state: Mapping[str, Tensor]) -> list[str]:
    """Return the SHA-256 of each row of the posterior's state."""
    columns = [(name, value.detach().cpu().contiguous()) for name, value in sorted(state.items())]
    return [
        hashlib.sha256(b"".join(name.encode() + value[r].numpy().tobytes() for name, value in columns)).hexdigest()
        for r in range(len(columns[0][1]))
    ]


def first_steps(fits: Sequence[Fit], rows: int) -> tuple[FirstSteps, ...]:
    """Return the fingerprint of the first fit for each of R replicates; () if no loss was minimised.

    A replicate of an ensemble is several consecutive rows of the fit; its hash is the hash of their hashes.
    """
    if not fits or fits[0].first is None:
        return ()
    first, share = fits[0].first, len(fits[0].first.loss) // rows
    parts = [slice(r * share, (r + 1) * share) for r in range(rows)]
    hashes = [hashlib.sha256("".join(first.sha256[part]).encode()).hexdigest() for part in parts]
    return tuple(
        FirstSteps(first.steps, sha256, tuple(first.norm[part]), tuple(first.loss[part]))
        for sha256, part in zip(hashes, parts, strict=True)
    )


def objectives(fits: Sequence[Fit], rows: int) -> tuple[ObjectiveFactors, ...]:
    """Audit the last fit, for each of R replicates; for an ensemble, keep each factor of the member where it is worst.

    If the audit itself fails, `failed` says why.
    """
    if not fits or fits[-1].state is None:
        return ()
    try:
        found = audit(fits[-1])
    except (Exception, SystemExit) as error:  # the cell is trained and scored: the audit must not undo that
        return (ObjectiveFactors(named=False, failed=foreign.reason_of(error)),) * rows
    return tuple(
        ObjectiveFactors(
            found.named,
            temperature={name: _farthest(value, 1.0, rows, r) for name, value in found.temperature.items()},
            ramp={name: _farthest(value, 0.0, rows, r) for name, value in found.ramp.items()},
            local={name: _farthest(value, 1.0, rows, r) for name, value in found.local.items()},
            undeclared=float(found.undeclared.reshape(rows, -1)[r].amax()),
        )
        for r in range(rows)
    )


def _farthest(values: Tensor, right: float, rows: int, r: int) -> float:
    """Return the value farthest from the right one among the members (R·K,) of replicate r."""
    mine = values.reshape(rows, -1)[r]
    return float(mine[(mine - right).abs().argmax()])
