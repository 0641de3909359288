"""Metrics that records lack, computed from the stored predictions beside them, without training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.protocols import Evaluation, Metric, ReadsReference
from bdlbench.records import evaluation, reading
from bdlbench.records import record as records
from bdlbench.records.cells import Result, matching, merge
from bdlbench.records.contents import MetricValues
from bdlbench.records.reading import Faults, Source
from bdlbench.records.record import Record
from bdlbench.runs.provenance import Code
from bdlbench.runs.references import References, asked_for
from bdlbench.runs.scoring import measure, scored


class Completed(NamedTuple):
    """Results by cell, completed from stored predictions.

    Attributes:
        results: One for each cell.
        untold: Lines on metrics that could not be computed.
        faults: Faults in the files beside records.
    """

    results: list[Result]
    untold: tuple[str, ...] = ()
    faults: Faults = Faults()


def completed(source: Source, metrics: Sequence[str], references: References | None = None) -> Completed:
    """Merge records, completed from their stored predictions; damaged files beside them are left out.

    Raises BadInput as `complete` does.
    """
    whole, faults = reading.sound(source)
    found, untold = complete(whole, metrics, references)
    return Completed(merge(found.records, found), untold, faults)


def complete(
    source: Source, metrics: Sequence[str], references: References | None = None
) -> tuple[Source, tuple[str, ...]]:
    """Compute the `metrics` that records lack from stored predictions. Return the records, and lines on the rest.

    Names in `metrics` are as on the command line; names that are not in the catalog or a plugin are ignored. Nothing is
    written. Distances from a reference are computed wherever one fits, asked for or not: one of `references`, or
    without them of the default folder. If no record held a metric, there is one line for each reason why cells lack it,
    and one for each record of a sampler that may not serve as a reference.
    Raises BadInput, with the reason, if no cell has the metric.
    """
    known = catalog.metrics()
    wanted = {entry: known[entry] for name in metrics if (entry := name.partition("[")[0]) in known}
    references = asked_for(None) if references is None else references
    beside = [name for name, metric in known.items() if isinstance(metric, ReadsReference)]
    offered = [name for name in beside if name not in wanted] if references.source.entries else []
    completed: list[Record] = []
    reasons: dict[str, dict[str, str]] = {entry: {} for entry in wanted}
    for _, record in source.entries:
        stored = cache(partial(_stored, source, record, references))  # read once, if at all
        found: dict[str, MetricValues] = {}
        lacking = [entry for entry in wanted if not matching(entry, record.values.metrics)]
        for entry in lacking if record.replicates else ():
            columns, reason = _scored(stored, entry, wanted[entry])
            found |= columns
            if reason:
                reasons[entry][next(iter(merge([record]))).title] = reason
        for entry in offered if record.replicates else ():
            found |= _scored(stored, entry, known[entry])[0]
        values = replace(record.values, metrics={**record.values.metrics, **found}) if found else record.values
        completed.append(replace(record, values=values) if found else record)
    lines = []
    for entry, untold in reasons.items():
        if untold and not any(matching(entry, record.values.metrics) for record in completed):
            title, reason = next(iter(untold.items()))
            asked = next(name for name in metrics if name.partition("[")[0] == entry)
            what = f"{asked} is undefined for these records, none of which holds it ({wanted[entry].summary})"
            raise BadInput(f"{what}; {title}: {reason}")
        if not any(matching(entry, record.values.metrics) for record in source.records):
            for reason in dict.fromkeys(untold.values()):
                first, *rest = [title for title, why in untold.items() if why == reason]
                others = f" and {len(rest)} more cells" if rest else ""
                lines.append(f"{entry} of {first}{others} is not known: {reason}")
    places = [folder for folder, _ in source.entries]
    return Source(tuple(zip(places, completed, strict=True))), (*lines, *references.refused)


def filled(folder: Path, record: Record, code: Code) -> Record:
    """Score a record's unscored metrics from the predictions beside it, in `folder`. Writes nothing.

    A metric that raises again, or is undefined for what is stored, stays unscored. If the predictions are damaged, all
    stay unscored; the damage is reported where files are checked. The record takes the hashes of newly scored metrics
    from `code`, the present code.
    """
    known = catalog.metrics()
    try:
        kept = evaluation.read(record, records.predictions(folder, record))
    except BadInput:
        return record
    if kept is None:
        return record
    found, raised = scored(kept, {name: known[name] for name in record.unscored if name in known})
    had = {name for name in record.unscored if matching(name, found)}
    unscored = {name: raised.get(name, reason) for name, reason in record.unscored.items() if name not in had}
    if unscored == record.unscored:
        return record
    scored_by = {name: sha256 for name, sha256 in code.items() if name.removeprefix("metrics ") in had}
    environment = replace(record.environment, code={**(record.environment.code or {}), **scored_by})
    values = replace(record.values, metrics={**record.values.metrics, **found})
    return replace(record, values=values, environment=environment, unscored=unscored)


def _stored(source: Source, record: Record, references: References) -> Evaluation | None:
    """Return the stored predictions of a record, beside those of the reference that fits it; None without any."""
    kept = evaluation.read(record, source.predictions(record))
    return None if kept is None else references.beside(record, kept)


def _scored(stored: Callable[[], Evaluation | None], entry: str, metric: Metric) -> tuple[dict[str, MetricValues], str]:
    """Return the columns of one metric, and the reason if there are none."""
    kept = stored()
    if kept is None:
        return {}, "no predictions lie beside the record"
    if isinstance(metric, ReadsReference) and kept.gold is None:
        return {}, "no reference has its data, model and prior (`--references DIR` reads another folder)"
    try:
        columns = measure(kept, {entry: metric})
    except (Exception, SystemExit) as error:  # a metric may need what no record keeps, and then raises any error
        told = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
        return {}, f"stored predictions make it fail: {told}"
    return columns, "" if columns else "it is undefined for what is stored"
