"""The gate for quality and speed: does this tree still reproduce the reference records?

Its parts, in order: (a) protocol and declared quantities, exactly; (b) every method's objective at a fixed state, to
1e-8; (c) bits, if the environment is that of the reference; (d) quality of a small suite, with error bars; (e) speed
ratios.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bdlbench import catalog
from bdlbench.compare import margins
from bdlbench.compare import pairs as comparison
from bdlbench.compare.differences import Finding
from bdlbench.compare.pairing import Pairing
from bdlbench.compare.pairs import Pair
from bdlbench.core import environment, files
from bdlbench.core.clock import now
from bdlbench.core.errors import BadInput, DataUnavailable, NotComparable, Unwritten
from bdlbench.core.spec import Choice, Spec, flatten
from bdlbench.core.typed import decoded
from bdlbench.gate import objectives, speed
from bdlbench.gate.verify import same_statistic, title_of
from bdlbench.records import reading
from bdlbench.records import record as records
from bdlbench.records.cells import merge
from bdlbench.records.reading import Source
from bdlbench.records.record import Record
from bdlbench.runs import lint, loading, scoring
from bdlbench.runs import suites as plan
from bdlbench.runs.batch import Settings, batches
from bdlbench.runs.executors import execute

FINGERPRINT = ("packages.torch", "packages.numpy", "processor", "cpu_capability", "device")
"""The fields of an environment that decide bits and ratios of times."""

MARGINS = {"nll": 0.05, "accuracy": 0.03, "rmse": 0.02, "ece": 0.03, "brier": 0.03, "negative_elbo": 0.3}
"""How much worse a metric of the suite may be; it is a regression if the whole interval lies beyond the margin."""

FEW_LINES = 6
"""The most names of changed things in one line."""


@dataclass(frozen=True)
class GateSection:
    """The result of one part of the gate.

    Attributes:
        name: Its letter.
        title: Its title.
        failures: One line for each failure.
        notes: Other remarks.
        seconds: The time it took.
    """

    name: str
    title: str
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class Gate:
    """A tree and the reference to compare it with.

    Attributes:
        reference: The folder of the reference.
        suite: The small suite, by name or file.
        results: The folder in which the suite is run.
    """

    reference: Path
    suite: str | Path
    results: Path

    @cached_property
    def made(self) -> list[Record]:
        """The suite's records from this tree, trained when any part first needs them."""
        return _trained(self)

    @property
    def name(self) -> str:
        """The suite's folder in the reference."""
        return self.suite.stem if isinstance(self.suite, Path) else self.suite

    @property
    def aside(self) -> Path:
        """The folder that holds the suite's old reference while `accept` replaces it."""
        return self.reference / f".{self.name}.old"

    @property
    def fresh(self) -> Path:
        """The folder in which `accept` writes the suite's new reference until it is complete."""
        return self.reference / f".{self.name}.new"

    @property
    def spec(self) -> Spec:
        """The suite's cells on this tree."""
        return _spec(self.suite)

    @property
    def recorded(self) -> list[Record]:
        """The suite's reference. Raises BadInput if it is absent, or a record in it is incomplete."""
        found = records.read(self.reference / self.name)
        if not found:
            old = f" ({self.aside} holds the previous one, from an interrupted --accept)" if self.aside.exists() else ""
            raise BadInput(
                f"{self.reference / self.name} holds no records: write the reference with gate --accept{old}"
            )
        return found


def check(gate: Gate, say: Callable[[GateSection], None] = lambda section: None) -> list[GateSection]:
    """Run all parts in order, and pass each result to `say`. Raises BadInput if the reference cannot be read."""
    gate.recorded, _read_objectives(gate), _read_speed(gate)
    sections = []
    for letter, (title, part) in GATE_PARTS.items():
        began = now()
        failures, notes = part(gate)
        sections.append(GateSection(letter, title, tuple(failures), tuple(notes), now() - began))
        say(sections[-1])
    return sections


def accept(gate: Gate) -> list[str]:
    """Replace the reference by this tree's results; return one line for each change.

    Everything is measured before anything is written. Unreadable parts of the old reference count as absent. Raises
    BadInput if a suite file has the name of a suite of the package, and if a cell fails or is not finite.
    """
    _refuse_borrowed_name(gate)
    _recover(gate)
    _refuse_broken(gate.made)
    found, ratios = objectives.measure(), _middle_ratios()
    old = _readable(gate.reference / gate.name)
    lines = [*_apart(old, gate.made)] if old else []
    lines += _record_changes(old, gate.made)
    if lines or len(old) != len(list((gate.reference / gate.name).glob("*.json"))):
        _replace_records(gate)
    measured: dict[str, Any] = {}
    with suppress(BadInput):
        measured = _read_objectives(gate)
    lines += [f"objective of {line}" for line in objectives.differences(measured, found)]
    was: dict[str, float] = {}
    with suppress(BadInput):
        was = _read_speed(gate)["ratios"]
    lines += [
        f"speed of {name}: {ratios.get(name)}, was {was.get(name)}"
        for name in ratios | was
        if was.get(name) != ratios.get(name)
    ]
    _write(gate.reference / "objectives.json", found)
    _write(gate.reference / "speed.json", {"environment": _fingerprint(_environment(gate.made)), "ratios": ratios})
    return lines


def _refuse_borrowed_name(gate: Gate) -> None:
    """Refuse a user's suite file that would replace the reference of a suite of the package."""
    if isinstance(gate.suite, Path) and gate.name in plan.suite_names():
        raise BadInput(
            f"{gate.suite}: {gate.name} is a suite of the package, with a reference of its own: rename yours"
        )


def _refuse_broken(made: Sequence[Record]) -> None:
    """Refuse records with failures or numbers that are not finite as a reference."""
    for record in made:
        for replicate, reason in record.failed.items():
            raise BadInput(f"not accepted: {title_of(record)}: seed {replicate.seed} failed: {reason}")
        for name in _lost(record):
            raise BadInput(f"not accepted: {title_of(record)}: metric {name} is not finite")


def _lost(record: Record) -> list[str]:
    """Return the metrics that have a margin and are not finite."""
    allowed = _margins()
    entries = record.values.metrics.items()
    return [name for name, entry in entries if _counts(name, allowed) and None in entry.values]


def _readable(folder: Path) -> list[Record]:
    """Return the complete records of a folder whose predictions can be read."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(BadInput):
            record = records.read_one(path)
            records.predictions(folder, record)
            found.append(record)
    return found


def _record_changes(before: Sequence[Record], after: Sequence[Record]) -> Iterator[str]:
    """Describe cells that were added, removed or changed."""
    old, new = ({record.name: record for record in side} for side in (before, after))
    for name in sorted({*old, *new}):
        if name not in new:
            yield f"removed {title_of(old[name])}: {name}"
        elif name not in old:
            yield f"added {title_of(new[name])}: {name}"
        elif changed := _changed(old[name], new[name]):
            yield f"changed {title_of(new[name])}: {changed}"


def _replace_records(gate: Gate) -> None:
    """Replace the old records by the new ones.

    The new folder is complete, under a temporary name, before the old one is renamed, and the old one is deleted last.
    At every moment, either the old or the new records are therefore complete: in their place or, between the two
    renames, beside it, from where `_recover` restores them.
    """
    folder = gate.reference / gate.name
    try:
        gate.fresh.mkdir(parents=True)
        for record in gate.made:
            for ending in (".safetensors", ".json"):
                source = gate.results / f"{record.name}{ending}"
                if source.exists():
                    files.write_atomic(gate.fresh / source.name, source.read_bytes())
        if folder.exists():
            folder.rename(gate.aside)
        gate.fresh.rename(folder)
    finally:
        _recover(gate)


def _recover(gate: Gate) -> None:
    """Clean up after an interrupted `accept`: restore renamed old records, unless new ones took their place."""
    folder = gate.reference / gate.name
    if gate.aside.exists() and not folder.exists():
        gate.aside.rename(folder)
    for left_over in (gate.aside, gate.fresh):
        if left_over.exists():
            shutil.rmtree(left_over)


def _changed(old: Record, new: Record) -> str:
    """Describe the differences between two records of a cell."""
    then, now = old.values.as_dict(), new.values.as_dict()
    had, has = then.pop("metrics"), now.pop("metrics")
    metrics = {name for name in had | has if had.get(name) != has.get(name)}
    others = {name for name in then | now if then.get(name) != now.get(name)}
    predictions = {"predictions"} if old.predictions != new.predictions else set()
    changed = sorted(metrics) + sorted(others | predictions)
    return ", ".join(changed[:FEW_LINES]) + (
        f" and {len(changed) - FEW_LINES} more" if len(changed) > FEW_LINES else ""
    )


def _middle_ratios() -> dict[str, float]:
    """Return the median of three measurements of each ratio."""
    measured = [speed.ratios() for _ in range(3)]
    return {name: round(sorted(found[name] for found in measured)[1], 3) for name in measured[0]}


# (a) protocol


MADE_BY = {"posterior": "posterior_reference"}
"""By folder of the reference: the suite that made it, where that is not the one of its name."""


def _protocol(gate: Gate) -> tuple[list[str], list[str]]:
    """Check cells, metric definitions, data and lint of every suite with a reference, then what was minimised."""
    failures: list[str] = []
    notes: list[str] = []
    suites: dict[str, str | Path] = {
        name: MADE_BY.get(name, name) for name in plan.suite_names() if (gate.reference / name).is_dir()
    }
    findings: list[lint.Fault] = []
    for name, suite in (suites | {gate.name: gate.suite}).items():
        recorded = records.read(gate.reference / name)
        spec = _spec(suite)
        failures += [f"{name}: {line}" for line in _cells(spec, recorded)]
        failures += [f"{name}: {line}" for record in recorded for line in _definitions(record)]
        for dataset in dict.fromkeys(cell.dataset for cell in spec.cells):
            try:
                failures += _data(dataset, recorded)
                findings += lint.of_task(f"data set {dataset.name}", loading.load_task(dataset, 0))
            except DataUnavailable as error:
                notes.append(f"not at hand: {error}")
        findings += [replace(finding, where=name) for finding in lint.of_spec(spec)]
    findings += [finding for record in gate.made for finding in lint.of_record(title_of(record), record)]
    refused = [f"{finding.where}: {finding.text}" for finding in findings if finding.severity == "refused"]
    failures = [*refused, *failures, *_minimised(gate)]
    notes += [str(finding) for finding in findings if finding.severity == "flagged"]
    return list(dict.fromkeys(failures)), list(dict.fromkeys(notes))


def _spec(suite: str | Path) -> Spec:
    source = plan.read_suite_file(suite) if isinstance(suite, Path) else plan.read_suite(suite)
    return plan.build_spec(source, plan.Overrides(device="cpu"))


def _cells(spec: Spec, recorded: Sequence[Record]) -> Iterator[str]:
    """Find cells and replicates that are missing on one side."""
    known, done = {record.key: record for record in recorded}, records.done(recorded)
    for cell in spec.cells:
        if cell.key not in known:
            yield f"{cell.title}: not in the reference{_nearest(cell.as_dict(), recorded)}"
            continue
        missing = [r.seed for r in spec.replicates if r not in done.get(cell.key, ())]
        if missing:
            yield f"{cell.title}: the reference lacks seeds {', '.join(map(str, missing))}"
    asked = {cell.key for cell in spec.cells}
    for record in known.values():
        if record.key not in asked:
            yield f"{title_of(record)}: in the reference, but no longer in the suite"


def _nearest(cell: Mapping[str, Any], recorded: Sequence[Record]) -> str:
    """Name the options in which the most similar reference cell with the same names differs."""
    mine = flatten(cell)
    gaps = []
    for record in recorded:
        theirs = flatten(record.cell.as_dict())
        if [theirs[k] for k in _NAMES] == [mine[k] for k in _NAMES]:
            gaps.append([k for k in mine | theirs if mine.get(k) != theirs.get(k)])
    if not gaps:
        return ""
    fields = min(gaps, key=len)
    return f": {', '.join(f.removeprefix('protocol.').removeprefix('treatment.') for f in fields)} differ"


_NAMES = ("protocol.dataset", "protocol.model", "treatment")


def _definitions(record: Record) -> Iterator[str]:
    """Find metrics whose definition, unit or direction has changed, and values that are not finite."""
    known = catalog.metrics()
    for name, entry in record.values.metrics.items():
        metric = known.get(name.partition("[")[0])
        if metric is None:
            yield f"{title_of(record)}: metric {name} does not exist any more"
            continue
        here = scoring.entry_of(metric)
        for key in ("unit", "better", "definition"):
            if (was := getattr(entry, key)) != (now := getattr(here, key)):
                yield f"{title_of(record)}: metric {name}: its {key} is {now}, was {was}"
    for name in _lost(record):
        yield f"{title_of(record)}: metric {name} is not finite in the reference"


def _data(dataset: Choice, recorded: Sequence[Record]) -> Iterator[str]:
    """Compare checksums and statistics of a data set. Raises DataUnavailable."""
    mine = [record for record in recorded if record.cell.dataset == dataset]
    facts = loading.data_facts(dataset, {0, *(replicate.split for record in mine for replicate in record.replicates)})
    for record in mine:
        for what, found in facts.items():
            for name, was in getattr(record.environment, what).items():
                if not same_statistic(found.get(name), was):
                    yield f"data set {dataset.name}: {what} {name} is {found.get(name)}, was {was}"


def _minimised(gate: Gate) -> Iterator[str]:
    """Find changed factors of the objectives that the suite's cells minimised here, and replicates that failed."""
    reference = {record.key: record for record in gate.recorded}
    for record in gate.made:
        for replicate, reason in record.failed.items():
            yield f"{title_of(record)}: seed {replicate.seed} failed: {reason}"
        if record.key in reference and record.replicates:
            was, found = lint.factors(reference[record.key]), lint.factors(record)
            for name in sorted({*was, *found}):
                if not lint.same_factor(was.get(name), found.get(name)):
                    yield f"{title_of(record)}: {name} is {_number(found.get(name))}, was {_number(was.get(name))}"


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.6g}"


# (b) objectives


def _objectives(gate: Gate) -> tuple[list[str], list[str]]:
    found = objectives.measure()
    return objectives.differences(_read_objectives(gate), found), [f"{len(found)} cases"]


# (c) bits


def _bits(gate: Gate) -> tuple[list[str], list[str]]:
    """Compare values and predictions of the suite byte for byte, if everything that decides the bits is the same."""
    reference = {record.name: record for record in gate.recorded}
    if apart := _apart(gate.recorded, gate.made):
        return [], [f"not compared: {'; '.join(apart)}"]
    shared = [record for record in gate.made if record.name in reference]
    changed = {title_of(record): _changed(reference[record.name], record) for record in shared}
    same = f"{sum(not words for words in changed.values())} of {len(shared)} cells bit-identical"
    return [f"{title}: other bits in {words}" for title, words in changed.items() if words], [same]


def _apart(recorded: Sequence[Record], made: Sequence[Record]) -> list[str]:
    """Describe differences between environments that decide bits."""
    there, here = (_fingerprint(_environment(side)) for side in (recorded, made))
    return [
        f"{key.removeprefix('packages.')}: {here[key]} here, {there[key]} in the reference"
        for key in here
        if here[key] != there[key]
    ]


def _environment(made: Sequence[Record]) -> Mapping[str, Any]:
    return made[0].environment.as_dict() if made else environment.describe("cpu", 1)


def _fingerprint(where: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten(where)
    return {key: flat.get(key) for key in FINGERPRINT}


# (d) quality


def _quality(gate: Gate) -> tuple[list[str], list[str]]:
    """Compare only the records made now, because the results folder may hold others."""
    made = Source(tuple((gate.results, record) for record in gate.made))
    try:
        reference = reading.read(gate.reference / gate.name, indexed=False)
        return regressions(reference, made), [f"{len(gate.made)} cells of {gate.name}"]
    except (NotComparable, BadInput) as error:
        return [f"not comparable: {error}"], []


def regressions(reference: Source, made: Source) -> list[str]:
    """Return one line for each metric that is not finite, or whose whole 95 % interval lies beyond its margin.

    Margins come from the nearest pyproject.toml, and from MARGINS for metrics that it leaves out.
    """
    allowed = _margins()
    columns = _shared_columns(reference, made, allowed)
    if not columns:
        return []
    return [
        f"{pair.b.title}: {finding.metric} {words}"
        for pair in comparison.compare(reference, made, allowed, columns).pairs
        for finding in pair.findings
        if (words := _regression(pair, finding))
    ]


def _margins() -> dict[str, float]:
    return MARGINS | margins.read(None, catalog.names("metrics"))


def _counts(column: str, allowed: Mapping[str, float]) -> bool:
    """Return whether a column such as `ood_auroc[near]` has a margin."""
    return column in allowed or column.partition("[")[0] in allowed


def _shared_columns(reference: Source, made: Source, allowed: Mapping[str, float]) -> list[str]:
    """Return the columns with a margin that both sides of some cell have."""
    there, here = (
        {Pairing().question(result, 0): result.scores for result in merge(side.records)} for side in (reference, made)
    )
    shared = {column for cell, scores in here.items() for column in scores if column in there.get(cell, {})}
    return sorted(column for column in shared if _counts(column, allowed))


def _regression(pair: Pair, finding: Finding) -> str:
    """Describe a regression beyond the margin, else ""; one seed has no interval, so its difference itself counts."""
    scores = pair.b.scores[finding.metric].values
    if lost := [replicate.seed for replicate, value in scores.items() if not math.isfinite(value)]:
        return f"is not finite for seeds {', '.join(map(str, lost))}"
    worse = finding.estimate if finding.better == "lower" else -finding.estimate
    reach = finding.interval if finding.testable else 0.0
    return f"is worse by {worse:.3g} ± {reach:.2g}, margin {finding.margin:g}" if worse - reach > finding.margin else ""


# (e) speed


def _speed(gate: Gate) -> tuple[list[str], list[str]]:
    """Compare ratios to a plain torch step, with a wide tolerance in a different environment."""
    reference = _read_speed(gate)
    at_home = reference["environment"] == _fingerprint(_environment(gate.made))
    allowed = speed.SLOWER if at_home else speed.OTHER_MACHINE
    where = "" if at_home else ", as this is another processor or torch than the reference's"
    note = f"{len(reference['ratios'])} ratios, each allowed {allowed:g} times its reference{where}"
    return speed.differences(reference["ratios"], allowed, speed.ratios), [note]


GATE_PARTS: dict[str, tuple[str, Callable[[Gate], tuple[list[str], list[str]]]]] = {
    "a": ("protocol and declared quantities", _protocol),
    "b": ("objectives at a fixed state", _objectives),
    "c": ("bits", _bits),
    "d": ("quality", _quality),
    "e": ("speed", _speed),
}


def _trained(gate: Gate) -> list[Record]:
    """Train the suite's records now; part (a) checks that its protocol is fair."""
    settings = Settings(gate.results, selection=gate.spec.selection, searches=gate.spec.searches)
    outcomes = execute(batches(gate.spec, ()), settings)
    for outcome in outcomes:
        if outcome.skipped:
            raise BadInput(f"the suite {gate.name} cannot run: {outcome.skipped}")
        if outcome.unwritten:  # what is missing for this is no difference from the reference
            raise Unwritten(outcome.unwritten)
    return [record for outcome in outcomes for record in outcome.records]


def _read_objectives(gate: Gate) -> dict[str, Any]:
    return _read(gate.reference / "objectives.json", objectives.is_measured)


def _read_speed(gate: Gate) -> dict[str, Any]:
    return _read(gate.reference / "speed.json", _is_speed)


def _is_speed(content: Any) -> bool:
    ratios = content.get("ratios") if isinstance(content, dict) else None
    numbers = isinstance(ratios, dict) and all(isinstance(ratio, int | float) for ratio in ratios.values())
    return numbers and isinstance(content.get("environment"), dict)


def _read(path: Path, is_right: Callable[[Any], bool]) -> dict[str, Any]:
    """Read a file of the reference. Raises BadInput if it is absent, incomplete or malformed."""
    try:
        content = decoded(path.read_bytes())
    except (OSError, ValueError):
        content = None
    if not is_right(content):
        state = "is not whole" if path.exists() else "does not exist"
        raise BadInput(f"{path} {state}: write the reference with gate --accept")
    found: dict[str, Any] = content
    return found


def _write(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    files.write_atomic(path, text.encode() + b"\n")
