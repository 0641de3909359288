"""Records on disk: one JSON file for each cell and list of replicates, with predictions beside it.

The predictions are written first; the JSON file, which names their checksum, makes the record exist.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bdlbench.core import files, memory
from bdlbench.core.errors import BadInput, printable
from bdlbench.core.options import short
from bdlbench.core.spec import Cell, Choice, Replicate, Tuning
from bdlbench.core.typed import Cost, Count, Misfit, Positive, Sha256, decoded, plain, typed, unseen
from bdlbench.records import index
from bdlbench.records.arrays import refuse_others, row_axis
from bdlbench.records.contents import Environment, MetricValues, Values, finite
from bdlbench.records.index import Stamp, stamp_of

SCHEMA = 6
"""The version of the layout below; it rises with each field that is added or changes its meaning.

A reader accepts every older version, with the defaults of `contents` for missing fields, and refuses a newer one.

Version 1: all records before bdlbench 0.2; a metric's definition was the `repr` of its class.

Version 2: a metric's definition is its version and its options.

Version 3: `values` may hold `curves`, what was measured while training went on.

Version 4: a cell may have a `tuning`, by which its replicates choose options; facts say what they chose.

Version 5: the predictions may hold shifted test sets, whose arrays begin with `shift.`.

Version 6: the environment may name the `search` that chose the options.
"""

SELECTION_SECONDS = "selection_seconds"
"""The cost of choosing options on validation rows, before the fit."""

LARGEST_RECORD = 1 << 26
"""A record of more bytes is neither written nor read: 64 MiB are 100 metrics of 25,000 replicates."""

PARAMETERS = "parameters"
"""The subfolder of a folder of records that holds kept parameters."""


@dataclass(frozen=True)
class Record:
    """One cell and some of its replicates.

    Attributes:
        cell: The cell.
        replicates: Replicates that have values.
        values: Metrics and all else that is deterministic.
        cost: The cost of the whole batch that trained the cell, not of each seed; {} for predictions made elsewhere.
        environment: The machine, the software and the data.
        failed: Replicates without values, with reasons.
        predictions: SHA-256 of the file of predictions; "" if there is none.
        path: The file that the record was read from, which may have been renamed; Path() if it was not read from a
            file.
        unscored: Metrics that raised, with reasons: their values are missing, not undefined.
    """

    cell: Cell
    replicates: tuple[Replicate, ...]
    values: Values
    cost: dict[str, float]
    environment: Environment
    failed: dict[Replicate, str] = field(default_factory=dict)
    predictions: str = ""
    path: Path = field(default=Path(), compare=False, repr=False)
    unscored: dict[str, str] = field(default_factory=dict)

    @property
    def train_seconds(self) -> float | None:
        """The time of training the batch; None if it was not timed here."""
        return self.cost.get("train_seconds")

    @property
    def seconds(self) -> float | None:
        """The time of choosing options, training and predicting the batch; None if it was not timed here."""
        if self.train_seconds is None:
            return None
        return self.train_seconds + self.cost.get("predict_seconds", 0.0) + self.cost.get(SELECTION_SECONDS, 0.0)

    @property
    def batch_rows(self) -> int:
        """The number of replicates trained together, including those of other cells."""
        return int(self.cost.get("rows", len(self.replicates)))

    @property
    def key(self) -> str:
        """The cell's hash."""
        return self.cell.key

    @cached_property
    def name(self) -> str:
        """The file's name without its ending: readable words, then hashes of the cell and of all its replicates."""
        return name_of(self.cell, [*self.replicates, *self.failed])


def name_of(cell: Cell, asked: Iterable[Replicate]) -> str:
    """Return the name of the record of these replicates, with characters replaced that file names cannot hold.

    The name is ASCII: a file's name has at most 255 bytes, not characters, and not every system can write all
    characters.
    """
    names = (cell.dataset.name, cell.model.name, cell.method.name)
    words = [re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:40] for name in names]
    listed = files.digest([{"seed": one.seed, "split": one.split} for one in sorted(asked)])
    return f"{'-'.join(words)}-{cell.key[:12]}-{listed[:8]}"


def write(folder: Path, record: Record, arrays: Mapping[str, Tensor], stem: str = "") -> Path:
    """Write predictions, then the record that names their checksum. Return the path of the JSON file.

    The files are named `stem` if it is given, else by the record's own name.
    """
    stem = stem or record.name
    if arrays:
        content = safetensors.torch.save({name: value.contiguous() for name, value in arrays.items()})
        record = replace(record, predictions=files.sha256(content))
        files.write_atomic(folder / f"{stem}.safetensors", content)
    path = folder / f"{stem}.json"
    body = _to_json(record)
    text = json.dumps({**body, "checksum": files.digest(body)}, indent=1, sort_keys=True, allow_nan=False)
    if len(text) >= LARGEST_RECORD:
        raise BadInput(f"{path} would have more than {LARGEST_RECORD >> 20} MiB: ask for fewer seeds at once")
    files.write_atomic(path, text.encode() + b"\n")
    return path


RECORD = re.compile(r"-[0-9a-f]{12}-[0-9a-f]{8}\.json$")
"""The ending of a record's file name as `write` gives it."""


class Unread(NamedTuple):
    """A file that is, or is called, a record, and cannot be read.

    Attributes:
        path: The file.
        reason: What is wrong, with the file's name and what would be right.
        is_damaged: Whether it is a file of this machine that is cut short or altered. Any other must not be replaced:
            it is of a newer schema, cannot be opened, or is no file.
    """

    path: Path
    reason: str
    is_damaged: bool

    @property
    def named_cell(self) -> str:
        """The beginning of the hash of the cell that the file's name names; "" where it names none."""
        return self.path.name[-26:-14] if RECORD.search(self.path.name) else ""

    def may_be_of(self, cell: Cell) -> bool:
        """Return whether the file's name is that of a record of this cell."""
        return self.named_cell == cell.key[:12]


@dataclass(frozen=True)
class Folder:
    """What lies in a folder of records.

    Attributes:
        records: Its records, sorted by path.
        others: JSON files that are not records.
        unread: Records that cannot be read.
        stamps: What tells, by file, whether it has changed since it was read.
    """

    records: tuple[Record, ...]
    others: tuple[Path, ...] = ()
    unread: tuple[Unread, ...] = ()
    stamps: Mapping[Path, Stamp] = field(default_factory=dict)


NO_FOLDER = Folder(())


def read(path: Path, conflicting: bool = False) -> list[Record]:
    """Read all records directly in a folder, or the one in a file, sorted by name. Say which files are passed over.

    Raises BadInput for a missing folder, an unreadable file, a newer schema, a truncated or altered record, or, unless
    `conflicting`, two records that give one replicate different values.
    """
    found = scan(path, indexed=False)
    for unread in found.unread:
        raise BadInput(unread.reason)
    say_passed_over(found.others, str(path))
    if not conflicting:
        refuse_conflicts(found.records)
    return [*found.records]


@memory.cycles_kept()
def scan(path: Path, below: bool = False, known: Folder = NO_FOLDER, indexed: bool = True) -> Folder:
    """Read the records of a folder, or the one of a file. A record that cannot be read costs nobody the others.

    Args:
        path: A folder, or a file.
        below: Whether subfolders are scanned too, except hidden ones, where a run keeps unfinished work.
        known: What was read before: files that have not changed since are not read again.
        indexed: Whether the index of a large folder may stand in for files that have not changed since it was written.
            Whoever judges the files themselves says no.

    Returns:
        What was found. A file that vanishes meanwhile is not there.

    Raises:
        BadInput: The folder does not exist or cannot be listed, or the file is no record or cannot be read.
    """
    try:
        if not path.exists():
            raise BadInput(f"{path} does not exist: give a folder that `run` wrote")
        if not path.is_dir():
            return Folder((read_one(path),))
        paths: list[Path] = []
        for place, folders, names in os.walk(path, onerror=_refuse_unreadable):
            named = [name for name in names if name.endswith(".json")] + [n for n in folders if RECORD.search(n)]
            paths += [Path(place) / name for name in named if not name.startswith(".")]
            folders[:] = [name for name in folders if below and not name.startswith(".")]
    except OSError as error:
        raise BadInput(f"{error.filename or path} cannot be read: {error.strerror}") from None
    stamps = {file: stamp for file in sorted(paths, key=attrgetter("parts")) if (stamp := _stamp(file))}
    read = {one.path: one for one in known.records if known.stamps.get(one.path) == stamps.get(one.path)}
    is_large = indexed and len(stamps) >= index.LEAST
    if is_large and 2 * len(read) < len(stamps):
        read |= {file: one for file, one in _indexed(path, stamps) if file not in read}
    others: list[Path] = []
    unread: list[Unread] = []
    fresh: list[Record] = []
    for file in stamps:
        if file in read:
            continue
        try:
            if (record := _read(file)) is None:
                others.append(file)
                continue
        except BadInput as error:
            if os.path.lexists(file):  # else another process has just removed it
                unread.append(Unread(file, str(error), _is_damaged(file)))
            continue
        read[file] = record
        fresh.append(record)
    found = tuple(read[file] for file in stamps if file in read)
    if is_large and fresh:
        entries = {one.path.relative_to(path).as_posix(): _entry(one, stamps[one.path]) for one in fresh}
        index.write(path, FORM, entries)
    return Folder(found, tuple(others), tuple(unread), {one.path: stamps[one.path] for one in found})


def _stamp(file: Path) -> Stamp | None:
    """Return a file's stamp, which is that of no file where it cannot be known; None if the file has just vanished."""
    try:
        return stamp_of(os.stat(file))
    except FileNotFoundError:
        return (-1, 0, 0, 0) if os.path.lexists(file) else None
    except OSError:
        return (-1, 0, 0, 0)


def _refuse_unreadable(error: OSError) -> None:
    raise error


@cache
def _say(line: str) -> None:
    """Log a line once in a process, because a command reads its folder several times."""
    logging.getLogger("bdlbench").warning("%s", line)


def say_passed_over(others: Sequence[Path], where: str) -> None:
    """Name the files that are not records in one line: on stderr unless the caller has set up logging."""
    if others:
        named = ", ".join(printable(path.name) for path in others[:3]) + (
            f" and {len(others) - 3} more" if others[3:] else ""
        )
        _say(f"bdlbench: passed over in {where}, not records: {named}")


UNREAD_SHOWN = 5
"""The most records that cannot be read of which each has a line."""


def say_unread(unread: Sequence[Unread]) -> None:
    """Say which records are left out because they cannot be read: a line for each of the first, then their number."""
    for one in unread[:UNREAD_SHOWN]:
        _say(f"bdlbench: left out: {one.reason}")
    if (rest := len(unread) - UNREAD_SHOWN) > 0:
        _say(f"bdlbench: left out: {rest} more records beside {unread[0].path} that cannot be read")


def refuse_conflicts(records: Iterable[Record], replaced: Collection[tuple[str, Replicate]] = ()) -> None:
    """Raise BadInput if two records give one replicate different values.

    Replicates in `replaced`, as (cell's key, replicate), are about to be made anew and may differ.
    """
    cells: dict[str, list[Record]] = {}
    for record in records:
        cells.setdefault(record.key, []).append(record)
    for key, parts in cells.items():
        if len(parts) == 1:  # a record has each of its replicates once
            continue
        seen: dict[Replicate, tuple[Record, int]] = {}
        for record, i, replicate in ((one, *row) for one in parts for row in enumerate(one.replicates)):
            other, j = seen.setdefault(replicate, (record, i))
            if other is record or (key, replicate) in replaced:
                continue
            if other.values.take([j]) != record.values.take([i]):
                one, two = (str(each.path) if each.path.name else each.name for each in (other, record))
                beside = other.path.parent == record.path.parent
                remedy = "`run --fresh` makes these anew" if beside else "give one of the two folders"
                where = f"seed {replicate.seed}, split {replicate.split}"
                raise BadInput(f"{one} and {two} give {where} differing values: {remedy}, or move one elsewhere")


def has_predictions(folder: Path, record: Record) -> bool:
    """Return whether a file of predictions lies beside a record."""
    return _predictions_file(folder, record).exists()


def predictions(folder: Path, record: Record) -> dict[str, Tensor]:
    """Return the per-example arrays beside a record, float32. Raises BadInput if they are absent or altered."""
    path = _predictions_file(folder, record)
    if not record.predictions:
        return {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path} is missing: the record beside it names it") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if files.sha256(content) != record.predictions:
        raise BadInput(f"{path} is not the file that its record names: the checksum differs")
    try:
        arrays = safetensors.torch.load(content)
        refuse_others(arrays, len(record.replicates))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BadInput(f"{path} holds no predictions of its record: {error}; --fresh makes both again") from None
    return arrays


def _predictions_file(folder: Path, record: Record) -> Path:
    """Return the file named as the record's file is; if only the record was renamed, the file of the original name."""
    own = folder / f"{record.path.stem or record.name}.safetensors"
    return own if own.exists() else folder / f"{record.name}.safetensors"


def lacks_predictions(folder: Path, record: Record) -> bool:
    """Return whether the file of predictions that a record names is missing."""
    return bool(record.predictions) and not _predictions_file(folder, record).exists()


def damage(folder: Path, record: Record) -> str:
    """Describe what is wrong with the files beside a record; "" if nothing is wrong, or a file is missing.

    Predictions are read and their checksum is compared. Parameters are large, so only their size is checked.
    """
    try:
        if record.predictions and not lacks_predictions(folder, record):
            predictions(folder, record)
    except BadInput as error:
        return str(error)
    if not (folder / PARAMETERS).is_dir():
        return ""
    path = _parameters_file(folder, record)
    try:
        if path.exists():
            with safe_open(path, "pt"):  # opening compares the file's size with its header
                pass
    except (OSError, SafetensorError) as error:
        return f"{path} is damaged or incomplete: {error}"
    return ""


def write_parameters(folder: Path, record: Record, state: Mapping[str, Tensor]) -> Path:
    """Write a posterior's state, {name: (R, …)}, to the folder PARAMETERS beside the record."""
    path = _parameters_file(folder, record)
    files.write_atomic(path, safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
    return path


def parameters(folder: Path, record: Record) -> dict[str, Tensor]:
    """Return the state that `write_parameters` wrote. Raises BadInput if it is missing or unreadable."""
    path = _parameters_file(folder, record)
    if not path.exists():
        raise BadInput(f"{path} is missing: run the cell with --keep-parameters, and --fresh if it is done already")
    try:
        return {name: value.clone() for name, value in safetensors.torch.load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read because it is damaged: {error}") from None


def has_parameters(folder: Path, record: Record) -> bool:
    """Return whether parameters were kept."""
    return _parameters_file(folder, record).exists()


def _parameters_file(folder: Path, record: Record) -> Path:
    return folder / PARAMETERS / f"{record.name}.safetensors"


def done(records: Iterable[Record]) -> dict[str, set[Replicate]]:
    """Return the replicates that have values, by the cell's key; a cell without any is absent."""
    found: dict[str, set[Replicate]] = {}
    for record in records:
        if record.replicates:
            found.setdefault(record.key, set()).update(record.replicates)
    return found


def without(folder: Path, record: Record, gone: set[Replicate]) -> None:
    """Remove replicates from a record on disk: write what remains, failures too, then delete the old files.

    Kept parameters are removed or kept with their replicates. A record whose file was renamed keeps that name.
    """
    if gone.isdisjoint([*record.replicates, *record.failed]):
        return
    written = ""
    kept = [i for i, replicate in enumerate(record.replicates) if replicate not in gone]
    failed = {replicate: reason for replicate, reason in record.failed.items() if replicate not in gone}
    if kept or failed:
        arrays = {name: _rows(name, value, kept) for name, value in predictions(folder, record).items()} if kept else {}
        rows = tuple(record.replicates[i] for i in kept)
        left = replace(record, replicates=rows, values=record.values.take(kept), failed=failed, predictions="")
        renamed = record.path.stem not in ("", record.name)
        written = write(folder, left, arrays, record.path.stem if renamed else "").stem
        if kept and _parameters_file(folder, record).exists():
            write_parameters(folder, left, {name: value[kept] for name, value in parameters(folder, record).items()})
    old = record.path.stem or record.name
    for path in (folder / f"{old}.json", folder / f"{old}.safetensors") if old != written else ():
        path.unlink(missing_ok=True)
    _parameters_file(folder, record).unlink(missing_ok=True)


def _rows(name: str, value: Tensor, kept: Sequence[int]) -> Tensor:
    return value[:, kept] if row_axis(name) else value[kept]


def _to_json(record: Record) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "cell": record.cell.as_dict(),
        "replicates": [asdict(r) for r in record.replicates],
        "failed": [{**asdict(r), "reason": reason} for r, reason in sorted(record.failed.items())],
        "values": record.values.as_dict(),
        "cost": finite(record.cost),
        "environment": record.environment.as_dict(),
        "predictions": record.predictions,
        **({"unscored": record.unscored} if record.unscored else {}),
    }


def read_one(path: Path) -> Record:
    """Read one record. Raises BadInput if it is unreadable, not a record, truncated, altered or of a newer schema."""
    record = _read(path)
    if record is None:
        raise BadInput(f"{path} is not a whole record: give one that `run` wrote, or a folder of them")
    return record


@dataclass(frozen=True)
class _Failed:
    """A replicate without values, on disk."""

    seed: Count
    split: Count
    reason: str


@dataclass(frozen=True)
class _RecordTable:
    """A record on disk, without its checksum."""

    schema: Positive
    cell: dict[str, Any]
    replicates: tuple[Replicate, ...]
    failed: tuple[_Failed, ...]
    values: dict[str, Any]
    cost: dict[str, Cost | None]
    environment: Environment
    predictions: Sha256
    unscored: dict[str, str] = field(default_factory=dict)


def _read(path: Path) -> Record | None:
    """Read one record; None if neither the name nor the content is a record's. Raises BadInput as `read_one` does."""
    called = RECORD.search(path.name) is not None
    try:
        if (content := _content(path, called)) is None:
            return None
        called = called or b'"protocol"' in content  # near the start: a truncated copy still has it
        body = decoded(content)
        alike = isinstance(body, dict) and {"schema", "cell", "replicates"} <= body.keys()
        newer = isinstance(body, dict) and type(body.get("schema")) is int and body["schema"] > SCHEMA
        if not (called or alike or newer):
            return None
        if newer:
            raise BadInput(f"{path} is of schema {body['schema']}, {_reader_of(body)}")
        if not isinstance(body, dict) or "checksum" not in body:
            raise Misfit("expected a record with its checksum")
        if body.pop("checksum") != files.digest(body):
            raise BadInput(f"{path} was altered: its checksum does not match its content")
        return replace(_from_json(body, content.isascii() and b"\\" not in content), path=path)
    except OSError as error:
        if not called and not path.is_file():
            return None
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except (Misfit, RecursionError) as error:
        if not called:
            return None
        whole = "put a whole copy in its place, or give another folder"
        raise BadInput(f"{path} is not a whole record: it is cut short or damaged ({error}); {whole}") from None


def _content(path: Path, called: bool) -> bytes | None:
    """Return what a file holds; None for what cannot be a record, unless it is `called` like one: then BadInput."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # to open a pipe is to wait for its writer
        if called:
            raise BadInput(f"{path} is no file, though it is called like a record: move it elsewhere")
        return None
    if status.st_size > LARGEST_RECORD:
        if called:
            raise BadInput(f"{path} has more than {LARGEST_RECORD >> 20} MiB, which no record has: give another folder")
        return None
    return path.read_bytes()


def _is_damaged(path: Path) -> bool:
    """Return whether what cannot be read as a record is a file that is cut short or altered, and nothing else."""
    try:
        content = _content(path, called=True)
    except (BadInput, OSError):
        return False
    try:
        body = decoded(content or b"")
    except (Misfit, RecursionError):
        return True
    return not (isinstance(body, dict) and type(body.get("schema")) is int and body["schema"] > SCHEMA)


FORM = f"2 of schema {SCHEMA}"
"""The form of what an index holds: it rises where `_Indexed` or the meaning of a cell's key changes."""


@dataclass(frozen=True)
class _Indexed:
    """A record in an index, without its environment; it was checked when its file was read.

    Method, model, data set, replicates and metrics are JSON, because many records share them, and are taken apart once.

    Attributes:
        metrics: The metrics without their values.
        numbers: The values of each metric.
        values: What else is known of the replicates.
    """

    method: str
    model: str
    dataset: str
    samples: int
    device: str
    threads: int
    tuning: Tuning | None
    key: str
    replicates: str
    failed: tuple[_Failed, ...]
    metrics: str
    numbers: tuple[tuple[float | None, ...], ...]
    values: Values
    cost: dict[str, float | None]
    predictions: str
    unscored: dict[str, str]


def _entry(record: Record, stamp: Stamp) -> index.Holding:
    """Return what an index keeps of a record that was read from a file of this stamp."""
    failed = tuple(_Failed(r.seed, r.split, reason) for r, reason in record.failed.items())
    cost: dict[str, float | None] = {name: finite(value) for name, value in record.cost.items()}
    cell, metrics = record.cell, record.values.metrics

    def as_json(choice: Choice) -> str:
        return files.canonical_json(choice.as_dict()).decode()

    kept = _Indexed(
        method=as_json(cell.method),
        model=as_json(cell.model),
        dataset=as_json(cell.dataset),
        samples=cell.samples,
        device=cell.device,
        threads=cell.threads,
        tuning=cell.tuning,
        key=cell.key,
        replicates=msgspec.json.encode(record.replicates).decode(),
        failed=failed,
        metrics=msgspec.json.encode({name: replace(one, values=()) for name, one in metrics.items()}).decode(),
        numbers=tuple(one.values for one in metrics.values()),
        values=replace(record.values, metrics={}),
        cost=cost,
        predictions=record.predictions,
        unscored=record.unscored,
    )
    return index.Holding(stamp, msgspec.json.encode(kept), msgspec.json.encode(record.environment))


def _indexed(folder: Path, stamps: Mapping[Path, Stamp]) -> Iterator[tuple[Path, Record]]:
    """Yield the records of an index whose files have not changed since."""
    named = {file.relative_to(folder).as_posix(): file for file in stamps}
    rows, environments = msgspec.json.Decoder(_Indexed), msgspec.json.Decoder(Environment)
    environment = cache(environments.decode)
    choice = cache(lambda text: Choice.from_dict(decoded(text.encode())))
    replicates = cache(msgspec.json.Decoder(tuple[Replicate, ...]).decode)
    without_values = cache(msgspec.json.Decoder(dict[str, MetricValues]).decode)
    for name, entry in index.read(folder, FORM):
        if (file := named.get(name)) is None or stamps[file] != entry.stamp:
            continue
        try:
            found, where = rows.decode(entry.content), environment(entry.environment)
            choices = choice(found.method), choice(found.model), choice(found.dataset)
            known = zip(without_values(found.metrics).items(), found.numbers, strict=True)
            metrics = {name: MetricValues(m.unit, m.better, m.definition, row) for (name, m), row in known}
            asked = replicates(found.replicates)
        except (msgspec.DecodeError, ValueError):
            continue
        values = replace(found.values, metrics=metrics)
        cell = Cell(*choices, found.samples, found.device, found.threads, found.tuning)
        cell.__dict__["key"] = found.key  # as the cell would find it, once
        failed = {Replicate(row.seed, row.split): row.reason for row in found.failed}
        cost = {name: math.nan if number is None else number for name, number in found.cost.items()}
        yield file, Record(cell, asked, values, cost, where, failed, found.predictions, file, found.unscored)


def _reader_of(body: Mapping[str, Any]) -> str:
    """Say which schema this bdlbench reads, and which bdlbench wrote a newer one."""
    environment = body.get("environment")
    packages = environment.get("packages") if isinstance(environment, dict) else None
    wrote = packages.get("bdlbench") if isinstance(packages, dict) else None
    needed = f"bdlbench {short(wrote)}" if isinstance(wrote, str) and wrote else "a newer bdlbench"
    return f"this bdlbench reads {SCHEMA} at most: install {needed}"


def _from_json(body: dict[str, Any], is_plain: bool) -> Record:
    """Make a record of its form on disk, path aside.

    Args:
        body: The form on disk, without its checksum.
        is_plain: Whether all texts are known to be of characters that can be seen. Others are refused in what names
            cells and columns, and become escapes in the environment and in reasons.

    Returns:
        The record.

    Raises:
        Misfit: Something is absent, unknown, of another type or out of range, or columns differ in length.
    """
    if not is_plain:
        hidden = next((text for part in ("cell", "values") for text in unseen(body.get(part))), None)
        if hidden is not None:
            raise Misfit(f"{short(hidden)} holds characters that cannot be seen")
        body = {key: part if key in ("cell", "values") else plain(part) for key, part in body.items()}
    found = typed(body, _RecordTable)
    plain(found.environment.statistics)
    failed = {Replicate(row.seed, row.split): row.reason for row in found.failed}
    if len({*found.replicates, *failed}) < len(found.replicates) + len(found.failed):
        raise Misfit("replicates, failed: expected each replicate once")
    return Record(
        cell=Cell.from_dict(found.cell),
        replicates=found.replicates,
        values=Values.from_dict(found.values, len(found.replicates)),
        cost={name: math.nan if number is None else number for name, number in found.cost.items()},
        environment=found.environment,
        failed=failed,
        predictions=found.predictions,
        unscored=found.unscored,
    )
