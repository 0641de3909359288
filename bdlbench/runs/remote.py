"""Tasks for workers that may share neither disk nor plugins with this process: what travels there, and what comes back.

A worker that sees the results folder under the same path writes there itself, atomically, as a local process does, and
its unfinished fits survive it. Any other works in a temporary folder and sends back what this process then writes.
"""

from __future__ import annotations

import atexit
import importlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from bdlbench import catalog
from bdlbench.core import files
from bdlbench.core.errors import BadInput, one_line
from bdlbench.core.spec import Cell
from bdlbench.runs import loading, provenance
from bdlbench.runs.batch import CHECKPOINTS, Batch, Outcome, Settings, refusal

THIS_PROCESS = secrets.token_hex(8)
"""Tells whether a task has left the process that made it: its catalog is at hand then."""


class EntryFile(NamedTuple):
    """A Python file of entries, by content.

    Attributes:
        name: Its name, such as mine.py.
        files: Its content and that of every file that it imports from its own folder, by their paths in that folder.
        sha256: As `provenance.source_sha256` gives it.
        replace: For a plugin, the names of entries that it may replace; for a module, the names of its callables.
        is_plugin: Whether it is a plugin, not a module that was named by --module.
        imported: The files among these that it has imported here, by the names of their modules.
    """

    name: str
    files: Mapping[str, bytes]
    sha256: str
    replace: tuple[str, ...]
    is_plugin: bool
    imported: Mapping[str, str]


@dataclass(frozen=True)
class AddedEntries:
    """All that a worker's catalog must have besides the package and what is installed.

    Attributes:
        sources: Plugins, and files named by --module.
        modules: What --module named by its import path; the worker must have it installed.
    """

    sources: tuple[EntryFile, ...] = ()
    modules: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> AddedEntries:
        """Return what was added to this process's catalog. Raises BadInput for a file that has changed since."""
        sources = []
        for plugin in catalog.added_plugins():
            catalog.add_again(plugin)
            sources.append(_source(plugin.path, plugin.replace, True))
        by_path = []
        for place in catalog.added_modules():
            path, _, name = place.rpartition(":")
            if path.endswith(".py"):
                sources.append(_source(Path(path), (name,), False))
            else:
                by_path.append(place)
        return cls(tuple(sources), tuple(by_path))


def _source(path: Path, names: tuple[str, ...], is_plugin: bool) -> EntryFile:
    real = path.resolve()
    found = {name: file for name, file in provenance.sources(real).items() if file != real}
    places = {name: file.relative_to(real.parent).as_posix() for name, file in found.items()}
    content = {place: found[name].read_bytes() for name, place in places.items()} | {path.name: real.read_bytes()}
    imported = {name: place for name, place in places.items() if _imported_from(name) == found[name]}
    return EntryFile(path.name, content, provenance.source_sha256(real), names, is_plugin, imported)


def _imported_from(name: str) -> Path | None:
    """Return the file of a module that this process has imported."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file) if isinstance(file, str) else None


class Sending(NamedTuple):
    """The process that sends a task, as far as a worker must be like it.

    Attributes:
        entries: What its catalog has.
        process: Its THIS_PROCESS.
    """

    entries: AddedEntries
    process: str = THIS_PROCESS


@dataclass(frozen=True)
class Parcel:
    """An assignment as it travels.

    Attributes:
        batches: The batches, by their indices in the run.
        settings: Their settings; the folder of results is absolute.
        origin: Where it comes from.
        mark: A file beside the records, and what it holds: who reads it shares the folder.
        checkpoints: Unfinished fits of the batches, for a worker that does not, by their names.
    """

    batches: Mapping[int, Batch]
    settings: Settings
    origin: Sending
    mark: tuple[str, str]
    checkpoints: Mapping[str, bytes]


class SentBack(NamedTuple):
    """What comes back of a parcel.

    Attributes:
        outcomes: The outcomes, by the batches' indices.
        files: Files to be written in the folder of results, by their paths in it; none from a worker that shares it.
        is_shared: Whether the worker shares that folder.
    """

    outcomes: dict[int, Outcome]
    files: dict[str, bytes]
    is_shared: bool


class Sender(NamedTuple):
    """What one run sends with each of its tasks, and where it writes what comes back."""

    results: Path
    origin: Sending
    mark: tuple[str, str]

    def pack(self, batches: Mapping[int, Batch], settings: Settings) -> Parcel:
        """Return the parcel of some batches, by their indices in the run."""
        content: dict[str, bytes] = {}
        for file in (file for batch in batches.values() for file in self._checkpoints(batch)):
            with suppress(FileNotFoundError):  # another run has just done with it
                content[f"{CHECKPOINTS}/{file.name}"] = file.read_bytes()
        return Parcel(batches, replace(settings, results=self.results), self.origin, self.mark, content)

    def unpack(self, batches: Mapping[int, Batch], returned: SentBack) -> dict[int, Outcome]:
        """Write the files that came back, each record after what it names. Return the outcomes."""
        if returned.is_shared:
            return returned.outcomes
        outcomes = dict(returned.outcomes)
        try:
            for name in sorted(returned.files, key=lambda name: name.endswith(".json")):
                files.write_atomic(self.results / name, returned.files[name])
        except OSError as error:
            said = f"{self.results} cannot be written: {error.strerror}"
            why = refusal(error, self.results)
            return {i: Outcome([], unwritten=f"{b.cells[0].title}: {said}", refused=why) for i, b in batches.items()}
        for file in (file for batch in batches.values() for file in self._checkpoints(batch)):
            if f"{CHECKPOINTS}/{file.name}" not in returned.files:  # the fit that it was sent with is done
                file.unlink(missing_ok=True)
        for i, outcome in outcomes.items():
            here = [replace(record, path=self.results / record.path.name) for record in outcome.records]
            outcomes[i] = outcome._replace(records=here)
        return outcomes

    def _checkpoints(self, batch: Batch) -> list[Path]:
        return list((self.results / CHECKPOINTS).glob(f"{batch.key}.*.safetensors"))


@contextmanager
def sending(results: Path) -> Iterator[Sender]:
    """Yield what packs the tasks of a run; a mark lies in the folder of results meanwhile."""
    results = results.absolute()
    token = secrets.token_hex(16)
    mark = results / f".{token[:8]}.part"  # a run that is killed leaves it: `_tidy` removes such files
    files.write_atomic(mark, token.encode())
    try:
        yield Sender(results, Sending(AddedEntries.here()), (str(mark), token))
    finally:
        with suppress(OSError):  # the disk has turned read-only
            mark.unlink(missing_ok=True)


# In a worker


_one_at_a_time = threading.Lock()
"""Numbers of threads, global state of torch and the catalog are the process's: its threads take turns."""

_held: AddedEntries | None = None
"""The entries that this worker's catalog holds."""

_folders: list[Path] = []
"""Where the files of these entries lie."""


@contextmanager
def equipped(origin: Sending, code: Mapping[Cell, provenance.Code]) -> Iterator[None]:
    """Have in this process, within the block, what the sender of a task has: its entries, its code, its data.

    Args:
        origin: The sender.
        code: The cells of the task, with the hashes of the code that their numbers depend on there.

    Yields:
        Nothing. Other threads of this process wait meanwhile.

    Raises:
        BadInput: This worker lacks code or data, or has other code than the sender. The message names the worker.
    """
    with _one_at_a_time:
        if origin.process == THIS_PROCESS:
            yield
            return
        try:
            _adopt(origin.entries)
            _refuse_other_code(code)
            for dataset in dict.fromkeys(cell.dataset for cell in code):
                loading.fetch(dataset)
            yield
        except BadInput as error:
            raise type(error)(f"{this_worker()}: {error}") from None


def run(parcel: Parcel, run_one: Callable[[int, Batch, Settings], Outcome]) -> SentBack:
    """Run the batches of a parcel in this process.

    Args:
        parcel: The parcel.
        run_one: Runs one batch, as `executors` does.

    Returns:
        What goes back.

    Raises:
        BadInput: As `equipped` does.
    """
    batches, settings = parcel.batches, parcel.settings
    cells = dict.fromkeys(cell for batch in batches.values() for cell in batch.cells)
    with equipped(parcel.origin, {cell: settings.code.get(cell.key, {}) for cell in cells}):
        if _shares(parcel.mark):
            return SentBack({i: run_one(i, batch, settings) for i, batch in batches.items()}, {}, True)
        try:
            with tempfile.TemporaryDirectory(prefix="bdlbench-") as name:
                folder = Path(name)
                for place, content in parcel.checkpoints.items():
                    files.write_atomic(folder / place, content)
                settings = replace(settings, results=folder)
                outcomes = {i: _kept_apart(run_one(i, batch, settings)) for i, batch in batches.items()}
                made = [path for path in folder.rglob("*") if path.is_file()]
                return SentBack(outcomes, {str(path.relative_to(folder)): path.read_bytes() for path in made}, False)
        except OSError as error:  # such as a full disk, which costs this task alone
            said = f"{this_worker()} cannot use {tempfile.gettempdir()}: {one_line(error)}"
            return SentBack(
                {i: Outcome([], unwritten=f"{b.cells[0].title}: {said}") for i, b in batches.items()}, {}, True
            )


def this_worker() -> str:
    """Name this process among those of a cluster."""
    return f"worker {socket.gethostname()}, process {os.getpid()}"


def _kept_apart(outcome: Outcome) -> Outcome:
    """Return the outcome of a batch in a folder of this worker's own: if that takes no more, the sender's still may."""
    if not outcome.refused:
        return outcome
    said = f"{this_worker()} has no room for its results: {outcome.unwritten or outcome.refused}"
    return outcome._replace(unwritten=said, refused="")


def _shares(mark: tuple[str, str]) -> bool:
    path, token = mark
    try:
        return Path(path).read_text() == token
    except (OSError, UnicodeDecodeError):
        return False


def _adopt(entries: AddedEntries) -> None:
    """Let this worker's catalog hold these entries and no others that were added. Raises BadInput."""
    global _held  # noqa: PLW0603
    if entries == _held:
        return
    _held = None
    catalog.forget_added()
    loading.forget()
    _forget_files()
    for source in entries.sources:
        folder = Path(tempfile.mkdtemp(prefix="bdlbench-")).resolve()
        _folders.append(folder)
        sys.path.insert(0, str(folder))  # as the folder of a program is for the program
        for place, content in source.files.items():
            files.write_atomic(folder / place, content)
        path = folder / source.name
        if provenance.source_sha256(path) != source.sha256:
            raise BadInput(f"{source.name} has arrived with another content than it was sent with: start the run again")
        if source.is_plugin:
            catalog.add_plugin(path, source.replace)
        else:
            catalog.add_module(f"{path}:{source.replace[0]}", catalog.names("models"))
        for name, place in source.imported.items():
            found = _imported_from(name)
            if found != folder / place:
                better = "the name is taken there: give the file another"
                raise BadInput(f"{source.name} imports {place}, but in this worker {name} is {found}: {better}")
    for place in entries.modules:
        catalog.add_module(place, catalog.names("models"))
    _held = entries


def _forget_files() -> None:
    """Forget the files of entries that this worker held, and the modules that they imported from their own folders."""
    for folder in _folders:
        for name in list(sys.modules):
            if (file := _imported_from(name)) and file.is_relative_to(folder):
                del sys.modules[name]
        sys.path[:] = [place for place in sys.path if place != str(folder)]
        shutil.rmtree(folder, ignore_errors=True)
    _folders.clear()
    importlib.invalidate_caches()


atexit.register(_forget_files)


def _refuse_other_code(code: Mapping[Cell, provenance.Code]) -> None:
    """Raise BadInput if the code behind cells' numbers differs from the sender's, which their records would name."""
    here = provenance.code_of_cells(tuple(code))
    for cell, there in code.items():
        names = {**there, **here[cell.key]} if there else ()
        changed = [name for name in names if there.get(name) != here[cell.key].get(name)]
        if changed:
            raise BadInput(f"it has other code of {', '.join(changed)} than this process: install the same there")
