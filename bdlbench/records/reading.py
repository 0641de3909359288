"""A side of a comparison: a folder of records, one record, or the records of a git revision."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.records import record as records
from bdlbench.records.record import Record

RESULTS_FOLDER = "results"
"""What of a revision is read unless it names a path."""


@dataclass(frozen=True)
class Source:
    """Records, each with the folder that its predictions lie in."""

    entries: tuple[tuple[Path, Record], ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """Without their folders."""
        return tuple(record for _, record in self.entries)

    def predictions(self, record: Record) -> dict[str, Tensor]:
        """The arrays beside a record; {} where they were not kept. Raises BadInput where they were altered."""
        folder = next(folder for folder, known in self.entries if known is record)
        return records.predictions(folder, record) if records.has_predictions(folder, record) else {}


def read(path: Path, name: str = "") -> Source:
    """The records of a folder and its subfolders, or one record; says what it passes over. name: instead of the path's.

    Raises BadInput where there are none.
    """
    found, others = records.scan(path, below=True)
    records.say_passed_over(others, name or str(path))
    if not found:
        raise BadInput(f"{name or path} holds no records: give a folder that `run` wrote")
    records.refuse_conflicts(found)
    return Source(tuple((record.path.parent, record) for record in found))


@dataclass(frozen=True)
class Faults:
    """What is wrong with the files beside records: damaged, in words for each; gone, the files that are missing."""

    damaged: tuple[str, ...] = ()
    gone: tuple[Path, ...] = ()

    def lines(self) -> Iterator[str]:
        """For people: what is wrong, what still holds, and what would mend it."""
        for words in self.damaged:
            yield f"damaged: {words}; the record's own numbers hold, and --fresh makes it again"
        if self.gone:
            first, *rest = self.gone
            others = f" and {len(rest)} more of its kind are missing" if rest else " is missing"
            yield f"predictions: {first}{others}: what a record does not hold cannot be had from them"


def sound(source: Source) -> tuple[Source, Faults]:
    """Leave out predictions that are damaged, and say what is wrong with the files beside the records.

    A record's own numbers have a checksum of their own, and stand whatever became of the files beside it.
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
    return Source(tuple(entries)), Faults(tuple(damaged), tuple(gone))


@contextmanager
def opened(name: str) -> Iterator[Source]:
    """A path that exists, else a git revision: `main`, `HEAD~3:results/reference/quick`. Of a revision all of results/.

    What a revision holds is laid out in a temporary folder, which lasts as long as the context. Raises BadInput.
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
        except BadInput as error:  # by the revision's name: the scratch folder is gone when someone reads of it
            raise BadInput(str(error).replace(scratch, name)) from None
        yield found


def _is_revision(name: str) -> bool:
    """Whether git, here, knows it as a commit."""
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
