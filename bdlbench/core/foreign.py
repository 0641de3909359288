"""Code of other people: who wrote an entry, where it stands, and what went wrong in it, in words for its author."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdlbench.core import torch_state
from bdlbench.core.errors import BadInput, BenchError, Diverged, printable

OWN_FILES = Path(__file__).parents[1]
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
LONGEST_MESSAGE = 300
"""How many characters of an error message are shown: some messages hold whole tensors."""


class Broken(Exception):
    """An entry returned something that breaks its protocol. The text says what it is and what would be right."""


def is_foreign(entry: Any) -> bool:
    """Tell whether an entry, or its class, comes from outside this package."""
    return not str(_class_of(entry).__module__).startswith("bdlbench.")


def written(entry: Any) -> str:
    """Return the file and line of an entry's class, or of a function: mine.py:12; the module where it has no source.

    A class that was made of a function, its `made_by`, stands where that does.
    """
    entry = _class_of(entry)
    entry = getattr(entry, "made_by", entry)
    try:
        path, line = inspect.getsourcefile(entry), inspect.getsourcelines(entry)[1]
    except (OSError, TypeError):
        path, line = None, 0
    return f"{shown(Path(path))}:{line}" if path else str(entry.__module__)


def shown(path: Path) -> str:
    """Return a file's path as a person would write it: relative to the working folder where it lies below that."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def raised_at(error: BaseException) -> tuple[Path, int] | None:
    """Return the file and line where an error left foreign code: neither this package, nor Python, nor a library."""
    if isinstance(error, SyntaxError) and error.filename and _of_others(Path(error.filename)):
        return Path(error.filename), error.lineno or 1
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _of_others(Path(frame.filename)):
            return Path(frame.filename), frame.lineno or 1
    return None


def place(error: BaseException | None, entry: Any) -> str:
    """Return where an error left an entry's code, or where the entry begins: plugins/mine.py:12."""
    where = raised_at(error) if error else None
    return f"{shown(where[0])}:{where[1]}" if where else written(entry)


def told(error: BaseException) -> str:
    """Return what an error says, on one line: its type and its text."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, Broken):
        return str(error)
    words = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    words = printable(words)
    words = words if len(words) <= LONGEST_MESSAGE else f"{words[:LONGEST_MESSAGE]} …"
    return type(error).__name__ + (f": {words}" if words else "")


def reason_of(error: BaseException) -> str:
    """Describe an error in one line; for an error that is not bdlbench's own, with the file and line where it arose."""
    if isinstance(error, BenchError):
        return " ".join(str(error).split())
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path, line = raised_at(error) or (Path(frame.filename), frame.lineno)
    return f"{told(error)} ({path.name}:{line})"


@contextmanager
def calling(what: str, entry: Any) -> Iterator[None]:
    """Call foreign code within the block: an error in it becomes BadInput with its file and line.

    What the entry sets for the whole process is put back. Errors of this package's own entries pass unchanged: they are
    faults of the package.

    Args:
        what: Kind and name, such as "metric mine".
        entry: The entry that is called.

    Yields:
        Nothing.

    Raises:
        BadInput: The entry failed.
    """
    if not is_foreign(entry):
        yield
        return
    with torch_state.kept():
        try:
            yield
        except (BadInput, Diverged):  # these already say what is wrong
            raise
        except (Exception, SystemExit) as error:
            raise BadInput(f"{what} ({place(error, entry)}): {told(error)}") from error


def _class_of(entry: Any) -> Any:
    return entry if inspect.isclass(entry) or inspect.isroutine(entry) else type(entry)


def _of_others(path: Path) -> bool:
    """Tell whether a file of a traceback is neither this package's, nor Python's, nor an installed library's."""
    return path.suffix == ".py" and not any(path.is_relative_to(folder) for folder in (OWN_FILES, *LIBRARIES))
