"""Ctrl-C in the process of a command: the first ends the command in one line, the second ends the process at once.

This module imports nothing but what Python has loaded already, so that it hears a Ctrl-C from the beginning.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from bdlbench.core.errors import INTERRUPTED

LINE = "bdlbench: interrupted\n"
SHOW_CURSOR = "\x1b[?25h"
"""What a terminal needs where live bars have hidden its cursor."""


class CtrlC(KeyboardInterrupt):
    """A Ctrl-C.

    It has a class of its own, because a process in which `exec` has met a plain KeyboardInterrupt, as many imports do,
    ends by SIGINT instead of with its exit code, even if that was caught.
    """


_pressed = 0
_told = False


def listen() -> None:
    """Hear Ctrl-C from now on, for the rest of the process; a process that ignores it, as under `nohup`, still does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)


def end_listening() -> None:
    """Ignore Ctrl-C while the interpreter ends: the command has its exit code, which a signal would replace."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def pressed() -> bool:
    """Tell whether Ctrl-C was pressed: whatever is raised afterwards may be what a library made of it."""
    return _pressed > 0


def told() -> None:
    """Note that a line has been printed, so that a second Ctrl-C prints none."""
    global _told  # noqa: PLW0603 - a signal reaches a process, and is told once in it
    _told = True


def _hear(signum: int, frame: FrameType | None) -> None:
    """Raise CtrlC; within an import, or when it is pressed again, end the process.

    Extension modules that import others make an ImportError of whatever is raised meanwhile, and print its traceback
    themselves (NumPy). Nothing is lost by such an end: a run can be killed at any instant, and its workers end with it.
    """
    global _pressed  # noqa: PLW0603
    _pressed += 1
    if _pressed > 1 or _imports(frame):
        _end()
    raise CtrlC


def _imports(frame: FrameType | None) -> bool:
    """Tell whether the frame is within an import."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("importlib._bootstrap"):
            return True
        frame = frame.f_back
    return False


def _end() -> NoReturn:
    """End the process without unwinding anything, with its line if it has none yet."""
    if workers := sys.modules.get("bdlbench.runs.processes"):
        workers.STARTING.acquire(timeout=5.0)  # one that is half started would say so in a traceback of its own
    try:
        line = SHOW_CURSOR * os.isatty(2) + LINE * (not _told)
        os.write(2, line.encode())
    except OSError:  # there is nobody to tell
        pass
    os._exit(INTERRUPTED)
