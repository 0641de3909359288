"""The state of a fit on disk: one file that says what it depends on and holds a checksum of its whole content.

The first line is JSON, `{"depends": {…}, "schema": 2, "sha256": "…"}`; tensors follow in the safetensors format, which
executes nothing when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from bdlbench.core import files
from bdlbench.core.errors import BenchError
from bdlbench.core.typed import decoded, typed

CHECKPOINT_SCHEMA = 2
"""Version of the layout. Version 1, before checksums, held the tensors only."""

ASIDE = ".aside"
"""The ending added to the name of a checkpoint that cannot be resumed from."""


@dataclass(frozen=True)
class _Head:
    """The first line."""

    schema: int
    depends: dict[str, str]
    sha256: str


class Unusable(BenchError):
    """A checkpoint that must not be resumed from: damaged, of another version, or of another fit."""


def write(path: Path, tensors: Mapping[str, Tensor], depends: Mapping[str, str]) -> None:
    """Write tensors and what they depend on, whole or not at all.

    Raises:
        OSError: The disk refuses.
    """
    body = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
    head = {"schema": CHECKPOINT_SCHEMA, "depends": dict(depends)}
    files.write_atomic(path, files.canonical_json({**head, "sha256": _checksum(head, body)}) + b"\n" + body)


def read(path: Path, depends: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, on the CPU, each in memory of its own.

    Args:
        path: The checkpoint.
        depends: What the tensors must depend on; None accepts anything.

    Returns:
        Tensors by name.

    Raises:
        Unusable: A bit of the file differs from what was written, its layout is another, or something that it depends
            on has changed since. The text says which.
    """
    try:
        line, _, body = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise Unusable(f"it cannot be read: {error.strerror}") from None
    try:
        head = typed(decoded(line), _Head)
        whole = head.sha256 == _checksum({"schema": head.schema, "depends": head.depends}, body)
        tensors = safetensors.torch.load(body) if whole else {}
    except (ValueError, KeyError, RuntimeError, SafetensorError):
        whole = False
    if not whole:
        raise Unusable("it is damaged, or of an older version: its checksum does not match its content")
    if head.schema != CHECKPOINT_SCHEMA:
        raise Unusable(f"it has the layout {head.schema}, this version writes {CHECKPOINT_SCHEMA}")
    known = head.depends
    if depends is not None:
        changed = [name for name in sorted({*known, *depends}) if known.get(name) != depends.get(name)]
        if changed:
            others = f" (also {', '.join(changed[1:])})" if changed[1:] else ""
            then, now = (_short(side.get(changed[0])) for side in (known, depends))
            raise Unusable(f"{changed[0]} was {then} then and is {now} now{others}")
    return {name: value.clone() for name, value in tensors.items()}  # copies are aligned: bits depend on it


def set_aside(path: Path) -> Path | None:
    """Rename a checkpoint, so that nothing resumes from it and nothing is lost.

    Returns its new path; None if it is gone, because another run of the same fit has just removed it.
    """
    place = path.with_name(path.name + ASIDE)
    try:
        return path.replace(place)
    except FileNotFoundError:
        return None


def _checksum(head: Mapping[str, object], body: bytes) -> str:
    return files.sha256(files.canonical_json(head) + b"\n" + body)


def _short(value: str | None) -> str:
    """Shorten hashes; leave other text whole."""
    text = value or "absent"
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
