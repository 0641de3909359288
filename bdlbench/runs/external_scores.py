"""Predictions made elsewhere, scored by the same metrics and kept as a record like any other.

`docs/score.md` describes the layout of a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import environment, files
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.spec import ELSEWHERE, SPLITS, Cell, Choice, Replicate, parse_seeds
from bdlbench.data.downloads import array_checksum
from bdlbench.data.task import Task
from bdlbench.metrics.ood import OutOfDistribution
from bdlbench.predictives.mixtures import Categorical, CategoricalSum, GaussianMixture, entropy
from bdlbench.protocols import Evaluation, Metric, ShiftedTest
from bdlbench.records import record as records
from bdlbench.records.contents import Environment, PredictionsFrom, Values
from bdlbench.records.record import Record
from bdlbench.runs import predictions_file, suites
from bdlbench.runs.loading import data_facts, load_task
from bdlbench.runs.predictions_file import RealSubmission, Submission
from bdlbench.runs.scoring import scored, stored_arrays


@dataclass(frozen=True)
class Claim:
    """The user's description of the predictions. Names in the catalog mean its entries; others are the user's own.

    Attributes:
        method: The method's name.
        dataset: The data set's name. Unless `own_data`, it is in the catalog, and the file must hold its test labels.
        model: The model's name.
        own_data: Whether the data set is the user's own.
        samples: M of the protocol; None for the file's.
        seeds: As `parse_seeds` reads them, in the order of the file's replicates; "" for the file's, or else for 0, 1,
            ….
        splits: one or each.
        settings: NAME.OPTION=VALUE.
        axes: The meaning of the axes of an npz.
    """

    method: str
    dataset: str
    model: str = "external"
    own_data: bool = False
    samples: int | None = None
    seeds: str = ""
    splits: str = "one"
    settings: tuple[str, ...] = ()
    axes: str = ""


@dataclass(frozen=True)
class OwnScores:
    """An out-of-distribution set with scores alone, without predictions."""

    scores: dict[str, Tensor]


def score(path: Path, claim: Claim, results: Path, fresh: bool = False) -> Path:
    """Score a file of predictions, and write its record. Return the path of the JSON file.

    With `fresh`, replicates of the same cell that `results` already holds are replaced. Raises BadInput, before
    anything is written, if the file or the claim is wrong or they disagree.
    """
    found = predictions_file.read(path, claim.axes)
    cell = _cell(claim, found)
    asked = _replicates(path, claim, found)
    facts = _labels_alone(found) if claim.own_data else _data_facts(path, cell.dataset, found, asked)
    given = PredictionsFrom(path.name, files.sha256(path.read_bytes()), claim.axes, claim.seeds, claim.splits)
    evaluation = evaluate(found)
    metrics, unscored = scored(evaluation, _metrics(found))
    for name, reason in unscored.items():
        raise BadInput(f"metric {name} fails on the predictions of {path}: {reason}")
    record = Record(
        cell=cell,
        replicates=asked,
        values=Values(metrics, samples=(found.lead[0],) * len(asked)),
        cost={},
        environment=Environment(**environment.describe("cpu", cell.threads), **facts, predictions_from=given),
    )
    replaced = _replaced(results, record, fresh)
    path = records.write(results, record, stored_arrays(evaluation, torch.float64))
    for old in replaced:  # only now, so that these replicates are always in some record
        records.without(results, old, set(asked))
    return path


def evaluate(found: Submission | RealSubmission) -> Evaluation:
    """Return the evaluation that metrics score, in float64, with the file's values."""
    if isinstance(found, RealSubmission):
        return Evaluation(GaussianMixture(found.means, found.sds), found.targets, {}, {}, None)
    ood: dict[str, Any] = {
        name: _predictive(logs, found.ood_scores.get(name, {})) for name, logs in found.ood_log_probs.items()
    }
    ood |= {name: OwnScores(scores) for name, scores in found.ood_scores.items() if name not in ood}
    shifts = {
        name: ShiftedTest(
            _predictive(logs, {}), found.shift_labels.get(name, found.labels), name not in found.shift_labels
        )
        for name, logs in found.shift_log_probs.items()
    }
    return Evaluation(_predictive(found.log_probs, found.scores), found.labels, ood, {}, None, shifts=shifts)


# the claim


def _cell(claim: Claim, found: Submission | RealSubmission) -> Cell:
    names = (claim.method, claim.model, claim.dataset)
    if unseen := next((text for text in (*names, *claim.settings, claim.seeds) if not text.isprintable()), ""):
        raise BadInput(f"{unseen!r} holds characters that cannot be seen")
    if not all(name.strip() for name in names):
        raise BadInput("method, model and data set need names")
    settings = {
        entry: {option: _single(entry, option, values) for option, values in table.items()}
        for entry, table in suites.parse_settings(claim.settings).items()
    }
    chosen = (
        _choice("methods", claim.method, settings),
        _choice("models", claim.model, settings),
        _dataset(claim, settings),
    )
    for choice in chosen:
        _refuse_infinite(choice)
    for entry in settings:
        if entry not in (used := {name for choice in chosen for name in _names(choice)}):
            raise unknown("entry of this file", entry, used)
    count = found.lead[0]
    samples = count if claim.samples is None else claim.samples
    if samples < count:
        raise BadInput(f"--samples {samples} is less than the {count} samples that the file holds")
    return Cell(*chosen, samples, ELSEWHERE)


def _dataset(claim: Claim, settings: Mapping[str, Mapping[str, Any]]) -> Choice:
    """Return the catalog's data set, or the user's own, which must have another name."""
    if not claim.own_data:
        return catalog.choice("datasets", claim.dataset, settings)
    if claim.dataset in catalog.names("datasets"):
        raise BadInput(f"--own-data: {claim.dataset} is a data set of the catalog; give yours another name")
    return _own(claim.dataset, settings)


def _names(choice: Choice) -> list[str]:
    """Return the names of an entry and of those nested in it."""
    nested = [name for _, value in choice.options if isinstance(value, Choice) for name in _names(value)]
    return [choice.name, *nested]


def _refuse_infinite(choice: Choice) -> None:
    """Raise BadInput for an option that is not a finite number, because no record can hold it."""
    for option, value in choice.options:
        if isinstance(value, Choice):
            _refuse_infinite(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"--set {choice.name}.{option}={value} is not a finite number")


def _single(entry: str, option: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise BadInput(f"--set {entry}.{option}={','.join(values)} names {len(values)} values: a file is of one")
    return values[0]


def _choice(kind: catalog.Kind, name: str, settings: Mapping[str, Mapping[str, Any]]) -> Choice:
    """Return the catalog's entry of this name with all its options, else an entry of the user's own."""
    return catalog.choice(kind, name, settings) if name in catalog.names(kind) else _own(name, settings)


def _own(name: str, settings: Mapping[str, Mapping[str, Any]]) -> Choice:
    options = settings.get(name, {})
    if "name" in options:
        raise BadInput(
            f"--set {name}.name={options['name']}: an option cannot be called name; --method and --model are"
        )
    return Choice.of(name, {option: _typed(text) for option, text in options.items()})


def _typed(text: str) -> int | float | str:
    """Return a number if the whole text is one that int64 or float64 holds; not for 007, 980e663509 or 1e-999."""
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,18})", text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    if re.fullmatch(r"[-+]?((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(?=[eE]))([eE][-+]?[0-9]+)?", text):
        number = float(text)
        lost = number == 0 and re.search("[1-9]", re.split("[eE]", text)[0])
        return text if math.isinf(number) or lost else number
    return text


def _replicates(path: Path, claim: Claim, found: Submission | RealSubmission) -> tuple[Replicate, ...]:
    count = found.lead[1]
    if found.seeds and claim.seeds:
        raise BadInput(f"--seeds {claim.seeds}: {path} names its seeds itself")
    if claim.splits not in SPLITS:
        raise unknown("value of --splits", claim.splits, SPLITS)
    seeds = _seeds_in_order(path, claim.seeds, count) if claim.seeds else found.seeds or tuple(range(count))
    return tuple(Replicate(seed, SPLITS[claim.splits](seed)) for seed in seeds)


def _seeds_in_order(path: Path, text: str, count: int) -> tuple[int, ...]:
    """Return the seeds in `text` in its order: the first is that of row 0. Their number must be `count`."""
    first, dash, last = text.partition("-")
    try:  # before `parse_seeds` lists them: 0-999999999 is a typing error, not eight gigabytes
        named = text.count(",") + 1 if "," in text else int(last) - int(first) + 1 if dash else int(text)
    except ValueError:
        named = count  # `parse_seeds` says what is wrong
    if named > 0 and named != count:
        alone = f"; write {text}-{text} for seed {text} alone" if text.isdigit() else ""
        raise BadInput(f"--seeds {text} names {named} seeds, {path} holds {count} replicates{alone}")
    seeds = parse_seeds(text)
    if max(seeds) >= 2**63:
        raise BadInput(f"--seeds {text}: seeds are below 2^63")
    return tuple(int(part) for part in text.split(",")) if "," in text else seeds


def _data_facts(
    path: Path, dataset: Choice, found: Submission | RealSubmission, asked: Sequence[Replicate]
) -> dict[str, Any]:
    """Return the data set's checksums. Raises BadInput if the file's labels, targets, classes or OOD sets differ."""
    wanted = "gaussian" if isinstance(found, RealSubmission) else "categorical"
    truths = found.targets if isinstance(found, RealSubmission) else found.labels
    for row, (labels, replicate) in enumerate(zip(truths, asked, strict=True)):
        task = load_task(dataset, replicate.split)
        if wanted not in task.signature.likelihood:
            lacks, holds = (
                ("real target", "mean and sd") if wanted == "gaussian" else ("classes", "class probabilities")
            )
            raise BadInput(f"{dataset.name} has no {lacks} to predict: {path} holds {holds}")
        where = f"the test split {replicate.split} of {dataset.name}"
        if isinstance(found, RealSubmission):
            _same_targets(path, where, labels, task)
            continue
        if found.log_probs.shape[-1] != task.signature.outputs:
            raise BadInput(f"{path} has {found.log_probs.shape[-1]} classes, {where} has {task.signature.outputs}")
        _same_labels(path, where, labels, task.test.y)
        _same_shifts(path, dataset.name, found, row, task)
        for name in {**found.ood_log_probs, **found.ood_scores}:
            if name not in task.ood:
                raise unknown(f"out-of-distribution set of {dataset.name}", name, task.ood)
            count = _num_examples(found, name)
            if count != len(task.ood[name]):
                raise BadInput(f"{path}: ood.{name} has {count} examples, that of {dataset.name} {len(task.ood[name])}")
    return data_facts(dataset, {replicate.split for replicate in asked})


def _same_labels(path: Path, where: str, labels: Tensor, expected: Tensor) -> None:
    if len(labels) != len(expected):
        raise BadInput(f"{path} has {len(labels)} examples, {where} has {len(expected)}")
    wrong = (labels != expected).nonzero().flatten().tolist()
    if wrong:
        gap = f"first at example {wrong[0]}: {int(labels[wrong[0]])}, not {int(expected[wrong[0]])}"
        raise BadInput(f"{path}: {len(wrong)} of {len(labels)} labels are not those of {where}, {gap}; keep its order")


def _same_shifts(path: Path, dataset: str, found: Submission, row: int, task: Task) -> None:
    """Raise BadInput if the file's shifted test sets are not the data set's own, in one row, and all of them."""
    for name in found.shift_log_probs:
        if name not in task.shifts:
            asked = "" if task.shifts else f": ask for them, as --set {dataset}.shifts=all"
            raise BadInput(f"{unknown(f'shifted test set of {dataset}', name, task.shifts)}{asked}")
        expected, given = task.shifts[name].y, found.shift_labels.get(name)
        if (expected is None) != (given is None):
            has = "the test examples: leave out" if expected is None else "examples of its own: give"
            raise BadInput(f"{path}: {name} of {dataset} has {has} shift.{name}.labels")
        if expected is not None and given is not None:
            _same_labels(path, f"{name} of {dataset}", given[row], expected)
    if found.shift_log_probs and (absent := [name for name in task.shifts if name not in found.shift_log_probs]):
        raise BadInput(f"{path} lacks shift.{absent[0]}: means are over all {len(task.shifts)} shifts of {dataset}")


def _same_targets(path: Path, where: str, targets: Tensor, task: Task) -> None:
    """Raise BadInput if targets (N,) differ from the task's, in its order, by more than float32 rounding."""
    expected = task.test.y.double() * task.y_sd + task.y_mean
    if len(targets) != len(expected):
        raise BadInput(f"{path} has {len(targets)} examples, {where} has {len(expected)}")
    far = (targets - expected).abs() > 1e-5 * (task.y_sd + expected.abs())
    if bool(far.any()):
        i = int(far.nonzero()[0])
        gap = f"first at example {i}: {float(targets[i]):.6g}, not {float(expected[i]):.6g}"
        words = "keep its order, and give them in the target's own units"
        raise BadInput(f"{path}: {int(far.sum())} of {len(targets)} targets are not those of {where}, {gap}; {words}")


def _num_examples(found: Submission, name: str) -> int:
    if name in found.ood_log_probs:
        return found.ood_log_probs[name].shape[2]
    return next(iter(found.ood_scores[name].values())).shape[1]


def _labels_alone(found: Submission | RealSubmission) -> dict[str, Any]:
    """Return a checksum of the labels of the user's own data, which shows whether two files share them."""
    name, truth = ("targets", found.targets) if isinstance(found, RealSubmission) else ("labels", found.labels)
    return {"sources": {name: array_checksum(truth.numpy())}, "statistics": {}}


def _replaced(results: Path, record: Record, fresh: bool) -> list[Record]:
    """Return records, except one of the new name, whose replicates are replaced. Raises BadInput unless `fresh`."""
    found = []
    folder = records.scan(results) if results.is_dir() else records.NO_FOLDER
    records.say_passed_over(folder.others, str(results))
    for unread in folder.unread:
        if unread.may_be_of(record.cell):
            raise BadInput(f"{unread.reason}; nobody knows which seeds of this cell it holds")
    records.say_unread(folder.unread)
    if not fresh:
        records.refuse_conflicts(folder.records)
    for old in folder.records:
        both = set(old.replicates) & set(record.replicates)
        if old.key == record.key and both:
            if not fresh:
                seeds = ", ".join(str(replicate.seed) for replicate in sorted(both))
                raise BadInput(f"{results} holds seeds {seeds} of this cell already: --fresh replaces them")
            found.append(old)
    return [old for old in found if old.path.stem != record.name]


def _metrics(found: Submission | RealSubmission) -> dict[str, Metric]:
    """Return the catalog's metrics, and an AUROC for each score that it does not know."""
    known = catalog.metrics()
    if isinstance(found, RealSubmission):
        return known
    judged = {metric.score for metric in known.values() if isinstance(metric, OutOfDistribution)}
    own: dict[str, Metric] = {
        f"ood_auroc_{name}": OutOfDistribution("AUROC", name, "higher") for name in found.scores if name not in judged
    }
    return known | own


def _predictive(log_probs: Tensor, own_scores: Mapping[str, Tensor]) -> Categorical:
    """Return the predictive of log_probs (M, R, N, C), reduced over M as for every method; kept in float64."""
    total = CategoricalSum(len(log_probs))
    for sample in log_probs:
        total.add_log_probs(sample, entropy(sample))
    return replace(total.finish(), own_scores=own_scores, dtype=torch.float64)
