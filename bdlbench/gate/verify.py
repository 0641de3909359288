"""Comparison of a record with what this tree computes here: the first steps of training, predictions, or everything.

If bits differ, the same work is done again by twins. A twin takes every gradient at parameters moved by rounding
errors. The change that this makes is the noise between equal runs, and a difference within it does not count.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, tee
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core import environment, foreign, torch_state
from bdlbench.core.errors import BadInput, BenchError
from bdlbench.core.spec import ELSEWHERE, Cell, Curves, flatten
from bdlbench.core.streams import Streams
from bdlbench.protocols import Posterior, Restores
from bdlbench.records import evaluation, reading
from bdlbench.records import record as records
from bdlbench.records.contents import FirstSteps
from bdlbench.records.record import Record
from bdlbench.runs import batch as run
from bdlbench.runs import lint, loading, scoring
from bdlbench.runs.batch import Batch, Row, Settings
from bdlbench.runs.choosing import CHOSEN_POINT
from bdlbench.runs.lint import Fault
from bdlbench.training.loop import Nudge, begin, unchanged

BitsVerdict = Literal["identical", "noise", "different", "unchecked"]
WORST_FIRST: tuple[BitsVerdict, ...] = ("different", "unchecked", "noise", "identical")

BESIDE = ("stored predictions", "kept parameters")
"""The parts that are files beside a record."""

CHEAP = 5.0
"""The longest recorded training and prediction, in seconds, that is run again if a record has no fingerprint."""

SPREAD = math.sqrt(100) * torch.finfo(torch.float32).eps / 2
"""Relative standard deviation of the error that a twin adds to every parameter at every step.

A sum of n products in another order rounds n times independently, which gives √n units of roundoff; here n is about
100.
"""

MULTIPLE = 3.0
"""A difference up to this many times the largest one of a twin is noise, because a twin's may be small by chance."""

TWINS = 16
"""The most twins, computed one after another until they explain the difference.

Most differences are of the same size in every twin. Some are rare and large: a unit whose input is 0 except for
rounding may be on in one run and off in the other. For `constant_resnet`, 5 of 16 twins showed the difference between
two processors.
"""

WHOLE_TWINS = 3
"""The most twins that repeat a prediction or train a whole cell."""

MEASURED_ROUNDING = 8 * torch.finfo(torch.float32).eps
"""A relative difference that counts as rounding for any quantity."""

LARGE_CHANGE = 0.01
"""The allowed relative difference of a quantity that moves in steps, if a twin's rounding errors moved only others."""

CLOSED_FORM = torch.finfo(torch.float32).eps ** 0.5
"""The allowed relative difference if twins show none because nothing was minimised: half the digits of float32."""

STATISTIC = 1e-12
"""A relative difference of a statistic of the data that counts as rounding: a sum in another order."""

LIKELY = ("processor", "packages.numpy", "commit")
"""Fields of an environment that are likely to change bits, after torch, device, threads and instructions."""

Numbers = Mapping[str, Tensor]
"""The compared numbers by name: float64, of any shape."""


class Part(NamedTuple):
    """The result of one comparison with the record."""

    name: str
    verdict: BitsVerdict
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """The result for one record.

    Attributes:
        title: The cell in words.
        replicates: The number of replicates.
        failed: The number of replicates without values.
        parts: What was compared.
        elsewhere: Differences between this environment and the record's.
        findings: Faults found by the lint.
        temperature: The effective temperature in words.
    """

    title: str
    replicates: int
    failed: int
    parts: tuple[Part, ...] = ()
    elsewhere: tuple[str, ...] = ()
    findings: tuple[Fault, ...] = ()
    temperature: str = ""

    @property
    def verdict(self) -> BitsVerdict:
        """The worst verdict of the parts, where unchecked is worse than noise; unchecked if there are no parts."""
        found = {part.verdict for part in self.parts}
        return next((verdict for verdict in WORST_FIRST if verdict in found), "unchecked")

    @property
    def checked(self) -> tuple[str, ...]:
        """The names of the parts that were compared with the record."""
        return tuple(part.name for part in self.parts if part.verdict != "unchecked")


def verify_folder(path: Path, full: bool = False, threads: int | None = None) -> Iterator[Check]:
    """Compare each record of a folder, or one record, with what is computed here. Raises BadInput if there is none.

    A record that cannot be read has a check too, after the others: it is unchecked.

    Torch's global state has no influence on it; changes by the caller between two checks remain.
    """
    source = reading.read(path, indexed=False)
    found = source.records
    seeds = {
        record.key: {r for other in found if other.key == record.key for r in other.replicates} for record in found
    }
    for record in found:
        with torch_state.usual():
            check = verify(record.path.parent, record, full, threads)
        few = lint.of_replicates(check.title, sorted(seeds[record.key]))
        yield replace(check, findings=(*few, *check.findings))
    for unread in source.unread:
        yield Check(unread.path.name, 0, 0, (Part("record", "unchecked", unread.reason),))


def verify(folder: Path, record: Record, full: bool = False, threads: int | None = None) -> Check:
    """Compare a record in `folder` with what is computed here, on `threads` threads or else the record's number.

    An error becomes a part of the record's check, because the folder's other records must be checked too.
    """
    check = Check(
        title_of(record),
        len(record.replicates),
        len(record.failed),
        findings=tuple(lint.of_record(title_of(record), record)),
        temperature=lint.temperature(record),
    )
    if not record.replicates:
        return check
    kept = tuple(_until_an_error(_files(folder, record)))
    if record.cell.device == ELSEWHERE:
        return replace(check, parts=(Part("predictions made elsewhere", "unchecked"), *kept))
    try:
        batch = batch_of(record, threads)
        here, found = _surroundings(batch)
    except (Exception, SystemExit) as error:  # an entry or a file is unavailable here
        reason = f"{foreign.reason_of(error)}{_plugin_words(record)}"
        return replace(check, parts=(*kept, Part("cell", "unchecked", reason)))
    sound = all(part.verdict == "identical" for part in kept if part.name in BESIDE)
    work = _whole(folder, record, batch, sound) if full else _slice(folder, record, batch, sound)
    parts = tuple(_until_an_error(work))
    elsewhere = tuple(differences(record, here, batch))
    return replace(check, parts=(*kept, *parts), elsewhere=elsewhere, findings=(*check.findings, *found))


def _until_an_error(parts: Iterator[Part]) -> Iterator[Part]:
    """Yield the parts; an error becomes a part with the verdict different, because the record's work had succeeded."""
    try:
        yield from parts
    except (Exception, SystemExit) as error:  # entries of plugins raise any error: other records must be checked
        yield Part("cell", "different", foreign.reason_of(error))


def _plugin_words(record: Record) -> str:
    """Name an entry that is not in this catalog and came from a plugin, or from an unknown source."""
    cell, code = record.cell, record.environment.code
    named: dict[catalog.Kind, str] = {
        "methods": cell.method.name,
        "models": cell.model.name,
        "datasets": cell.dataset.name,
    }
    for kind, name in named.items():
        if name not in catalog.names(kind) and (code is None or f"{kind} {name}" in code):
            return f"; {name} is not of this package: name the file that has it with --plugin FILE.py"
    return ""


# Files beside the record


def _files(folder: Path, record: Record) -> Iterator[Part]:
    """Check that the files of a record exist and have the recorded checksums, and that its metrics follow from them."""
    arrays: dict[str, Tensor] = {}
    if records.lacks_predictions(folder, record):
        gone = folder / f"{record.name}.safetensors"
        yield Part("stored predictions", "unchecked", f"{gone} is missing: the record beside it names it")
    elif record.predictions:
        try:
            arrays = records.predictions(folder, record)
        except BadInput as error:
            yield Part("stored predictions", "different", str(error))
        else:
            yield _rescored(record, arrays)
    if records.has_parameters(folder, record):
        try:
            state = records.parameters(folder, record)
        except BadInput as error:
            yield Part("kept parameters", "different", str(error))
        else:
            if tuple(scoring.row_hashes(state)) != record.values.parameters_sha256:
                yield Part("kept parameters", "different", "their hash differs from the record's")
    for name, reason in record.unscored.items():
        yield Part(f"metric {name}", "unchecked", f"it has no values: {reason}")
    known, unknown = catalog.names("metrics"), {name.partition("[")[0] for name in record.values.metrics}
    for name in sorted(unknown.difference(known)):
        yield Part(
            f"metric {name}", "unchecked", "this catalog lacks it: name the file that has it with --plugin FILE.py"
        )


def _rescored(record: Record, arrays: Mapping[str, Tensor]) -> Part:
    """Score stored predictions again, and compare the metrics with the record's.

    Metrics of the posterior's facts, which are not stored, and metrics whose definition has changed are left out.
    """
    name = "stored predictions"
    kept = evaluation.read(record, arrays)
    if kept is None:
        return Part(name, "identical")
    metrics = catalog.metrics()
    recorded = _known(record).values.metrics
    entries = {column.partition("[")[0] for column in recorded}
    with environment.one_thread():
        again, raised = scoring.scored(kept, {entry: metrics[entry] for entry in sorted(entries)})
    both = [c for c in recorded if c in again and recorded[c].definition == again[c].definition]
    if raised and not both:
        return Part(name, "unchecked", f"no metric can be computed from them: {next(iter(raised.values()))}")
    then, now = ({c: _column(table[c].values) for c in both} for table in (recorded, again))
    judged = _judged(name, then, now, []) if both else Part(name, "identical")
    if judged.verdict == "different":
        return Part(name, "different", f"the record's metrics do not follow from them: {judged.detail}")
    return Part(name, "identical")  # up to the rounding of storage in float32


def title_of(record: Record) -> str:
    """Return the cell in words: mle · mlp · digits."""
    return record.cell.title


def batch_of(record: Record, threads: int | None = None) -> Batch:
    """Return a batch of the record's replicates. Raises BadInput if an entry or option is unknown here."""
    then = record.cell.at(0)
    cell = Cell(
        catalog.recorded("methods", then.method),
        catalog.recorded("models", then.model),
        catalog.recorded("datasets", then.dataset),
        then.samples,
        then.device if then.device == "cpu" or torch.cuda.is_available() else "cpu",
        threads or then.threads,
    )
    if record.cell.tuning:
        cell = cell.chosen_by(record.cell.tuning)
    points = tuple(round(point or 0.0) for point in record.values.facts.get(CHOSEN_POINT, ()))
    return Batch(tuple(Row(cell, replicate) for replicate in record.replicates), points)


def differences(record: Record, here: Mapping[str, Any], batch: Batch) -> Iterator[str]:
    """Describe the differences from the environment of a record, the most likely to change bits first."""
    there, cell = record.environment, batch.cells[0]
    for source, sha256 in there.sources.items():
        if here["sources"].get(source) != sha256:
            yield f"the data: SHA-256 of {source} is {here['sources'].get(source, 'absent')[:12]}, was {sha256[:12]}"
    options, mine = flatten(record.cell.as_dict()), flatten(cell.as_dict())
    yield from (f"{k}: {mine.get(k)} here, was {options.get(k)}" for k in options | mine if _apart(k, options, mine))
    then, now = flatten(there.as_dict()), flatten(here)
    asked = [key for key in then if key.startswith("instructions.")]  # older records lack them
    for key in ("packages.torch", "device", "threads", "cpu_capability", *asked, *LIKELY):
        if then.get(key) != now.get(key):
            name = key.removeprefix("packages.").removeprefix("instructions.")
            yield f"{name}: {_short(now.get(key))} here, was {_short(then.get(key))}"
    if record.batch_rows != len(batch.rows):
        rows = f"{len(batch.rows)} here, were {record.batch_rows}"
        yield f"rows of its batch: {rows} (convolutions then round differently)"
    for key in sorted(then.keys() & now.keys()):
        rest = key.startswith("packages.") and key not in ("packages.torch", "packages.numpy", "packages.bdlbench")
        if (rest or key in ("python", "platform")) and then[key] != now[key]:
            yield f"{key.removeprefix('packages.')}: {now[key]} here, was {then[key]}"


def _apart(key: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    return key not in ("device", "threads") and there.get(key) != here.get(key)


def _short(value: Any) -> str:
    text = str(value or "unknown")
    return text[:12] + text[40:] if len(text) > 39 and set(text[:40]) <= set("0123456789abcdef") else text


def _surroundings(batch: Batch) -> tuple[dict[str, Any], list[Fault]]:
    """Return the environment of a record made here, and the lint's faults of the data."""
    cell = batch.cells[0]
    found = lint.of_data(cell.dataset, {row.replicate.split for row in batch.rows})
    return environment.describe(cell.device, cell.threads) | _data_here(batch), found


# The cheap slice


def _slice(folder: Path, record: Record, batch: Batch, sound: bool) -> Iterator[Part]:
    """Check the data, the first steps of training, and, if the files are sound, predictions from kept parameters."""
    yield _data(record, batch)
    if record.values.first_steps:
        yield _first_steps(record, batch)
    elif record.seconds is not None and record.seconds <= CHEAP:
        yield from _whole(folder, record, batch, sound)
        return
    else:
        yield Part(
            "training", "unchecked", "there is no fingerprint, because nothing was minimised: --full runs it again"
        )
    if sound and records.has_parameters(folder, record):
        yield _predictions(folder, record, batch)


def _data(record: Record, batch: Batch) -> Part:
    """Compare checksums of the sources, and statistics that preprocessing computed from the training data."""
    here = _data_here(batch)
    for what in ("sources", "statistics"):
        for name, value in getattr(record.environment, what).items():
            if not same_statistic(here[what].get(name), value):
                return Part("data", "different", f"{what} {name}")
    return Part("data", "identical")


def _data_here(batch: Batch) -> dict[str, dict[str, Any]]:
    """Return the facts of the data, of split 0 too, because older records of other splits keep only its facts."""
    return loading.data_facts(batch.cells[0].dataset, {0, *(row.replicate.split for row in batch.rows)})


def same_statistic(a: Any, b: Any) -> bool:
    """Return whether two facts of the data are equal: numbers up to rounding, anything else exactly."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=STATISTIC)
    return bool(a == b)


def _first_steps(record: Record, batch: Batch) -> Part:
    """Compare the fingerprint of the rows after the first steps."""
    recorded = record.values.first_steps
    name = f"first {recorded[0].steps} steps"
    found = fingerprint(batch, recorded[0].steps)
    if [row.sha256 for row in found] == [row.sha256 for row in recorded]:
        return Part(name, "identical")

    def again(nudge: Nudge) -> Numbers:
        return _columns(fingerprint(batch, recorded[0].steps, nudge))

    return _judged(name, _columns(recorded), _columns(found), _twins(again, TWINS))


def fingerprint(batch: Batch, steps: int, nudge: Nudge = unchanged) -> tuple[FirstSteps, ...]:
    """Train a batch for `steps` steps, and return their fingerprint as `run` records it."""
    problem, model, method = run.build(batch)
    rng = Streams.of_seeds([row.replicate.seed for row in batch.rows])
    with foreign.calling(f"method {batch.cells[0].method.name}", method):
        fits, _ = begin(lambda: method.fit(model, problem.train, rng), steps, nudge)
    return scoring.first_steps(fits, len(batch.rows))


def rounding(twin: int) -> Nudge:
    """Return a nudge that adds a relative error of standard deviation SPREAD to every number at every step."""

    def nudge(values: Tensor, step: int) -> Tensor:
        if not values.is_floating_point():
            return values
        errors = np.random.default_rng((twin, step)).standard_normal(tuple(values.shape))
        return values * (1 + SPREAD * torch.from_numpy(errors)).to(values)

    return nudge


def _twins(again: Callable[[Nudge], Numbers], most: int) -> Iterator[Numbers]:
    """Yield each twin's result of the same work; a twin that fails is skipped."""
    for twin in range(most):
        try:
            numbers = again(rounding(twin))
        except BenchError:
            continue
        yield numbers


def _predictions(folder: Path, record: Record, batch: Batch) -> Part:
    """Compare the predictions from kept parameters."""
    problem, model, method = run.build(batch)
    state = {name: value.to(batch.cells[0].device) for name, value in records.parameters(folder, record).items()}
    if not record.predictions:
        return Part("predictions", "unchecked", "the record has none")

    def predict(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        with foreign.calling(f"method {batch.cells[0].method.name}", method):
            posterior = method.restored(model, state) if isinstance(method, Restores) else None
            return None if posterior is None else _arrays(posterior, problem, model, batch)

    found = predict(state)
    if found is None:
        return Part(
            "predictions", "unchecked", "the method cannot restore a posterior from its state: --full runs it again"
        )
    recorded = records.predictions(folder, record)
    if _equal(recorded, found):
        return Part("predictions", "identical")

    def again(nudge: Nudge) -> Numbers:
        return _numbers(predict({name: nudge(state[name], i) for i, name in enumerate(sorted(state))}) or {})

    return _judged("predictions", _numbers(recorded), _numbers(found), _twins(again, WHOLE_TWINS), LARGE_CHANGE)


def _arrays(posterior: Posterior, problem: Any, model: Any, batch: Batch) -> dict[str, Tensor]:
    rng = Streams.of_seeds([row.replicate.seed for row in batch.rows])
    return scoring.stored_arrays(scoring.evaluate(posterior, problem, model, batch.cells[0].samples, rng))


# The whole cell


def _whole(folder: Path, record: Record, batch: Batch, sound: bool) -> Iterator[Part]:
    """Train, predict and score again; compare all values, and the predictions if the files are sound."""
    curves = _curves(record)
    found, arrays = _rerun(batch, curves=curves)
    old, new = record.values.as_dict(), found.values.as_dict()
    old = {name: column for name, column in old.items() if name not in ("metrics", "objective")}
    new = {name: new.get(name) for name in old}
    metrics = {name: entry.values for name, entry in _known(record).values.metrics.items()}
    scored = {name: entry.values for name, entry in found.values.metrics.items() if name in metrics}
    recorded = records.predictions(folder, record) if record.predictions and sound else {}
    if old == new and metrics == scored and _equal(recorded, arrays):
        yield Part("whole cell", "identical")
        return
    if found.replicates != record.replicates:
        yield Part("whole cell", "different", "other replicates fail here than in the record")
        return

    def again(nudge: Nudge) -> Numbers:
        twin, predicted = _rerun(batch, nudge, curves)
        return {**_metrics(twin), **_numbers(predicted)}

    for_predictions, for_metrics = tee(_twins(again, WHOLE_TWINS))
    if recorded:
        yield _judged("predictions", _numbers(recorded), _numbers(arrays), for_predictions, LARGE_CHANGE)
    yield _judged("metrics", _metrics(_known(record)), _metrics(found), for_metrics, LARGE_CHANGE)


def _known(record: Record) -> Record:
    """Remove metrics that this catalog lacks."""
    known = catalog.names("metrics")
    kept = {name: entry for name, entry in record.values.metrics.items() if name.partition("[")[0] in known}
    return replace(record, values=replace(record.values, metrics=kept))


def _curves(record: Record) -> Curves | None:
    """Return what a run must be asked for to measure the record's curves again."""
    if (then := record.values.curves) is None:
        return None
    names = dict.fromkeys(column.partition("[")[0] for column in then.series)
    return Curves(tuple(name for name in names if name in catalog.names("metrics")), 0, then.epochs, then.samples)


def _rerun(batch: Batch, nudge: Nudge = unchanged, curves: Curves | None = None) -> tuple[Record, dict[str, Tensor]]:
    """Train a batch of one cell in a temporary folder, and return its record and predictions."""
    with tempfile.TemporaryDirectory(prefix="bdlbench-") as folder:
        outcome = run.run_batch(batch, Settings(Path(folder), nudge=nudge, curves=curves))
        if not outcome.records:
            raise BadInput(outcome.skipped)
        (record,) = outcome.records
        return record, records.predictions(Path(folder), record)


# Verdicts


def _judged(name: str, recorded: Numbers, found: Numbers, twins: Iterable[Numbers], coarse: float = 0.0) -> Part:
    """Judge differences: noise if each is within MULTIPLE of the largest that rounding made in a twin, else different.

    Differences are root mean squares over a quantity's elements.

    Args:
        name: The part's name.
        recorded: The record's numbers.
        found: The numbers computed here.
        twins: Numbers computed here with rounding errors, taken until they explain the difference; a number missing in
            a twin shows no noise.
        coarse: The relative difference allowed for quantities that move in steps, such as an accuracy, if rounding
            changes only other quantities.

    Returns:
        The part with its verdict.
    """
    if not recorded:
        return Part(name, "unchecked", "the record has none")
    missing = [key for key in recorded if key not in found or found[key].shape != recorded[key].shape]
    if missing:
        return Part(name, "different", f"{missing[0]} is absent, or of another shape")
    gap = {key: _distance(value, found[key]) for key, value in recorded.items()}
    noise = dict.fromkeys(recorded, 0.0)
    for twin in chain(twins, [{}]):  # the last, empty one serves if every twin failed
        noise = {key: max(noise[key], _noise(twin.get(key), found[key])) for key in recorded}
        still = MEASURED_ROUNDING if not coarse else coarse if any(noise.values()) else CLOSED_FORM
        least = {key: (MEASURED_ROUNDING if noise[key] else still) * _scale(recorded[key]) for key in recorded}
        allowed = {key: MULTIPLE * noise[key] + least[key] for key in recorded}
        worst = max(recorded, key=lambda key: _excess(gap[key], allowed[key]))
        if gap[worst] <= allowed[worst]:
            break
    words = f"{worst} off by {gap[worst]:.2g}; rounding makes {noise[worst]:.2g}"
    return Part(name, "noise" if gap[worst] <= allowed[worst] else "different", words)


def _noise(twin: Tensor | None, found: Tensor) -> float:
    """Return the effect of rounding; 0 if the twin failed or its numbers have another shape."""
    if twin is None or twin.shape != found.shape:
        return 0.0
    distance = _distance(twin, found)
    return 0.0 if math.isnan(distance) else distance


def _excess(gap: float, allowed: float) -> float:
    return math.inf if math.isnan(gap) else gap / max(allowed, 1e-300)


def _distance(a: Tensor, b: Tensor) -> float:
    """Compute the root mean square of a − b; equal infinities and NaN do not differ, others give NaN."""
    same = (a == b) | (a.isnan() & b.isnan())
    return float(torch.where(same, 0.0, a - b).square().mean().sqrt())


def _scale(values: Tensor) -> float:
    finite = values[values.isfinite()]
    return float(finite.square().mean().sqrt()) if len(finite) else 0.0


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(name in b and _bits(value) == _bits(b[name]) for name, value in a.items())


def _bits(value: Tensor) -> bytes:
    return hashlib.sha256(value.contiguous().numpy().tobytes()).digest()


def _numbers(arrays: Mapping[str, Tensor]) -> Numbers:
    return {name: value.double() for name, value in arrays.items() if value.is_floating_point()}


def _metrics(record: Record) -> Numbers:
    found = {name: _column(entry.values) for name, entry in record.values.metrics.items()}
    curves = record.values.curves.series if record.values.curves else {}
    return found | {f"curve of {name}": torch.stack([*map(_column, rows)]) for name, rows in curves.items()}


def _columns(rows: Sequence[FirstSteps]) -> Numbers:
    """Return the loss and norm of a fingerprint."""
    return {
        "loss": _column([number for row in rows for number in row.loss]),
        "norm": _column([number for row in rows for number in row.norm]),
    }


def _column(values: Sequence[float | None]) -> Tensor:
    """Convert to a tensor, with NaN for None."""
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)
