"""How much worse a metric may be before it counts: non-inferiority margins, from a TOML file."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.options import short

TABLE = ("tool", "bdlbench", "gate")
"""Where `margins` lies in a pyproject.toml: [tool.bdlbench.gate.margins]. In a file of its own it is [margins]."""

OF_SCORES = "ood_auroc_"
"""How the metrics begin that come into being with the scores of a file of predictions."""


def read(path: Path | None, metrics: Iterable[str]) -> dict[str, float]:
    """{metric: margin in its unit}; without a path those of the nearest pyproject.toml, {} where there is none.

    metrics: the names, or columns, that there are: those of the catalog, and what records hold besides.
    Raises BadInput for a file that cannot be read, another name, or no number ≥ 0.
    """
    found = path or _nearest()
    if found is None:
        return {}
    tables = _parsed(found)
    for key in () if path and "margins" in tables else TABLE:
        tables = tables.get(key, {})
        if not isinstance(tables, dict):
            raise BadInput(f"{found}: {key} is not a table: margins are in [{'.'.join((*TABLE, 'margins'))}]")
    margins = tables.get("margins", {})
    if path and not margins:
        raise BadInput(f"{path} has no table [margins]: a line for each metric, such as nll = 0.01")
    known = {name.partition("[")[0] for name in metrics}
    if path is None and isinstance(margins, dict):  # a project's margins serve records that lack such a metric too
        known |= {entry for name in margins if (entry := name.partition("[")[0]).startswith(OF_SCORES)}
    return checked(str(found), margins, sorted(known))


def of(margins: Mapping[str, float], column: str) -> float:
    """The margin of a column such as `ood_auroc[near]`: its own, else its metric's, else 0."""
    return margins.get(column, margins.get(column.partition("[")[0], 0.0))


def _nearest() -> Path | None:
    """The pyproject.toml of this folder or of the nearest above it."""
    here = Path.cwd()
    return next((file for folder in (here, *here.parents) if (file := folder / "pyproject.toml").is_file()), None)


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from None


def checked(path: str, margins: Any, metrics: list[str]) -> dict[str, float]:
    """Margins as numbers. path: where they stand, for messages. Raises BadInput for what is no metric, or no number."""
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
