"""Sources of records for a comparison: a folder of records, one record, or the records of a git revision."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.records import record as records
from bdlbench.records.record import Record, Unread

RESULTS_FOLDER = "results"
"""The folder of a revision that is read by default."""


@dataclass(frozen=True)
class Source:
    """Records, each with the folder that holds its predictions.

    Attributes:
        entries: The folders and the records.
        unread: Records that are left out, because they cannot be read.
    """

    entries: tuple[tuple[Path, Record], ...]
    unread: tuple[Unread, ...] = ()

    @property
    def records(self) -> tuple[Record, ...]:
        """The records without their folders."""
        return tuple(record for _, record in self.entries)

    @cached_property
    def _folders(self) -> dict[int, Path]:
        """The folder of each record, by its identity: equal records may lie in two folders."""
        return {id(record): folder for folder, record in self.entries}

    def predictions(self, record: Record) -> dict[str, Tensor]:
        """Return the arrays beside a record; {} if they were not kept. Raises BadInput if they were altered."""
        if not record.predictions:
            return {}
        folder = self._folders[id(record)]
        return records.predictions(folder, record) if records.has_predictions(folder, record) else {}


def read(path: Path, name: str = "", indexed: bool = True) -> Source:
    """Read the records of a folder and its subfolders, or one record; say which files are passed over.

    A record of a folder that cannot be read is left out, with a line, and named in the source. Messages show `name`, if
    it is given, instead of the path; `indexed` is as for `records.scan`. Raises BadInput if there are no records.
    """
    found = records.scan(path, below=True, indexed=indexed)
    unread = tuple(one._replace(reason=one.reason.replace(str(path), name or str(path))) for one in found.unread)
    records.say_passed_over(found.others, name or str(path))
    if not found.records:
        for one in unread:
            raise BadInput(one.reason)
        raise BadInput(f"{name or path} holds no records: give a folder that `run` wrote")
    records.say_unread(unread)
    records.refuse_conflicts(found.records)
    return Source(tuple((record.path.parent, record) for record in found.records), unread)


@dataclass(frozen=True)
class Faults:
    """Faults in the files beside records.

    Attributes:
        damaged: One description for each damaged file.
        gone: Missing files.
        unread: Records that are left out, because they cannot be read.
    """

    damaged: tuple[str, ...] = ()
    gone: tuple[Path, ...] = ()
    unread: tuple[Unread, ...] = ()

    def lines(self) -> Iterator[str]:
        """Describe the faults beside records: what is wrong, what still holds, and how to repair it."""
        for words in self.damaged:
            yield f"damaged: {words}; the record's own numbers hold, and --fresh makes it again"
        if self.gone:
            first, *rest = self.gone
            others = f" and {len(rest)} more of its kind are missing" if rest else " is missing"
            yield f"predictions: {first}{others}: no metric that the record lacks can be computed"


def sound(source: Source) -> tuple[Source, Faults]:
    """Leave out damaged predictions, and report the faults in the files beside the records.

    The numbers in a record have their own checksum, so they hold even if the files beside it are damaged.
    """
    entries: list[tuple[Path, Record]] = []
    damaged, gone = [], []
    for folder, record in source.entries:
        if records.lacks_predictions(folder, record):
            gone.append(folder / f"{record.name}.safetensors")
        reason = records.damage(folder, record)
        if reason:
            damaged.append(reason)
        entries.append((folder, replace(record, predictions="") if reason else record))
    return Source(tuple(entries), source.unread), Faults(tuple(damaged), tuple(gone), source.unread)


@contextmanager
def opened(name: str) -> Iterator[Source]:
    """Open a path that exists, else a git revision: `main`, `HEAD~3:results/reference/quick`; by default its results/.

    A revision's files are extracted to a temporary folder that lasts as long as the context. Raises BadInput.
    """
    if Path(name).exists():
        yield read(Path(name))
        return
    revision, _, path = name.partition(":")
    if not _is_revision(revision):
        raise BadInput(f"{name} does not exist, and is no git revision: give a folder that `run` wrote, or a revision")
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(fileobj=io.BytesIO(_archive(revision, path or RESULTS_FOLDER, name))) as tree:
            tree.extractall(scratch, filter="data")
        try:
            found = read(Path(scratch), name)
        except BadInput as error:  # name the revision: the scratch folder will be gone
            raise BadInput(str(error).replace(scratch, name)) from None
        yield found


def _is_revision(name: str) -> bool:
    """Return whether git, in the current folder, knows the name as a commit."""
    return bool(name) and not name.startswith("-") and _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")[1]


def _archive(revision: str, path: str, name: str) -> bytes:
    content, done = _git("archive", "--format=tar", revision, "--", f":(top){path}")
    if not done:
        raise BadInput(f"{name}: {path} is not in that revision")
    return content


def _git(*arguments: str) -> tuple[bytes, bool]:
    try:
        asked = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except OSError:
        return b"", False
    return asked.stdout, asked.returncode == 0
