"""The index of a large folder: what its files held when they were last read, so that they need not be read again.

It is derived, and may be deleted at any time. It is never trusted over the files: what it says of a file counts only
while size, times and inode of the file are the same, and while its own checksum holds. If it is damaged, of another
version, locked or not writable, files are read as if there were none. It is a database of SQLite, because a record
that is added then costs one row; a single file of 100,000 records would be written anew each time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

INDEX = ".index.sqlite"
"""The name of the file in a folder of records."""

LEAST = 1000
"""Folders of fewer records have no index: reading their files takes a fraction of a second."""

SETTLED_NS = 2_000_000_000
"""A file is indexed when it is older than this: within a tick of the clock it could change, and its times stay."""

PATIENCE = 1.0
"""Seconds that a process waits while another one writes the index, before it does without."""

Stamp = tuple[int, int, int, int]
"""What changes when a file does: its size in bytes, the times of its content and of its inode in ns, and its inode."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file, by its status."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class Holding(NamedTuple):
    """What a file held.

    Attributes:
        stamp: The file's stamp when it was read.
        content: The record without its environment.
        environment: The environment, which many records share.
    """

    stamp: Stamp
    content: bytes
    environment: bytes


def read(folder: Path, version: str) -> Iterator[tuple[str, Holding]]:
    """Yield the names of files, relative to the folder, and what they held; nothing where there is no sound index.

    Args:
        folder: A folder of records.
        version: What the form of the contents depends on; an index of another version holds nothing.
    """
    path = folder / INDEX
    if not path.is_file():
        return
    with suppress(sqlite3.Error, OSError), closing(_opened(path, "ro")) as base:
        if base.execute("SELECT version FROM form").fetchall() != [(version,)]:
            return
        shared = dict(base.execute("SELECT id, content FROM environment"))
        rows = base.execute("SELECT name, size, mtime, ctime, inode, content, environment, sha256 FROM record")
        for name, *stamp, content, environment, sha256 in rows:
            where = shared.get(environment)
            if not (isinstance(content, bytes) and isinstance(where, bytes)):
                continue
            entry = Holding((stamp[0], stamp[1], stamp[2], stamp[3]), content, where)
            if sha256 == _checksum(name, entry):
                yield name, entry


def write(folder: Path, version: str, found: Mapping[str, Holding]) -> None:
    """Add entries to the index. Whatever hinders that is passed over: the index is a convenience.

    Args:
        folder: A folder of records.
        version: As in `read`; an index of another version is replaced.
        found: The entries by name.
    """
    now = time.time_ns()
    settled = {name: entry for name, entry in found.items() if max(entry.stamp[1:3]) < now - SETTLED_NS}
    if not settled:
        return
    path = folder / INDEX
    for _ in range(2):
        try:
            with closing(_opened(path, "rwc")) as base:
                _add(base, version, settled)
            return
        except (sqlite3.OperationalError, OSError):  # locked, read-only, full
            return
        except sqlite3.Error:  # damaged, or no index at all: begin anew
            with suppress(OSError):
                path.unlink()


def _add(base: sqlite3.Connection, version: str, found: Mapping[str, Holding]) -> None:
    base.execute("PRAGMA journal_mode = MEMORY")  # a kill may damage it: checksums tell, and no file lies beside it
    base.execute("PRAGMA synchronous = OFF")
    base.execute("BEGIN IMMEDIATE")
    tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables != {"form", "record", "environment"} or base.execute("SELECT version FROM form").fetchall() != [
        (version,)
    ]:
        for name in tables:
            base.execute(f'DROP TABLE "{name}"')
        base.execute("CREATE TABLE form (version TEXT)")
        base.execute("CREATE TABLE environment (id TEXT PRIMARY KEY, content BLOB)")
        columns = (
            "size INTEGER, mtime INTEGER, ctime INTEGER, inode INTEGER, content BLOB, environment TEXT, sha256 BLOB"
        )
        base.execute(f"CREATE TABLE record (name TEXT PRIMARY KEY, {columns}) WITHOUT ROWID")
        base.execute("INSERT INTO form VALUES (?)", (version,))
    ids = {entry.environment: hashlib.sha256(entry.environment).hexdigest() for entry in found.values()}
    base.executemany("INSERT OR REPLACE INTO environment VALUES (?, ?)", [(key, text) for text, key in ids.items()])
    rows = (
        (name, *entry.stamp, entry.content, ids[entry.environment], _checksum(name, entry))
        for name, entry in found.items()
    )
    base.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    base.execute("COMMIT")


def _checksum(name: str, entry: Holding) -> bytes:
    """Return the checksum of a row."""
    head = f"{name}\n{entry.stamp}\n{len(entry.content)}\n".encode(errors="surrogateescape")
    return hashlib.sha256(head + entry.content + entry.environment).digest()


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=PATIENCE, isolation_level=None)
