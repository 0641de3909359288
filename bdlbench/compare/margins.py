"""Non-inferiority margins from a TOML file: the largest loss in each metric that does not count."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.files import read_toml
from bdlbench.core.options import short

TABLE = ("tool", "bdlbench", "gate")
"""The path of `margins` in a pyproject.toml: [tool.bdlbench.gate.margins]. In a separate file it is [margins]."""

OF_SCORES = "ood_auroc_"
"""The first part of the names of metrics that are made for the scores of a file of predictions."""


def read(path: Path | None, metrics: Iterable[str]) -> dict[str, float]:
    """Return the margins of a file, or of the nearest pyproject.toml.

    Args:
        path: A TOML file. None means the pyproject.toml of this folder or of the nearest folder above it.
        metrics: The known metrics or columns: those of the catalog, and others that records hold.

    Returns:
        {metric: margin in its unit}; {} where no pyproject.toml is found.

    Raises:
        BadInput: A file cannot be read, a name is unknown, or a margin is not a number ≥ 0.
    """
    found = path or _nearest()
    if found is None:
        return {}
    tables = read_toml(found)
    for key in () if path and "margins" in tables else TABLE:
        tables = tables.get(key, {})
        if not isinstance(tables, dict):
            raise BadInput(f"{found}: {key} is not a table: margins are in [{'.'.join((*TABLE, 'margins'))}]")
    margins = tables.get("margins", {})
    if path and not margins:
        raise BadInput(f"{path} has no table [margins]: a line for each metric, such as nll = 0.01")
    known = {name.partition("[")[0] for name in metrics}
    if path is None and isinstance(margins, dict):  # a project's margins also serve records without such a metric
        known |= {entry for name in margins if (entry := name.partition("[")[0]).startswith(OF_SCORES)}
    return checked(str(found), margins, sorted(known))


def of(margins: Mapping[str, float], column: str) -> float:
    """Return the margin of a column such as `ood_auroc[near]`: its own, else its metric's, else 0."""
    return margins.get(column, margins.get(column.partition("[")[0], 0.0))


def _nearest() -> Path | None:
    """Return the pyproject.toml of this folder or of the nearest folder above it."""
    here = Path.cwd()
    return next((file for folder in (here, *here.parents) if (file := folder / "pyproject.toml").is_file()), None)


def checked(path: str, margins: Any, metrics: list[str]) -> dict[str, float]:
    """Return margins as numbers.

    Args:
        path: The file that holds the margins, for messages.
        margins: The table that was read.
        metrics: The known metrics.

    Returns:
        {metric: margin in its unit}.

    Raises:
        BadInput: `margins` is not a table, a name is not a metric, or a margin is not a number ≥ 0.
    """
    if not isinstance(margins, Mapping):
        raise BadInput(f"{path}: margins is not a table: a line for each metric, such as nll = 0.01")
    for name, value in margins.items():
        if name.partition("[")[0] not in metrics:
            raise BadInput(f"{path}: {unknown('metric', name, metrics)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value <= sys.float_info.max):
            said = short(repr(value) if isinstance(value, str) else value)
            raise BadInput(f"{path}: the margin of {name} is {said}: a number from 0 upwards, in the metric's unit")
    return {name: float(value) for name, value in margins.items()}
