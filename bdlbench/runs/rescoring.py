"""Metrics that records do not hold, computed from the predictions that lie beside them: nothing is trained again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.protocols import Metric
from bdlbench.records import evaluation, reading
from bdlbench.records import record as records
from bdlbench.records.cells import Result, matching, merge
from bdlbench.records.contents import MetricValues
from bdlbench.records.reading import Faults, Source
from bdlbench.records.record import Record
from bdlbench.runs.batch import measure, scored
from bdlbench.runs.provenance import Code


class Completed(NamedTuple):
    """What records hold, cell by cell. untold: lines on metrics that they do not tell; faults: of files beside them."""

    results: list[Result]
    untold: tuple[str, ...] = ()
    faults: Faults = Faults()


def completed(source: Source, metrics: Sequence[str]) -> Completed:
    """Read what records and their stored predictions tell, and do without files beside them that are damaged.

    Raises BadInput as `complete` does.
    """
    whole, faults = reading.sound(source)
    found, untold = complete(whole, metrics)
    return Completed(merge(found.records, found), untold, faults)


def complete(source: Source, metrics: Sequence[str]) -> tuple[Source, tuple[str, ...]]:
    """The records with those of `metrics` that they lack and their stored predictions tell; and lines on the others.

    metrics: as the command line takes them; those that the catalog, with its plugins, does not know are left alone.
    Nothing is written. Of a metric that no record held, a line for each reason why cells do not tell it.
    Raises BadInput, with the reason, where none does.
    """
    known = catalog.metrics()
    wanted = {entry: known[entry] for name in metrics if (entry := name.partition("[")[0]) in known}
    completed: list[Record] = []
    reasons: dict[str, dict[str, str]] = {entry: {} for entry in wanted}
    for _, record in source.entries:
        found: dict[str, MetricValues] = {}
        for entry, metric in _lacking(record, wanted).items():
            columns, reason = _scored(source, record, entry, metric)
            found |= columns
            if reason:
                reasons[entry][next(iter(merge([record]))).title] = reason
        values = replace(record.values, metrics={**record.values.metrics, **found})
        completed.append(replace(record, values=values))
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
    return Source(tuple(zip(places, completed, strict=True))), tuple(lines)


def filled(folder: Path, record: Record, code: Code) -> Record:
    """Score the metrics that a record owes from the predictions beside it, in `folder`. Writes nothing.

    A metric that raises again, or is undefined for what is stored, stays among the unscored; all do where predictions
    are damaged, which is said where they are looked for. code: at hand, of which the record takes the new metrics'.
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


def _lacking(record: Record, wanted: Mapping[str, Metric]) -> dict[str, Metric]:
    """Those of which a record with replicates holds no column."""
    if not record.replicates:
        return {}
    return {entry: metric for entry, metric in wanted.items() if not matching(entry, record.values.metrics)}


def _scored(source: Source, record: Record, entry: str, metric: Metric) -> tuple[dict[str, MetricValues], str]:
    """The columns of one metric, and why there are none."""
    kept = evaluation.read(record, source.predictions(record))
    if kept is None:
        return {}, "no predictions lie beside the record"
    try:
        columns = measure(kept, {entry: metric})
    except (Exception, SystemExit) as error:  # a metric may ask for what no record keeps, and then raises anything
        told = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
        return {}, f"stored predictions make it fail: {told}"
    return columns, "" if columns else "it is undefined for what is stored"
