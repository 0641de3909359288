"""One gate for quality and speed: is this tree still the one that the reference records were made with?

In this order: (a) protocol and declared quantities, exactly; (b) every method's objective at a fixed state, to 1e-8;
(c) bits, where the environment is that of the reference; (d) quality of a small suite, with error bars; (e) speed
ratios.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdlbench import catalog, environment, files, lint, margins, objectives, plan, records, run, sources, speed
from bdlbench import compare as comparison
from bdlbench.clock import now
from bdlbench.compare import Pair
from bdlbench.differences import Finding
from bdlbench.errors import BadInput, DataUnavailable, NotComparable
from bdlbench.records import Record
from bdlbench.results import flatten
from bdlbench.run import Batch, Settings, batches, run_batch
from bdlbench.sources import Source
from bdlbench.spec import Choice, Spec
from bdlbench.verify import title_of

FINGERPRINT = ("packages.torch", "packages.numpy", "processor", "cpu_capability", "device")
"""What of an environment decides bits, and the ratios of times."""

MARGINS = {"nll": 0.05, "accuracy": 0.03, "rmse": 0.02, "ece": 0.03, "brier": 0.03, "negative_elbo": 0.3}
"""How much worse a metric of the suite may be: a regression is a whole interval beyond it."""

FEW = 6
"""Names that a line gives of what changed."""

STATISTIC = 1e-12
"""Relative difference of a statistic of the data that is rounding: a sum in another order."""


@dataclass(frozen=True)
class Section:
    """One part of the gate: what failed, one line each, and what else is to be said."""

    name: str
    title: str
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class Gate:
    """What is held against what. reference: the folder; suite: its small suite, by name or file; results: where to run.

    made: the records of the suite, once it has run.
    """

    reference: Path
    suite: str | Path
    results: Path
    made: list[Record] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The suite's folder in the reference."""
        return self.suite.stem if isinstance(self.suite, Path) else self.suite

    @property
    def spec(self) -> Spec:
        """The suite's cells on this tree."""
        return _spec(self.suite)

    @property
    def recorded(self) -> list[Record]:
        """The suite's reference. Raises BadInput where there is none, or a record is not whole."""
        found = records.read(self.reference / self.name)
        if not found:
            raise BadInput(f"{self.reference / self.name} holds no records: write the reference with gate --accept")
        return found


def check(gate: Gate, say: Callable[[Section], None] = lambda section: None) -> list[Section]:
    """All parts in order; `say` hears of each when it is done. Raises BadInput where the reference cannot be read."""
    gate.recorded, _read(gate.reference / "objectives.json"), _read(gate.reference / "speed.json")
    sections = []
    for letter, (title, part) in PARTS.items():
        began = now()
        failures, notes = part(gate)
        sections.append(Section(letter, title, tuple(failures), tuple(notes), now() - began))
        say(sections[-1])
    return sections


def accept(gate: Gate) -> list[str]:
    """Make the reference what this tree makes; one line for each thing that changed."""
    lines = []
    gate.made = _trained(gate)
    folder = gate.reference / gate.name
    old = {record.name: record for record in records.read(folder)} if folder.exists() else {}
    new = {record.name: record for record in gate.made}
    for name in sorted({*old, *new}):
        if name not in new:
            lines.append(f"removed {title_of(old[name])}: {name}")
        elif name not in old:
            lines.append(f"added {title_of(new[name])}: {name}")
        elif changed := _changed(old[name], new[name]):
            lines.append(f"changed {title_of(new[name])}: {changed}")
    _replace_records(gate, folder, lines)
    was, found = _read(gate.reference / "objectives.json", {}), objectives.measure()
    lines += [f"objective of {line}" for line in objectives.differences(was, found)]
    _write(gate.reference / "objectives.json", found)
    lines += _accept_speed(gate)
    return lines


def _replace_records(gate: Gate, folder: Path, lines: Sequence[str]) -> None:
    """The new records in place of the old; where nothing deterministic changed, the files stay as they are."""
    if not lines:
        return
    if folder.exists():
        shutil.rmtree(folder)
    for record in gate.made:
        for ending in (".safetensors", ".json"):
            source = gate.results / f"{record.name}{ending}"
            if source.exists():
                files.write_atomic(folder / source.name, source.read_bytes())


def _changed(old: Record, new: Record) -> str:
    """What differs between two records of a cell, in words."""
    metrics = {
        name for name in old.values["metrics"] | new.values["metrics"] if _metric(old, name) != _metric(new, name)
    }
    others = {
        name for name in old.values | new.values if name != "metrics" and old.values.get(name) != new.values.get(name)
    }
    predictions = {"predictions"} if old.predictions != new.predictions else set()
    changed = sorted(metrics) + sorted(others | predictions)
    return ", ".join(changed[:FEW]) + (f" and {len(changed) - FEW} more" if len(changed) > FEW else "")


def _metric(record: Record, name: str) -> Any:
    return record.values["metrics"].get(name)


def _accept_speed(gate: Gate) -> list[str]:
    """The middle one of three measurements of each ratio."""
    path = gate.reference / "speed.json"
    measured = [speed.ratios() for _ in range(3)]
    middle = {name: round(sorted(found[name] for found in measured)[1], 3) for name in measured[0]}
    was = _read(path, {"ratios": {}})["ratios"]
    _write(path, {"environment": _fingerprint(_environment(gate.made)), "ratios": middle})
    return [
        f"speed of {name}: {middle.get(name)}, was {was.get(name)}"
        for name in middle | was
        if was.get(name) != middle.get(name)
    ]


# (a) protocol


def _protocol(gate: Gate) -> tuple[list[str], list[str]]:
    """Cells, metric definitions, data and lint of every suite that has a reference; then what was minimised."""
    failures: list[str] = []
    notes: list[str] = []
    suites: dict[str, str | Path] = {name: name for name in plan.suite_names() if (gate.reference / name).is_dir()}
    seen: set[str] = set()
    for name, suite in (suites | {gate.name: gate.suite}).items():
        recorded = records.read(gate.reference / name)
        spec = _spec(suite)
        failures += [f"{name}: {line}" for line in _cells(spec, recorded)]
        failures += [f"{name}: {line}" for record in recorded for line in _definitions(record)]
        for dataset in dict.fromkeys(cell.dataset for cell in spec.cells):
            try:
                found = list(dict.fromkeys(_data(dataset, recorded)))
            except DataUnavailable as error:
                notes.append(f"not at hand: {error}")
                continue
            failures += [line for line in found if line not in seen]
            seen.update(found)
    gate.made = _trained(gate)
    return failures + list(_minimised(gate)), notes


def _spec(suite: str | Path) -> Spec:
    source = plan.read_suite_file(suite) if isinstance(suite, Path) else plan.read_suite(suite)
    return plan.build_spec(source, plan.Overrides(device="cpu"))


def _cells(spec: Spec, recorded: Sequence[Record]) -> Iterator[str]:
    """Cells and replicates that one side lacks."""
    known = {record.key: record for record in recorded}
    for cell in spec.cells:
        if cell.key not in known:
            yield f"{cell.title}: not in the reference{_nearest(cell.as_dict(), recorded)}"
            continue
        missing = [r.seed for r in spec.replicates if r not in records.done(recorded, cell.key)]
        if missing:
            yield f"{cell.title}: the reference lacks seeds {', '.join(map(str, missing))}"
    asked = {cell.key for cell in spec.cells}
    for record in known.values():
        if record.key not in asked:
            yield f"{title_of(record)}: in the reference, but no longer in the suite"


def _nearest(cell: Mapping[str, Any], recorded: Sequence[Record]) -> str:
    """In which options the most similar reference cell of the same names differs."""
    mine = flatten(cell)
    gaps = []
    for record in recorded:
        theirs = flatten(record.cell)
        if [theirs[k] for k in _NAMES] == [mine[k] for k in _NAMES]:
            gaps.append([k for k in mine | theirs if mine.get(k) != theirs.get(k)])
    if not gaps:
        return ""
    fields = min(gaps, key=len)
    return f": {', '.join(f.removeprefix('protocol.').removeprefix('treatment.') for f in fields)} differ"


_NAMES = ("protocol.dataset", "protocol.model", "treatment")


def _definitions(record: Record) -> Iterator[str]:
    """Metrics whose definition, unit or direction is another now, and values that are not finite."""
    known = catalog.metrics()
    for name, entry in record.values["metrics"].items():
        metric = known.get(name.partition("[")[0])
        if metric is None:
            yield f"{title_of(record)}: metric {name} does not exist any more"
            continue
        here = run.entry_of(metric)
        for key in ("unit", "better", "definition"):
            if entry[key] != here[key]:
                yield f"{title_of(record)}: metric {name}: its {key} is {here[key]}, was {entry[key]}"
        if name in MARGINS and any(value is None for value in entry["values"]):
            yield f"{title_of(record)}: metric {name} is not finite in the reference"


def _data(dataset: Choice, recorded: Sequence[Record]) -> Iterator[str]:
    """Checksums and statistics of a data set, and its lint. Raises DataUnavailable."""
    task = run.load_task(dataset, 0)
    yield from (f"data set {finding.where}: {finding.message}" for finding in lint.of_task(dataset.name, task))
    mine = [record for record in recorded if record.cell["protocol"]["dataset"] == dataset.as_dict()]
    for record in mine:
        for what, found in (("sources", task.sources), ("statistics", task.statistics)):
            for name, was in record.environment.get(what, {}).items():
                if not _same(found.get(name), was):
                    yield f"data set {dataset.name}: {what} {name} is {found.get(name)}, was {was}"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=STATISTIC)
    return bool(a == b)


def _minimised(gate: Gate) -> Iterator[str]:
    """Factors of what the suite's cells minimised here, and replicates that failed."""
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
    return objectives.differences(_read(gate.reference / "objectives.json"), found), [f"{len(found)} cases"]


# (c) bits


def _bits(gate: Gate) -> tuple[list[str], list[str]]:
    """Values and predictions of the suite byte for byte, where everything that decides them is the same."""
    reference = {record.name: record for record in gate.recorded}
    there, here = (_fingerprint(_environment(side)) for side in (gate.recorded, gate.made))
    apart = [
        f"{key.removeprefix('packages.')}: {here[key]} here, {there[key]} in the reference"
        for key in here
        if here[key] != there[key]
    ]
    if apart:
        return [], [f"not compared: {'; '.join(apart)}"]
    shared = [record for record in gate.made if record.name in reference]
    changed = {title_of(record): _changed(reference[record.name], record) for record in shared}
    same = f"{sum(not words for words in changed.values())} of {len(shared)} cells bit-identical"
    return [f"{title}: other bits in {words}" for title, words in changed.items() if words], [same]


def _environment(made: Sequence[Record]) -> Mapping[str, Any]:
    return made[0].environment if made else environment.describe("cpu", 1)


def _fingerprint(where: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten(where)
    return {key: flat.get(key) for key in FINGERPRINT}


# (d) quality


def _quality(gate: Gate) -> tuple[list[str], list[str]]:
    sides = (sources.read(gate.reference / gate.name), sources.read(gate.results))
    try:
        return regressions(*sides), [f"{len(gate.made)} cells of {gate.name}"]
    except NotComparable as error:
        return [f"not comparable: {error}"], []


def regressions(reference: Source, made: Source) -> list[str]:
    """One line for each metric of a cell whose whole 95 % interval is worse by more than its margin, or not finite.

    Margins are those of the nearest pyproject.toml, MARGINS for what it leaves out.
    """
    allowed = MARGINS | margins.read(None, catalog.names("metrics"))
    return [
        f"{pair.b.title}: {finding.metric} {words}"
        for pair in comparison.compare(reference, made, allowed, sorted(_shared_metrics(reference, made))).pairs
        for finding in pair.findings
        if (words := _regression(pair, finding))
    ]


def _shared_metrics(*sides: Source) -> set[str]:
    """Those with a margin that both sides have."""
    named = [{name.partition("[")[0] for record in side.records for name in record.values["metrics"]} for side in sides]
    return MARGINS.keys() & set.intersection(*named)


def _regression(pair: Pair, finding: Finding) -> str:
    """By how much, where a margin is exceeded; one seed has no interval, so its difference itself counts."""
    scores = pair.b.scores[finding.metric].values
    if lost := [replicate.seed for replicate, value in scores.items() if not math.isfinite(value)]:
        return f"is not finite for seeds {', '.join(map(str, lost))}"
    worse = finding.estimate if finding.better == "lower" else -finding.estimate
    reach = finding.interval if finding.testable else 0.0
    return f"is worse by {worse:.3g} ± {reach:.2g}, margin {finding.margin:g}" if worse - reach > finding.margin else ""


# (e) speed


def _speed(gate: Gate) -> tuple[list[str], list[str]]:
    """Ratios to a plain torch step; the tolerance is wide where the environment is another."""
    reference = _read(gate.reference / "speed.json")
    at_home = reference["environment"] == _fingerprint(_environment(gate.made))
    allowed = speed.SLOWER if at_home else speed.ELSEWHERE
    worst = speed.excess(reference["ratios"], allowed, speed.ratios)
    failures = [
        f"the step of {name} takes {factor:.2f} times what it took, as a ratio to a plain torch step"
        for name, factor in sorted(worst.items(), key=lambda pair: -pair[1])
    ]
    where = "" if at_home else ", as this is another processor or torch than the reference's"
    return failures, [f"{len(reference['ratios'])} ratios, each allowed {allowed:g} times its reference{where}"]


PARTS: dict[str, tuple[str, Callable[[Gate], tuple[list[str], list[str]]]]] = {
    "a": ("protocol and declared quantities", _protocol),
    "b": ("objectives at a fixed state", _objectives),
    "c": ("bits", _bits),
    "d": ("quality", _quality),
    "e": ("speed", _speed),
}


def _trained(gate: Gate) -> list[Record]:
    """The suite's records, trained here and now."""
    done: list[Record] = []
    wanted: Iterable[Batch] = batches(gate.spec, ())
    settings = Settings(gate.results, selection=gate.spec.selection)
    for batch in wanted:
        outcome = run_batch(batch, settings)
        if outcome.skipped:
            raise BadInput(f"the suite {gate.name} cannot run: {outcome.skipped}")
        done += outcome.records
    return done


def _read(path: Path, default: Any = None) -> Any:
    if not path.exists() and default is not None:
        return default
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        state = "is not whole" if path.exists() else "does not exist"
        raise BadInput(f"{path} {state}: write the reference with gate --accept") from None


def _write(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    files.write_atomic(path, text.encode() + b"\n")
