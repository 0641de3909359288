"""The evidence in a folder's records: cells with their stored predictions, and curves that are computed from these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame, concat
from torch import Tensor

from bdlbench import catalog
from bdlbench.compare.standings import Standing, standings
from bdlbench.metrics.ood import OutOfDistribution
from bdlbench.predictives.mixtures import group_sizes, with_probs
from bdlbench.records import evaluation, reading
from bdlbench.records import record as records
from bdlbench.records.arrays import row_axis
from bdlbench.records.cells import MAIN_METRICS, Result, Scores, merge
from bdlbench.records.reading import Source
from bdlbench.records.record import Record
from bdlbench.report import tables
from bdlbench.report.tables import Group
from bdlbench.stats.calibration import Reliability, reliability, top_class
from bdlbench.stats.selective import risk_coverage

OF_GROUPS = ("test.group_log_prob", "test.running_class")
"""Arrays of groups of posterior samples: records that differ in M cannot join them."""
POINTS = 101
"""Points of a drawn curve from 0 to 1: as many as a screen can show."""


@dataclass(frozen=True)
class Shown:
    """A row of a table with its stored predictions, all replicates in one array each.

    Attributes:
        result: The cell.
        label: The text of the row.
        place: The number of earlier rows of the same method in the section.
        arrays: The stored arrays, {} where there are none. Where records of one cell differ in M, arrays of groups of
            samples hold the first replicates only.
        samples: M as it was drawn.
    """

    result: Result
    label: str
    place: int
    arrays: Mapping[str, Tensor]
    samples: int

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.result.cell.method.name)


@dataclass(frozen=True)
class EvidenceSection:
    """The rows of one data set.

    Attributes:
        table: The rows as a table.
        rows: The rows with their predictions.
        standings: By column: leaders, pairs told apart, and intervals of the means.
        notes: Lines on predictions that are missing or left out.
    """

    table: Group
    rows: tuple[Shown, ...]
    standings: Mapping[str, Standing]
    notes: tuple[str, ...] = field(default=())


def gather(path: Path) -> list[Record]:
    """Return the records of a folder or a file. Raise BadInput where there are none."""
    return list(reading.read(path).records)


def sections(found: Sequence[Record], metrics: Sequence[str] = ()) -> list[EvidenceSection]:
    """Return one section for each data set with its options, in order of appearance; BadInput for unknown metrics."""
    tables.refuse_unknown_metrics(merge(found), metrics)
    source = Source(tuple((record.path.parent, record) for record in found))
    by_key: dict[str, list[Record]] = {}
    for record in found:
        by_key.setdefault(record.key, []).append(record)
    return [_section(members, by_key, metrics) for members in tables.by_data(merge(found, source))]


def _section(
    members: Sequence[Result], by_key: Mapping[str, Sequence[Record]], metrics: Sequence[str]
) -> EvidenceSection:
    columns = tables.select_columns(members, metrics)
    found = standings(members, [column.name for column in columns if not column.is_cost], intervals=True)
    group = tables.laid_out(members, columns, found)
    rows: list[Shown] = []
    notes = []
    for result, label in zip(members, labels_of(group), strict=True):
        arrays, samples, lost = _arrays(by_key[result.key])
        notes += [f"{label}: {line}" for line in lost]
        place = sum(other.method == result.cell.method.name for other in rows)
        rows.append(Shown(result, label, place, arrays, samples))
    return EvidenceSection(group, tuple(rows), found, tuple(notes))


def labels_of(group: Group) -> list[str]:
    """Return the text of each row, without device and threads where the rows differ without them."""
    whole = [[(name, word) for name, word in zip(group.labels, row.labels, strict=True) if word] for row in group.rows]
    short = [" ".join(word for name, word in words if name not in ("device", "threads")) for words in whole]
    return short if len(set(short)) == len(short) else [" ".join(word for _, word in words) for words in whole]


def _arrays(parts: Sequence[Record]) -> tuple[dict[str, Tensor], int, list[str]]:
    """Return the stored arrays of a cell, the largest M, and lines on what is missing.

    The cell's records are joined, those of the largest M first.
    """
    with_values = [part for part in parts if part.replicates]
    there = [part for part in with_values if part.predictions and records.has_predictions(part.path.parent, part)]
    lost = [] if len(there) == len(with_values) else ["per-example predictions are not beside its record"]
    loaded = [
        (_samples(part, arrays), arrays)
        for part in there
        for arrays in [with_probs(records.predictions(part.path.parent, part))]
    ]
    most = max([m for m, _ in loaded] or [_samples(part, {}) for part in parts])
    same = [arrays for m, arrays in loaded if m == most]
    others = [arrays for m, arrays in loaded if m != most]
    if others:
        lost.append(f"its records differ in M: only those of {most} samples are in the curves over samples")
    return _joined(same + others, of_groups=False) | _joined(same, of_groups=True), most, lost


def _joined(loaded: Sequence[Mapping[str, Tensor]], of_groups: bool) -> dict[str, Tensor]:
    """Join the arrays that all records have along the replicates: either those of groups of samples, or the others."""
    names = [name for name in (loaded[0] if loaded else {}) if all(name in other for other in loaded)]
    names = [name for name in names if (name in OF_GROUPS) == of_groups]
    return {name: torch.cat([one[name] for one in loaded], row_axis(name)) for name in names}


def _samples(part: Record, arrays: Mapping[str, Tensor]) -> int:
    """Return M of a record."""
    return evaluation.drawn(part, len(arrays.get("test.group_log_prob", ())))


# curves: one row for each row of the table, replicate and place on the axis


def bins_of(row: Shown) -> Reliability | None:
    """Return the reliability bins of all replicates together; None without class probabilities."""
    judged = _judged(row)
    if judged is None:
        return None
    confidence, correct = judged
    return reliability(confidence.flatten(), correct.flatten())


def has_classes(rows: Sequence[Shown]) -> bool:
    """Tell whether class probabilities are stored for any row."""
    return any("test.probs" in row.arrays for row in rows)


def risk_curves(rows: Sequence[Shown]) -> DataFrame:
    """Return columns label, replicate, coverage and risk.

    Coverage starts at 5 %: with fewer examples the risk varies so much that it would dominate the plot.
    """
    parts = []
    for row in rows:
        if (judged := _judged(row)) is not None:
            curves = torch.stack([risk_coverage(*replicate) for replicate in zip(*judged, strict=True)])  # (R, N)
            coverage = np.linspace(0.05, 1, POINTS)
            index = np.maximum(np.round(coverage * curves.shape[1]).astype(int), 1) - 1
            parts.append(_long(row, "coverage", (index + 1) / curves.shape[1], risk=curves[:, index].numpy()))
    return _framed(parts)


def nll_by_samples(rows: Sequence[Shown]) -> DataFrame:
    """Return columns label, replicate, samples and nll.

    The NLL is −log of the mean density over the first g stored groups of samples, for each g.
    """
    parts = []
    for row in rows:
        groups = row.arrays.get("test.group_log_prob")  # (G, R, N)
        if groups is not None:
            sizes = torch.tensor(group_sizes(row.samples, len(groups)), dtype=torch.float64)
            total = sizes.cumsum(0)
            log_sum = torch.logcumsumexp(groups.double() + sizes.log()[:, None, None], 0)
            nll = -(log_sum - total.log()[:, None, None]).mean(-1)  # (G, R)
            parts.append(_long(row, "samples", total.numpy(), nll=nll.T.numpy()))
    return _framed(parts)


def accuracy_by_samples(rows: Sequence[Shown]) -> DataFrame:
    """Return columns label, replicate, samples and accuracy, over the first g groups of samples for each g."""
    parts = []
    for row in rows:
        running = row.arrays.get("test.running_class")  # (R, N, G)
        if running is not None:
            right = running == row.arrays["test.y"][: len(running)].unsqueeze(-1)
            total = np.cumsum(group_sizes(row.samples, running.shape[-1]))
            parts.append(_long(row, "samples", total, accuracy=right.double().mean(1).numpy()))
    return _framed(parts)


def roc_curves(rows: Sequence[Shown], score: str, name: str) -> DataFrame:
    """Return columns label, replicate, false_positive_rate and true_positive_rate of a score on one OOD set."""
    parts = []
    for row in rows:
        inside, outside = row.arrays.get(f"test.{score}"), row.arrays.get(f"ood.{name}.{score}")
        if inside is not None and outside is not None:
            grid = np.linspace(0, 1, POINTS)
            curves = [_roc(i.numpy(), o.numpy(), grid) for i, o in zip(inside, outside, strict=True)]
            parts.append(_long(row, "false_positive_rate", grid, true_positive_rate=np.stack(curves)))
    return _framed(parts)


def ood_scores(rows: Sequence[Shown]) -> dict[str, tuple[str, list[str]]]:
    """Return {score: (its AUROC metric, out-of-distribution sets)} for the main metrics with stored scores."""
    found = {}
    stored = {name for row in rows for name in row.arrays}
    for metric, judge in catalog.metrics().items():
        if metric in MAIN_METRICS and isinstance(judge, OutOfDistribution) and f"test.{judge.score}" in stored:
            ending = f".{judge.score}"
            names = [name for name in stored if name.startswith("ood.") and name.endswith(ending)]
            found[judge.score] = (metric, sorted(name[4 : -len(ending)] for name in names))
    return {score: (metric, sets) for score, (metric, sets) in sorted(found.items()) if sets}


def under_shift(rows: Sequence[Shown], metric: str) -> DataFrame:
    """Return columns label, replicate, kind, severity and value: a metric on each shift that has a severity.

    Severity 0 is the test set itself, once for each kind.
    """
    found = [
        (row.label, place, kind, severity, score.values.get(replicate, math.nan))
        for row in rows
        for kind, scores in _kinds_of(row, metric).items()
        for severity, score in scores.items()
        for place, replicate in enumerate(row.result.replicates)
    ]
    return DataFrame(found, columns=["label", "replicate", "kind", "severity", "value"])


def _kinds_of(row: Shown, metric: str) -> dict[str, dict[int, Scores]]:
    """Return the columns `metric[kind severity]` of a row by kind and severity."""
    kinds: dict[str, dict[int, Scores]] = {}
    for name, score in row.result.scores.items():
        entry, _, key = name.removesuffix("]").partition("[")
        kind, _, severity = key.rpartition(" ")
        if entry == metric and kind and severity.isdigit():
            kinds.setdefault(kind, {0: row.result.scores[metric]})[int(severity)] = score
    return kinds


def layers_of(rows: Sequence[Shown]) -> DataFrame:
    """Return columns label, layer and sparsity for each replicate, for rows whose method gives it by layer."""
    found = [
        {"label": row.label, "layer": name.removeprefix("sparsity[").removesuffix("]"), "sparsity": value}
        for row in rows
        for name, score in row.result.scores.items()
        if name.startswith("sparsity[")
        for value in score.values.values()
    ]
    return DataFrame(found, columns=["label", "layer", "sparsity"])


def _judged(row: Shown) -> tuple[Tensor, Tensor] | None:
    """Return the confidence and correctness of the most probable class, (R, N) each."""
    if "test.probs" not in row.arrays:
        return None
    return top_class(row.arrays["test.probs"], row.arrays["test.y"].long())


def _roc(
    inside: NDArray[np.floating], outside: NDArray[np.floating], grid: NDArray[np.floating]
) -> NDArray[np.floating]:
    from sklearn.metrics import roc_curve  # slow to import

    truth = np.repeat([0, 1], [len(inside), len(outside)])
    false, true, _ = roc_curve(truth, np.concatenate([inside, outside]))
    curve: NDArray[np.floating] = np.interp(grid, false, true)
    return curve


def _long(row: Shown, axis: str, at: NDArray[np.floating], **curves: NDArray[np.floating]) -> DataFrame:
    """Return curves (R, K) over `at` (K,) as a frame with one number in each row."""
    ((name, values),) = curves.items()
    count = len(values)
    columns = {"replicate": np.repeat(np.arange(count), len(at)), axis: np.tile(at, count), name: values.reshape(-1)}
    return DataFrame({"label": row.label, **columns})


def _framed(parts: Sequence[DataFrame]) -> DataFrame:
    return concat(parts, ignore_index=True) if parts else DataFrame()
