"""What a command prints on: whatever signs it can write, and a reader who may leave before the end."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PLAIN = {"↑": "^", "↓": "v", "±": "+/-", "·": ".", "×": "x", "−": "-", "—": "-", "–": "-", "─": "-", "…": "..."}
PLAIN |= {"→": "->", "∞": "inf", "²": "^2", "≥": ">=", "≤": "<=", "√": "sqrt ", "α": "alpha", "σ": "sigma"}
"""Our own signs in ASCII, for an encoding that lacks them; any other sign becomes a question mark."""

ERRORS = "bdlbench.plain"
"""The name of that rule among the error handlers of codecs."""


class _Output:
    """A stream whose reader may leave: what is written after that goes nowhere, and the command ends as it would have.

    A pipe that was closed says nothing of what the command found. Any other failure, such as a full disk, is raised
    once.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self._leave(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        """Point the stream at nothing: what its buffer still holds would fail again when the interpreter ends."""
        with suppress(OSError, ValueError):  # a stream without a file
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.stream.fileno())
            os.close(nothing)
        if not isinstance(error, BrokenPipeError):
            raise error


@contextmanager
def forgiving() -> Iterator[None]:
    """Within the block stdout and stderr take every sign, and a reader who leaves; what is closed takes nothing."""
    codecs.register_error(ERRORS, _plain)
    before = sys.stdout, sys.stderr
    rules: list[tuple[Any, Any]] = []
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            if hasattr(stream, "reconfigure"):
                rules.append((stream, stream.errors))
                stream.reconfigure(errors=ERRORS)
            setattr(sys, name, _Output(stream or nothing))
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
    """How wide the output may be ($COLUMNS, or the terminal's; a file has no limit), and whether it shows bold."""
    import shutil

    terminal = sys.stdout.isatty()
    return shutil.get_terminal_size((100 if terminal else 240, 24)).columns, terminal


def write(text: str, style: str = "terminal") -> None:
    """What programs read is in UTF-8 wherever it goes: a sign that a terminal lacks may be replaced there, not here."""
    if style in ("csv", "json") and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(text)
