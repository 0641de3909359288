"""`list` and `data`: available entries, and the state of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdlbench.cli.options import ModulesOption, PluginsOption, Replaced, add_plugins
from bdlbench.core.errors import unknown

if TYPE_CHECKING:
    from bdlbench.catalog import Kind

LISTED = ("methods", "models", "datasets", "metrics", "suites")


def list_(
    kind: Annotated[str, typer.Argument(help="methods, models, datasets, metrics or suites  [default: all]")] = "",
    name: Annotated[str, typer.Argument(help="one entry, to show its description and options")] = "",
    options: Annotated[bool, typer.Option("--options", help="show options with defaults, ranges and help")] = False,
    plugin: PluginsOption = [],  # noqa: B006
    module: ModulesOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """List available entries, one line each."""
    if kind and kind not in LISTED:
        raise unknown("kind", kind, LISTED)
    add_plugins(plugin, replaced, module)
    if name:
        _print_entry(kind, name)
        return
    for shown in [kind] if kind else LISTED:
        if not kind:
            print(shown)
        _print_kind(shown, options, "" if kind else "  ")


def _print_kind(kind: str, options: bool, indent: str) -> None:
    lines = _summaries(kind)
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{indent}{name:{width}}  {line}")
        if options:
            _print_options(kind, name, f"{indent}    ")


def _summaries(kind: str) -> dict[str, str]:
    """Return one line for each entry of a kind."""
    from bdlbench import catalog
    from bdlbench.runs import suites

    if found := _catalog_kind(kind):
        entries = {name: catalog.summary(found, name) for name in catalog.names(found)}
        return entries | (_costs() if found == "metrics" else {})
    return {name: suites.read_suite(name).title for name in suites.suite_names()}


def _costs() -> dict[str, str]:
    """Return one line for each cost that `--metrics` of `run`, `table` and `report` takes besides metrics."""
    from bdlbench.report import tables

    return {name: f"cost of a batch, in tables only: {line}" for name, line in tables.COSTS.items()}


def _catalog_kind(kind: str) -> Kind | None:
    """Return `kind` if the catalog has it; suites are not in the catalog."""
    from bdlbench import catalog

    return next((known for known in catalog.KINDS if known == kind), None)


def _print_options(kind: str, name: str, indent: str) -> None:
    from bdlbench import catalog
    from bdlbench.core import options

    found = _catalog_kind(kind)
    if found is None or found == "metrics":
        return
    entry = catalog.load(found, name)
    free, ranges = options.per_row_names(entry), options.searched(entry)
    for key, field in catalog.options_of(found, name).items():
        swept = "; a sweep is one batch" if key in free else ""
        if key in ranges and found == "methods":
            least, largest = ranges[key]
            swept += f"; tune searches {least:g} to {largest:g}"
        default, allowed = options.spell(field.default), options.allowed(field)
        print(f"{indent}{name}.{key} = {default}: {field.metadata['help']} ({allowed}{swept})")


def _print_entry(kind: str, name: str) -> None:
    """Print the whole description of one entry."""
    import inspect

    from bdlbench import catalog
    from bdlbench.runs import suites

    found = _catalog_kind(kind)
    if found is None:
        suite = suites.read_suite(name)
        print(f"{name}: {suite.title} (version {suite.version}); seeds {suite.seeds}, M = {suite.samples}")
        for grid in suite.grids:
            own = f"; M = {grid.samples}" if grid.samples else ""
            print("  " + " × ".join(", ".join(part) for part in (grid.methods, grid.models, grid.datasets)) + own)
            for entry, values in suites.merge(suite.options, grid.options).items():
                if any(entry in listed for listed in (grid.methods, grid.models, grid.datasets)):
                    print(f"    {entry}: {', '.join(f'{k} {_values(v)}' for k, v in values.items())}")
            if grid.search:
                print(f"    found by the search {grid.search.split(' ')[0]}")
            if grid.choose:
                told = f"{len(grid.choose.points())} points, on {100 * grid.choose.validation:g} % of its training rows"
                print(f"    each replicate chooses among {told}:")
                for entry, table in grid.choose.options.items():
                    print(f"      {entry}: {', '.join(f'{k} {_values(v)}' for k, v in table.items())}")
        if suite.curves:
            print(f"  curves of the test set: {suite.curves}")
        print("  these options hold in these cells alone; what is not shown has its default: list methods --options")
        return
    if found == "metrics" and name in (costs := _costs()):
        print(f"{name}: {costs[name]}")
        return
    entry = catalog.load(found, name)
    summary = f"{entry.summary} ({entry.unit}; {entry.better} is better)\n" if found == "metrics" else ""
    print(f"{name}: {summary}{inspect.getdoc(entry)}")
    _print_options(kind, name, "  ")


def _values(values: Sequence[Any]) -> str:
    """Write one value as 120, a sweep as 1|2|4."""
    from bdlbench.core import options

    return "|".join(map(options.spell, values))


def data(
    name: Annotated[str, typer.Argument(help="fetch and verify this data set  [default: show the state of all]")] = "",
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Show which data sets are present and verified, or fetch one."""
    from bdlbench import catalog
    from bdlbench.data import downloads

    add_plugins(plugin, replaced)
    if name:
        files = getattr(catalog.load("datasets", name), "files", ())
        downloads.fetch(files, name)
        for path, state in downloads.status(files):
            print(f"{name}: {path}: {state}")
        return
    names = catalog.names("datasets")
    print(f"store: {downloads.root()} (set BDLBENCH_DATA to change it)")
    for entry in names:
        print(f"{entry:{max(map(len, names))}}  {data_state(entry)}")


def data_state(name: str) -> str:
    """Return "verified" for a data set, or how many of its files are in which state."""
    from bdlbench import catalog
    from bdlbench.data import downloads

    entry = catalog.load("datasets", name)
    files: Sequence[downloads.RemoteFile] = getattr(entry, "files", ())
    if not files and "path" in catalog.options_of("datasets", name):
        return "your own, by its option path"
    if not files:
        return str(getattr(entry, "origin", "bundled with scikit-learn"))
    states = [state for _, state in downloads.status(files)]
    if len(set(states)) == 1:
        return f"{states[0]} ({len(files)} files)"
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
