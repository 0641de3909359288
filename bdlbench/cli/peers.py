"""`peers`: the same work done by other libraries, timed in turn."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bdlbench.cli.options import listed
from bdlbench.cli.terminal import screen, write
from bdlbench.core.errors import INCOMPLETE, BadInput, unknown


def peers(
    format_: Annotated[str, typer.Option("--format", help="terminal, markdown, csv or json")] = "terminal",
    rows: Annotated[str, typer.Option("--rows", metavar="A,B", help="rows of the table, by name  [default: all]")] = "",
    rounds: Annotated[int, typer.Option("--rounds", help="rounds; in each, every library has a turn")] = 5,
    tables: Annotated[int, typer.Option("--tables", help="repetitions of the whole table; 2 shows its spread")] = 1,
    threads: Annotated[int, typer.Option("--threads", help="threads of torch")] = 1,
) -> None:
    """Time the same work by this package, plain torch and other libraries, in turn (pip install 'bdlbench[peers]')."""
    for name, value in {"--rounds": rounds, "--tables": tables, "--threads": threads}.items():
        if value < 1:
            raise BadInput(f"{name} {value} is out of range: at least 1")
    import torch

    from bdlbench.core.memory import keep_freed_memory
    from bdlbench.peers import show, work, works

    style = next((known for known in show.TIMING_FORMATS if known == format_), None)
    if style is None:
        raise unknown("format", format_, show.TIMING_FORMATS)
    chosen = works.chosen(listed(rows))
    torch.set_num_threads(threads)
    keep_freed_memory()  # as `run` does; every library gains by it
    measured: list[list[work.PeerRow]] = [[] for _ in range(tables)]
    for done in measured:
        for each in chosen:
            print(f"timing {each.name}: {each.title}", file=sys.stderr, flush=True)
            done.append(work.measure(each, rounds))
    write(show.render(measured, style, threads, *screen()), style)
    if not all(row.complete for done in measured for row in done):
        raise typer.Exit(INCOMPLETE)
