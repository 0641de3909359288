"""What a run leaves behind: one JSON file for each cell and list of replicates, predictions beside it.

The predictions are written first; the JSON, which names their checksum, makes the record exist.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bdlbench import files
from bdlbench.errors import BadInput
from bdlbench.spec import Replicate

SCHEMA = 1
"""Version of the layout below. Readers refuse a newer one."""

PARAMETERS = "parameters"
"""Folder among the records for parameters that were kept."""

Metrics = dict[str, dict[str, Any]]
"""{name: {"unit", "better", "definition", "values": one for each replicate, None for NaN}}."""


@dataclass(frozen=True)
class Record:
    """One cell and some of its replicates.

    cell: as `Cell.as_dict`; values: `metrics` (each with unit, direction, definition, and a value for each replicate)
    and what else is deterministic; cost: of the batch that trained the cell, never for each seed; environment: where;
    failed: replicates without values, with reasons; predictions: SHA-256 of the file beside, "" where there is none.
    unscored: metrics that raised, with reasons: their values are missing, not undefined.
    """

    cell: dict[str, Any]
    replicates: tuple[Replicate, ...]
    values: dict[str, Any]
    cost: dict[str, float]
    environment: dict[str, Any]
    failed: dict[Replicate, str] = field(default_factory=dict)
    predictions: str = ""
    unscored: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The cell's hash."""
        return files.digest(self.cell)

    @property
    def name(self) -> str:
        """File name without ending: readable, then the hashes of the cell and of the replicates asked for."""
        return name_of(self.cell, [*self.replicates, *self.failed])


def name_of(cell: Mapping[str, Any], asked: Iterable[Replicate]) -> str:
    """The name that a record of these replicates, good or failed, has: names that no file can have are mended."""
    names = (cell["protocol"]["dataset"]["name"], cell["protocol"]["model"]["name"], cell["treatment"]["name"])
    words = [re.sub(r"[^\w.+-]", "_", name)[:40] for name in names]
    listed = files.digest([asdict(replicate) for replicate in sorted(asked)])
    return f"{'-'.join(words)}-{files.digest(cell)[:12]}-{listed[:8]}"


def write(folder: Path, record: Record, arrays: Mapping[str, Tensor]) -> Path:
    """Write predictions, then the record that names their checksum. Returns the path of the JSON."""
    if arrays:
        content = safetensors.torch.save({name: value.contiguous() for name, value in arrays.items()})
        record = replace(record, predictions=files.sha256(content))
        files.write_atomic(folder / f"{record.name}.safetensors", content)
    path = folder / f"{record.name}.json"
    body = _to_json(record)
    text = json.dumps({**body, "checksum": files.digest(body)}, indent=1, sort_keys=True, allow_nan=False)
    files.write_atomic(path, text.encode() + b"\n")
    return path


def read(path: Path, conflicting: bool = False) -> list[Record]:
    """All records in a folder, or in one file, sorted by name.

    Raises BadInput for a missing folder, a newer schema, a truncated or altered record, or, unless `conflicting`, two
    records that give one replicate differing values.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist: give a folder that `run` wrote")
    records = [read_one(p) for p in sorted(path.glob("*.json") if path.is_dir() else [path])]
    if not conflicting:
        refuse_conflicts(records)
    return records


def refuse_conflicts(records: Sequence[Record]) -> None:
    """Raises BadInput where two records give one replicate differing values."""
    seen: dict[tuple[str, Replicate], tuple[Record, Any]] = {}
    for record in records:
        for i, replicate in enumerate(record.replicates):
            values = _take(record, [i]).values
            other, known = seen.setdefault((record.key, replicate), (record, values))
            if known != values:
                raise BadInput(
                    f"{other.name} and {record.name} give seed {replicate.seed}, split {replicate.split} differing "
                    "values: remove one of them"
                )


def predictions(folder: Path, record: Record) -> dict[str, Tensor]:
    """The per-example arrays beside a record, float32. Raises BadInput where they are absent or altered."""
    path = folder / f"{record.name}.safetensors"
    if not record.predictions:
        return {}
    if not path.exists():
        raise BadInput(f"{path} is missing: the record beside it names it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    if files.sha256(content) != record.predictions:
        raise BadInput(f"{path} is not the file that its record names: the checksum differs")
    return safetensors.torch.load(content)


def lacks_predictions(folder: Path, record: Record) -> bool:
    """Whether the predictions that a record names are gone."""
    return bool(record.predictions) and not (folder / f"{record.name}.safetensors").exists()


def damage(folder: Path, record: Record) -> str:
    """Say what is wrong with the files beside a record; "" where nothing is, or where one is gone.

    Predictions are read and held against their checksum; of parameters, which are large, only the size is.
    """
    path = _parameters_file(folder, record)
    try:
        if record.predictions and not lacks_predictions(folder, record):
            predictions(folder, record)
        if path.exists():
            with safe_open(path, "pt"):  # which holds the size against what the file says of itself
                pass
    except BadInput as error:
        return str(error)
    except (OSError, SafetensorError) as error:
        return f"{path} is damaged, it is not whole: {error}"
    return ""


def write_parameters(folder: Path, record: Record, state: Mapping[str, Tensor]) -> Path:
    """Keep what a posterior consists of, {name: (R, …)}, in the folder PARAMETERS beside the record."""
    path = _parameters_file(folder, record)
    files.write_atomic(path, safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
    return path


def parameters(folder: Path, record: Record) -> dict[str, Tensor]:
    """What `write_parameters` kept. Raises BadInput where nothing was kept, or what was kept cannot be read."""
    path = _parameters_file(folder, record)
    if not path.exists():
        raise BadInput(f"{path} is missing: run the cell with --keep-parameters, and --fresh if it is done already")
    try:
        return {name: value.clone() for name, value in safetensors.torch.load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} cannot be read, it is damaged: {error}") from None


def has_parameters(folder: Path, record: Record) -> bool:
    """Whether parameters were kept."""
    return _parameters_file(folder, record).exists()


def _parameters_file(folder: Path, record: Record) -> Path:
    return folder / PARAMETERS / f"{record.name}.safetensors"


def done(records: Iterable[Record], key: str) -> set[Replicate]:
    """Replicates of a cell that have values."""
    return {replicate for record in records if record.key == key for replicate in record.replicates}


def without(folder: Path, record: Record, gone: set[Replicate]) -> None:
    """Take replicates out of a record on disk: what is left, failures too, is written, then the old files go.

    Parameters that were kept go and stay with their replicates.
    """
    if gone.isdisjoint([*record.replicates, *record.failed]):
        return
    kept = [i for i, replicate in enumerate(record.replicates) if replicate not in gone]
    failed = {replicate: reason for replicate, reason in record.failed.items() if replicate not in gone}
    if kept or failed:
        arrays = {name: _rows(name, value, kept) for name, value in predictions(folder, record).items()} if kept else {}
        left = replace(_take(record, kept), failed=failed, predictions="")
        write(folder, left, arrays)
        if kept and _parameters_file(folder, record).exists():
            write_parameters(folder, left, {name: value[kept] for name, value in parameters(folder, record).items()})
    for path in (folder / f"{record.name}.json", folder / f"{record.name}.safetensors"):
        path.unlink(missing_ok=True)
    _parameters_file(folder, record).unlink(missing_ok=True)


def row_axis(name: str) -> int:
    """Where the replicate axis of a stored array lies: behind the group axis of `….group_log_prob`, else in front."""
    return 1 if name.endswith("group_log_prob") else 0


def _rows(name: str, value: Tensor, kept: Sequence[int]) -> Tensor:
    return value[:, kept] if row_axis(name) else value[kept]


def _take(record: Record, kept: Sequence[int]) -> Record:
    values = {
        name: {**entry, "values": [entry["values"][i] for i in kept]}
        for name, entry in record.values["metrics"].items()
    }
    per_row = {k: [v[i] for i in kept] for k, v in record.values.items() if k != "metrics"}
    return replace(record, replicates=tuple(record.replicates[i] for i in kept), values={"metrics": values, **per_row})


def _to_json(record: Record) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "cell": record.cell,
        "replicates": [asdict(r) for r in record.replicates],
        "failed": [{**asdict(r), "reason": reason} for r, reason in sorted(record.failed.items())],
        "values": _finite(record.values),
        "cost": _finite(record.cost),
        "environment": record.environment,
        "predictions": record.predictions,
        **({"unscored": record.unscored} if record.unscored else {}),
    }


def read_one(path: Path) -> Record:
    """One record. Raises BadInput where it is truncated, altered or of a newer schema."""
    try:
        body = json.loads(path.read_text())
        schema = int(body["schema"])
        if schema > SCHEMA:
            newer = f"was written by a newer bdlbench (schema {schema}, this one reads {SCHEMA}): upgrade"
            raise BadInput(f"{path} {newer}")
        altered = body.pop("checksum") != files.digest(body)
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{path} is not a whole record: remove it and run again") from None
    if altered:
        raise BadInput(f"{path} was altered: its checksum does not match its content")
    return Record(
        cell=body["cell"],
        replicates=tuple(Replicate(**r) for r in body["replicates"]),
        values=body["values"],
        cost=body["cost"],
        environment=body["environment"],
        failed={Replicate(f["seed"], f["split"]): f["reason"] for f in body["failed"]},
        predictions=body["predictions"],
        unscored=body.get("unscored", {}),
    )


def _finite(value: Any) -> Any:
    """JSON has no NaN: None stands for it, and for infinities."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
