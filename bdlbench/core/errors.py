"""What can go wrong, in words for people. The command line turns each error into one line and an exit code."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

DONE, NEGATIVE, BAD_INPUT, NOT_COMPARABLE, INCOMPLETE, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 70, 130
"""Exit codes: done; a negative verdict of compare, verify, gate or check; bad input; the protocols of two sides differ;
something that was asked for is missing; a fault of this package; Ctrl-C."""


class BenchError(Exception):
    """A failure that a person can act on. Its text is the one line that is printed."""

    exit_code = INTERNAL


class BadInput(BenchError):
    """Something the user gave is wrong. The text says what, where, and what would be right."""

    exit_code = BAD_INPUT


class DataUnavailable(BadInput):
    """A data set is absent, incomplete or fails its checksum."""


class NotComparable(BenchError):
    """Two results follow different protocols."""

    exit_code = NOT_COMPARABLE


class Unwritten(BenchError):
    """What a command found or made cannot be written: stdout, or the folder of results, takes no more."""

    exit_code = INCOMPLETE


class Interrupted(BenchError):
    """Ctrl-C."""

    exit_code = INTERRUPTED


class Diverged(BenchError):
    """The loss of every replicate stopped being finite during training."""


LONGEST = 60
"""How many characters of a given text a message repeats."""


def printable(text: str) -> str:
    """Return a text with escapes for characters that cannot be seen: they would steer a terminal, or hide a name."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


LONGEST_REASON = 300
"""How many characters of another library's message are repeated: some hold a whole file."""


def one_line(error: BaseException) -> str:
    """Return what an error says on one line that can be shown, cut where it is long; its type if it is silent."""
    words = printable(" ".join(str(error).split())) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]} …"


LONGEST_LIST = 1000
"""How many characters of a list of names an error has: a table may have thousands of columns."""


def named(names: Iterable[str]) -> str:
    """Return names for an error: each cut where it is long, and as many as there is room for."""
    cut = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names]
    text = ", ".join(cut)
    return text if len(text) <= LONGEST_LIST else f"{text[:LONGEST_LIST]} … ({len(cut)} in all)"


def unknown(kind: str, name: str, known: Iterable[str]) -> BadInput:
    """Return the error for a name that does not exist, with the nearest name that does.

    Args:
        kind: What is named, such as "option of mlp".
        name: The name that was given.
        known: The names that exist.

    Returns:
        The error, to be raised.
    """
    names = sorted(known)
    text = str(name)  # in Python a caller may have given anything
    name = name if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    near = get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {named(near)!r}?" if near else f"known: {named(names) or 'none'}"
    return BadInput(f"unknown {kind} {name!r}: {hint}")
