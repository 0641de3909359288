"""The only atomic writer, the hashes that name things, and the reader of TOML files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from bdlbench.core.errors import BadInput, one_line

WRITE_TRIES = 3
"""How often a file is written whose folder, or whose half, another process removes meanwhile."""


LARGEST_TOML = 1 << 22
"""Bytes of the largest TOML file that is read; those of this package have a few thousand."""

MOST_LEVELS = 16
"""How deep tables and lists of a TOML file may lie in each other; those of a suite lie five deep."""


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens on the way, it holds either all of `content` or what it held before.

    Raises OSError, which names the file, if the system refuses.
    """
    for attempt in range(1, WRITE_TRIES + 1):
        try:
            _write_and_rename(path, content)
            return
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or attempt == WRITE_TRIES:
                error.filename, error.filename2 = str(path), None  # not the half's name, nor none
                raise


def _write_and_rename(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def refuse_unwritable(folder: Path, option: str) -> None:
    """Raise BadInput where a folder cannot be made or written to, as said by `option`. No write bit is read-only."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise BadInput(f"{option} {folder}: {nearest} is a file; name a folder")
    if not (os.access(nearest, os.W_OK | os.X_OK) and nearest.stat().st_mode & 0o222):
        raise BadInput(f"{option} {folder}: {nearest} is not writable; name another folder")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises BadInput, with the path, for a file that cannot be read or is not TOML."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise BadInput(f"{path} is no file")
        if path.stat().st_size > LARGEST_TOML:
            raise BadInput(f"{path} has more than {LARGEST_TOML >> 20} MiB, which is no TOML that a person wrote")
        text = path.read_text("utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not text in UTF-8: {error}") from None
    return parse_toml(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse the text of the TOML file `where`. Raises BadInput, with file and line, for what is not TOML."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error).replace("end of document", f"line {len(text.splitlines())}, the end")
        raise BadInput(f"{where} is not valid TOML: {reason}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets in brackets in brackets …
        raise BadInput(f"{where} holds what this version cannot read: {one_line(error)}") from None
    level: list[Any] = [found]
    for _ in range(MOST_LEVELS):  # a dotted key of 5,000 parts is no recursion for the parser, but for what follows
        level = [part for one in level for part in (one.values() if isinstance(one, dict) else one)]
        level = [part for part in level if isinstance(part, dict | list)]
    if level:
        raise BadInput(f"{where} holds tables or lists more than {MOST_LEVELS} deep in each other")
    return found


def canonical_json(value: Any) -> bytes:
    """Encode a value as JSON in the one canonical way: sorted keys, no spaces, shortest floats, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
