"""`merge`: bring the records of several machines together in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="folders that `run` wrote")],
    results: Annotated[Path, typer.Option(metavar="DIR", help="where their records go")] = Path("results/local"),
) -> None:
    """Copy the records of several folders into one. If two conflict, nothing is written."""
    from bdlbench.runs import shards

    done = shards.merge(folders, results)
    print(f"{done.copied} records copied to {results}; {done.known} were there to the same bits")
    if done.failed:
        print(f"{done.failed} records of failures left out: others hold values of their replicates")
