"""Options that several commands share, and the parsing of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlbench.core.errors import BadInput, unknown

if TYPE_CHECKING:
    from bdlbench.report.text_table import Format

PluginsOption = Annotated[
    list[Path], typer.Option("--plugin", metavar="FILE.py", help="a file with entries of your own")
]
ModulesOption = Annotated[
    list[str],
    typer.Option("--module", metavar="PACKAGE.NETS:MAKE", help="an nn.Module as a model: a callable that makes one"),
]
Replaced = Annotated[
    list[str], typer.Option("--replace", metavar="NAME", help="let a plugin replace the entry of this name")
]
ReferencesOption = Annotated[
    Path | None,
    typer.Option(
        "--references", metavar="DIR", help="records of hmc to compare with  [default: results/reference/posterior]"
    ),
]
JobsOption = Annotated[int, typer.Option("--jobs", help="worker processes; 0: as many as cores allow, one on a GPU")]
ExecutorOption = Annotated[
    str,
    typer.Option("--executor", metavar="WHERE", help="a Dask cluster: dask (here), dask://HOST:PORT or dask:FILE"),
]
MetricsOption = Annotated[str, typer.Option("--metrics", metavar="A,B", help="columns; default: the main ones")]
FormatOption = Annotated[str, typer.Option("--format", help="terminal, markdown, csv, latex or json")]


def add_plugins(paths: Sequence[Path], replaced: Sequence[str], modules: Sequence[str] = ()) -> list[str]:
    """Add the entries of plugins and modules to the catalog, and return the names of the modules.

    Raises BadInput if a name to replace has no plugin or no entry.
    """
    names: list[str] = []
    if replaced and not paths and not modules:
        raise BadInput(f"--replace {replaced[0]}: no --plugin is given that could take its place")
    if paths or modules:
        from bdlbench import catalog
        from bdlbench.report import tables

        for path in paths:
            catalog.add_plugin(path, replaced)
            if taken := [name for name in catalog.names("metrics") if name in tables.COSTS]:
                words = f"the metric {taken[0]} has the name of a cost, a column of its own"
                raise BadInput(f"plugin {path}: {words}: choose another name")
        names = [catalog.add_module(place, replaced) for place in modules]
        idle = [name for name in replaced if not any(catalog.replaced(kind, name) for kind in catalog.KINDS)]
        if idle:
            raise BadInput(f"--replace {idle[0]}: no plugin that is given has an entry of this name and of one here")
    return names


def format_of(name: str) -> Format:
    """Return the format of this name. Raises BadInput for an unknown one; the error names the nearest."""
    from bdlbench.report.text_table import FORMATS

    style = next((known for known in FORMATS if known == name), None)
    if style is None:
        raise unknown("format", name, FORMATS)
    return style


def listed(text: str) -> tuple[str, ...]:
    """Return the names in a text such as "nll, ece"; () for an empty text."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
