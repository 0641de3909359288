"""The commands, and the only place where an error becomes one line and an exit code.

Heavy modules are imported only when a command needs them: `--help` imports neither torch nor NumPy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bdlbench.cli import interrupts, terminal
from bdlbench.cli.checks import check, gate, verify
from bdlbench.cli.claims import claims
from bdlbench.cli.listing import data, list_
from bdlbench.cli.merge import merge
from bdlbench.cli.peers import peers
from bdlbench.cli.reproduce import reproduce
from bdlbench.cli.results import compare, rank, report, table
from bdlbench.cli.run import run
from bdlbench.cli.score import score
from bdlbench.cli.tune import tune
from bdlbench.core import instructions
from bdlbench.core.errors import INTERNAL, INTERRUPTED, BadInput, BenchError, Interrupted, printable

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A benchmark and reproducibility suite for Bayesian deep learning.",
    epilog="Exit codes: 0 done, 1 negative verdict, 2 bad input, 3 not comparable, 4 incomplete, 70 internal error, "
    "130 interrupted.",
)
app.command()(run)
app.command("list")(list_)
for command in (tune, merge, table, compare, rank, score, report, reproduce, claims, verify, gate, check, data, peers):
    app.command()(command)


@app.callback()
def everywhere(
    native: Annotated[
        bool, typer.Option("--native", help="use all vector instructions, not only AVX2; changes bits")
    ] = False,
) -> None:
    """Set the options that all commands share."""
    if native:
        os.environ[instructions.NATIVE] = "1"
        instructions.choose()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--native" in arguments:  # an option of every command may stand anywhere
        arguments = ["--native", *(word for word in arguments if word != "--native")]
    with terminal.forgiving():
        try:
            code = app(arguments or ["--help"], prog_name="bdlbench", standalone_mode=False)
            if code == INTERRUPTED:
                raise Interrupted("interrupted")
            sys.stdout.flush()  # fail here, not when the interpreter ends
            return code if isinstance(code, int) else 0
        except BaseException as error:  # also sys.exit of other code, whose number is not a verdict
            if isinstance(error, Interrupted):
                return _fail(str(error), INTERRUPTED)
            if isinstance(error, KeyboardInterrupt | typer.Abort) or interrupts.pressed():
                return _fail("interrupted", INTERRUPTED)
            if isinstance(error, BenchError):
                return _fail(f"{error}{_place(error)}", error.exit_code)
            if hasattr(error, "format_message"):  # the command line itself is wrong
                return _fail(error.format_message(), BadInput.exit_code)
            if os.environ.get("BDLBENCH_DEBUG") == "1":
                raise
            if isinstance(error, OSError) and _is_theirs(error.filename):
                return _fail(f"{error.filename} cannot be read or written: {error.strerror}", BadInput.exit_code)
            return _fail(f"internal error: {type(error).__name__}: {error} (BDLBENCH_DEBUG=1 shows where)", INTERNAL)


def _place(error: BenchError) -> str:
    """Return the place in a plugin where an error arose, such as (mine.py:12), unless its message names the file."""
    if "torch" not in sys.modules:  # then no plugin was read
        return ""
    from bdlbench.core import foreign

    where = foreign.raised_at(error)
    return f" ({foreign.shown(where[0])}:{where[1]})" if where and where[0].name not in str(error) else ""


def _is_theirs(file: object) -> bool:
    """Tell whether the system has refused a file of the user's: then the disk or a name is wrong, not this package."""
    package = Path(__file__).parents[1]
    return isinstance(file, str) and not Path(file).is_relative_to(package)


def _fail(message: str, code: int) -> int:
    interrupts.told()
    print(f"bdlbench: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
