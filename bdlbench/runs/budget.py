"""Lower bounds on the memory and time of a batch, so that a typing error is refused before training starts.

Because both are lower bounds, no batch that could finish is refused. Options are found by the names that every entry
uses for them.
"""

from __future__ import annotations

from collections.abc import Iterator

from bdlbench import catalog
from bdlbench.core import memory
from bdlbench.core.errors import BadInput
from bdlbench.core.spec import Choice
from bdlbench.runs.batch import Batch
from bdlbench.runs.loading import load_task

STEP_SECONDS, SAMPLE_SECONDS = 2e-5, 1e-6
"""Faster than any machine: a step of the smallest network takes 300 µs, the key of one sample's stream 1.2 µs."""

MOST_SECONDS = 24 * 3600.0
"""The longest allowed lower bound; at real speeds such a batch takes more than a fortnight."""

WORTH_SAYING = 3600.0
"""A lower bound of more seconds than this is reported before the run begins."""

COPIES = 4
"""Copies of each weight in a step: itself, its gradient, and two that an optimiser needs; four bytes each."""


def check(batch: Batch) -> str:
    """Check a batch's lower bounds; return one line if it takes long on any machine, else "".

    Loads the data set and lays out the model without allocating its weights. Raises BadInput if the batch needs more
    memory than there is, or more than MOST_SECONDS.
    """
    points = len(batch.rows[0].cell.tuning.points) if batch.rows[0].cell.tuning else 1
    cell, rows = batch.rows[0].cell.at(0), len(batch.rows) * points
    task = load_task(cell.dataset, batch.rows[0].replicate.split)
    members = _product(cell.method, "members")
    memory.refuse(rows * members * 1024, f"{cell.title}: {rows * members:,} networks")
    model = catalog.build_model([row.cell.at(0).model for row in batch.rows], task.signature)
    if model.unsupported():
        return ""  # `run` says why the cell is skipped
    weights = sum(leaf.size for leaf in model.leaves().values())
    named = f"{cell.title}: {rows * members:,} × {weights:,} weights, their gradients and what an optimiser keeps,"
    memory.refuse(rows * members * weights * COPIES * 4, named)
    times = list(_times(batch))
    what, seconds = max(times, key=lambda found: found[1])
    if seconds > MOST_SECONDS:
        raise BadInput(f"{cell.title}: {what} take at least {spelled(seconds)} on any machine: ask for fewer")
    together = sum(seconds for _, seconds in times)
    return f"{cell.title} takes at least {spelled(together)}" if together > WORTH_SAYING else ""


def _times(batch: Batch) -> Iterator[tuple[str, float]]:
    """Yield each count of a batch in words, with the least seconds that it takes."""
    cell = batch.rows[0].cell
    examples = len(load_task(cell.dataset, batch.rows[0].replicate.split).train.y)
    given = list(_options(cell.method))
    in_steps = [value for name, value in given if name == "steps" and value]  # they replace the epochs
    for name, value in given:
        if name == "steps" and value:
            yield f"{value:,} steps", value * STEP_SECONDS
        if name == "epochs" and not in_steps:
            sizes = [size for other, size in given if other == "batch_size"]
            steps = value * max(1, examples // min([*sizes, examples]))  # or one more, if the last batch is kept
            yield f"{value:,} epochs, which are {steps:,} steps,", steps * STEP_SECONDS
    for name, value in [("samples", cell.samples), *given, *_options(cell.model)]:
        if name.endswith(("samples", "_steps")):
            yield f"{name.replace('_', ' ')} = {value:,}", value * SAMPLE_SECONDS


def _options(chosen: Choice) -> Iterator[tuple[str, int]]:
    """Yield every whole number among the options of an entry and of the entries nested in it."""
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


def spelled(seconds: float) -> str:
    """Write seconds with one decimal in the largest unit that fits: 3.5 days."""
    units = [("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)]
    name, unit = next(((name, unit) for name, unit in units if seconds >= unit), ("seconds", 1.0))
    return f"{seconds / unit:,.1f} {name}"
