"""Compute from which size on a cluster is faster than the cores at hand, and write the table into the documentation.

python scripts/cluster_pays.py docs/clusters.md

The overheads are those that `scripts/cluster_trial.py` measured; how long a queue or an image takes is a guess, stated
in the table.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from math import ceil
from pathlib import Path

MARKS = ("<!-- pays -->", "<!-- end pays -->")
MINUTES = (0.1, 1.0, 10.0)
"""How long a cell takes, in the columns of the table."""

MOST = 1_000_000
"""More cells than this are no answer."""


@dataclass(frozen=True)
class Deployment:
    """Workers that are not at hand yet.

    Attributes:
        name: Where they come from.
        workers: How many.
        own: The cores that are at hand instead.
        start: Seconds until the workers take tasks.
        per_batch: Seconds that each batch costs the scheduler and the run, one after the other.
    """

    name: str
    workers: int
    own: int
    start: float
    per_batch: float


def seconds(cells: int, minutes: float, workers: int, start: float, per_batch: float) -> float:
    """Return the seconds of a run whose cells all take equally long, each a batch."""
    return start + cells * per_batch + 60 * minutes * ceil(cells / workers)


def pays_from(deployment: Deployment, minutes: float) -> int | None:
    """Return the number of cells from which on it is faster than the cores at hand, for good; None if it never is."""
    gain = 60 * minutes * (1 / deployment.own - 1 / deployment.workers) - deployment.per_batch
    if gain <= 0:
        return None
    # beyond this many cells the rounding up of the last turn, at most a cell, is made up for
    certain = ceil((deployment.start + 60 * minutes) / gain)
    if certain > MOST:
        return None
    for cells in range(certain, 0, -1):
        there = seconds(cells, minutes, deployment.workers, deployment.start, deployment.per_batch)
        if there >= seconds(cells, minutes, deployment.own, 0.0, 0.0):
            return cells + 1
    return 1


IMPORT = 4.0
"""Seconds of CPU that a worker needs to import torch and this package."""

LOCALLY, ON_CLUSTER, SENT_BACK = 0.00015, 0.030, 0.005
"""Seconds for each batch: by local processes; as a task of a Dask cluster; more where its record is sent back."""

DEPLOYMENTS = (
    Deployment("`--jobs 8`", 8, 1, IMPORT, LOCALLY),
    Deployment("a Dask cluster that runs", 20, 2, IMPORT, ON_CLUSTER),
    Deployment("SLURM, 2 minutes in the queue", 40, 8, 120 + IMPORT, ON_CLUSTER),
    Deployment("SLURM, half an hour in the queue", 40, 8, 1800 + IMPORT, ON_CLUSTER),
    Deployment("Kubernetes, 2 minutes to pull the image", 100, 16, 120 + IMPORT, ON_CLUSTER + SENT_BACK),
    Deployment("SLURM, 10 minutes in the queue", 200, 64, 600 + IMPORT, ON_CLUSTER),
)


def table() -> str:
    """Return a row for each deployment, with the number of cells from which on it pays."""
    head = [f"cells of {60 * m:.0f} s" if m < 1 else f"of {m:g} minute{'s' * (m > 1)}" for m in MINUTES]
    lines = [f"| workers | how many | own cores | {' | '.join(head)} |", f"| --- {'| --- ' * (2 + len(head))}|"]
    for one in DEPLOYMENTS:
        counts = [pays_from(one, minutes) for minutes in MINUTES]
        found = " | ".join("never" if count is None else f"from {count:,}" for count in counts)
        lines.append(f"| {one.name} | {one.workers} | {one.own} | {found} |")
    return "\n".join(lines)


def main(page: Path) -> None:
    """Write the table between its marks."""
    text = page.read_text("utf-8")
    block = f"{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}"
    page.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: block, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
