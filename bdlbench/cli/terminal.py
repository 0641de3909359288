"""Output of commands: it copes with characters that a terminal lacks, and with readers who leave before the end."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from bdlbench.core.errors import Unwritten

PLAIN = {"↑": "^", "↓": "v", "±": "+/-", "·": ".", "×": "x", "−": "-", "—": "-", "–": "-", "─": "-", "…": "..."}
PLAIN |= {"→": "->", "∞": "inf", "²": "^2", "≥": ">=", "≤": "<=", "√": "sqrt ", "α": "alpha", "σ": "sigma"}
"""The package's own signs in ASCII, for encodings that lack them; any other sign becomes a question mark."""

ERRORS = "bdlbench.plain"
"""The name of this rule among the error handlers of codecs."""


GONE = frozenset((errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO))
"""Errors of a stream that nobody reads any more: a closed pipe, a terminal that was closed, no stream at all."""


class _Output:
    """A stream whose reader may leave; later output is discarded, and the command's result stays the same.

    Stderr may fail in any way, because progress and notes are no result. If stdout fails while it has a reader, such as
    a file on a full disk, that is raised once.
    """

    def __init__(self, stream: TextIO, is_result: bool) -> None:
        self.stream, self.is_result = stream, is_result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: other code has closed it
            self._leave(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._leave(error)

    def _leave(self, error: OSError | ValueError) -> None:
        """Redirect the stream to nothing, because its buffer would fail again when the interpreter ends."""
        with suppress(OSError, ValueError):  # a stream without a file
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)
        if self.is_result and isinstance(error, OSError) and error.errno not in GONE:
            raise Unwritten(f"stdout cannot be written: {error.strerror}") from None


@contextmanager
def forgiving() -> Iterator[None]:
    """Let stdout and stderr accept every sign, survive readers who leave, and discard output if they are closed."""
    codecs.register_error(ERRORS, _plain)
    before = sys.stdout, sys.stderr
    rules: list[tuple[Any, Any]] = []
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            if hasattr(stream, "reconfigure"):
                rules.append((stream, stream.errors))
                stream.reconfigure(errors=ERRORS)
            setattr(sys, name, _Output(stream or nothing, name == "stdout"))
        try:
            yield
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            sys.stdout, sys.stderr = before
            for stream, errors in rules:
                with suppress(OSError, ValueError):  # it may have been closed within the block
                    stream.reconfigure(errors=errors)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def screen() -> tuple[int, bool]:
    """Return the width of the output ($COLUMNS, or the terminal's; a file has no limit), and whether it shows bold."""
    import shutil

    terminal = sys.stdout.isatty()
    return shutil.get_terminal_size((100 if terminal else 240, 24)).columns, terminal


def write(text: str, style: str = "terminal") -> None:
    """Write text to stdout; formats that programs read are always in UTF-8, while a terminal may get replacements."""
    if style in ("csv", "json") and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(text)
