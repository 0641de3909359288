"""What a batch takes at the least, in memory and time, so that a slip of the keyboard is refused before it trains.

Both are lower bounds: nothing that could end is refused. Options go by the names that every entry uses for them.
"""

from __future__ import annotations

from collections.abc import Iterator

from bdlbench import catalog
from bdlbench.core import memory
from bdlbench.core.errors import BadInput
from bdlbench.core.spec import Choice
from bdlbench.runs.batch import Batch, load_task

STEP_SECONDS, SAMPLE_SECONDS = 2e-5, 1e-6
"""No machine is faster: one step of the smallest network takes 300 µs, the key of one sample's stream 1.2 µs."""

MOST_SECONDS = 24 * 3600.0
"""More than this at those speeds is more than a fortnight at any real one."""

WORTH_SAYING = 3600.0
"""A lower bound of so many seconds is said before the run begins."""

COPIES = 4
"""Of each weight while it is trained: itself, its gradient, and Adam's two moments; four bytes each."""


def check(batch: Batch) -> str:
    """Say in one line that a batch takes long however fast the machine is; "" where it does not.

    Loads the data set and lays out the model, of which no weight is allocated. Raises BadInput where the batch would
    take more memory than there is, or more than MOST_SECONDS, at the least.
    """
    cell, rows = batch.rows[0].cell, len(batch.rows)
    task = load_task(cell.dataset, batch.rows[0].replicate.split)
    members = _product(cell.method, "members")
    memory.refuse(rows * members * 1024, f"{cell.title}: {rows * members:,} networks")
    model = catalog.build_model([row.cell.model for row in batch.rows], task.signature)
    if model.unsupported():
        return ""  # `run` says why the cell is skipped
    weights = sum(leaf.size for leaf in model.leaves().values())
    named = f"{cell.title}: {rows * members:,} × {weights:,} weights, their gradients and Adam's moments,"
    memory.refuse(rows * members * weights * COPIES * 4, named)
    times = list(_times(batch))
    what, seconds = max(times, key=lambda found: found[1])
    if seconds > MOST_SECONDS:
        raise BadInput(f"{cell.title}: {what} take at least {_spelled(seconds)} on any machine: ask for fewer")
    together = sum(seconds for _, seconds in times)
    return f"{cell.title} takes at least {_spelled(together)}" if together > WORTH_SAYING else ""


def _times(batch: Batch) -> Iterator[tuple[str, float]]:
    """What a batch counts, in words, and the least seconds that it takes."""
    cell = batch.rows[0].cell
    examples = len(load_task(cell.dataset, batch.rows[0].replicate.split).train.y)
    for name, value in _options(cell.method):
        if name == "epochs":
            sizes = [size for other, size in _options(cell.method) if other == "batch_size"]
            steps = value * max(1, examples // min([*sizes, examples]))  # or one more, where the last batch is kept
            yield f"{value:,} epochs, which are {steps:,} steps,", steps * STEP_SECONDS
    for name, value in [("samples", cell.samples), *_options(cell.method), *_options(cell.model)]:
        if name.endswith(("samples", "steps")):
            yield f"{name.replace('_', ' ')} = {value:,}", value * SAMPLE_SECONDS


def _options(chosen: Choice) -> Iterator[tuple[str, int]]:
    """Every whole number among the options of an entry and of those nested in it."""
    for name, value in chosen.options:
        if isinstance(value, Choice):
            yield from _options(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, value


def _product(chosen: Choice, option: str) -> int:
    product = 1
    for name, value in _options(chosen):
        product *= value if name == option else 1
    return product


def _spelled(seconds: float) -> str:
    """Two digits and the largest unit that fits: 3.5 days."""
    units = [("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)]
    name, unit = next(((name, unit) for name, unit in units if seconds >= unit), ("seconds", 1.0))
    return f"{seconds / unit:,.1f} {name}"
