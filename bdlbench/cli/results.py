"""`table`, `compare`, `rank` and `report`: tables and verdicts from records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlbench.cli.options import (
    FormatOption,
    MetricsOption,
    PluginsOption,
    ReferencesOption,
    Replaced,
    add_plugins,
    format_of,
    listed,
)
from bdlbench.cli.terminal import screen, write
from bdlbench.core.errors import INCOMPLETE
from bdlbench.core.memory import cycles_kept

if TYPE_CHECKING:
    from bdlbench.records.cells import Result
    from bdlbench.records.reading import Faults
    from bdlbench.records.record import Record


@cycles_kept()
def table(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records, or one record")],
    format_: FormatOption = "terminal",
    metrics: MetricsOption = "",
    sort: Annotated[str, typer.Option(metavar="METRIC", help="best first by this metric")] = "",
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="also draw it: .png, .svg or .pdf")] = None,
    interval: Annotated[
        bool, typer.Option("--interval", help="after ±, half the 95 % interval over new seeds and test examples")
    ] = False,
    references: ReferencesOption = None,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Print the records of a folder: mean and standard error over replicates, with the best and its equals in bold."""
    style = format_of(format_)
    from bdlbench.records import reading
    from bdlbench.report import overview, tables
    from bdlbench.runs import rescoring
    from bdlbench.runs.references import asked_for

    add_plugins(plugin, replaced)
    found, untold, faults = rescoring.completed(reading.read(results), [*listed(metrics), sort], asked_for(references))
    found = overview.in_order(found, overview.nearest_suite(found))
    if figure is not None:
        from bdlbench.report import figures  # its libraries take half a second

        figures.draw_table(found, figure, listed(metrics), sort)
    write(tables.render(found, style, listed(metrics), sort, *screen(), interval=interval), style)
    if style == "terminal":
        print_options_in_force(found)
        print_machines(found, listed(metrics))
        print_failures(found)
        for line in untold:
            print(line)
    print_faults(faults)
    if faults.damaged or faults.unread:
        raise typer.Exit(INCOMPLETE)


def print_options_in_force(found: Sequence[Result]) -> None:
    """Print the options that differ from the methods' defaults, one line for each data set."""
    from bdlbench.report import tables

    for line in tables.not_the_defaults(found):
        print(line)


def print_machines(found: Sequence[Result], metrics: Sequence[str]) -> None:
    """Print the machines on which throughput was measured, if it is asked for."""
    from bdlbench.report import tables

    if not set(metrics).isdisjoint(tables.SHORT):
        timed = [record for result in found for record in result.records if record.cost]
        print(f"Measured on {'; '.join(sorted({record.environment.machine for record in timed}))}.")


def print_failures(found: Sequence[Result]) -> bool:
    """Print failed replicates and metrics without scores. Return whether anything is missing."""
    from bdlbench import catalog
    from bdlbench.report import tables

    known, incomplete = set(catalog.names("metrics")), False
    if not any(result.failed or any(record.unscored for record in result.records) for result in found):
        return False
    for title, result in zip(tables.cell_titles(found), found, strict=True):
        by_reason: dict[str, list[str]] = {}
        for replicate, reason in sorted(result.failed.items()):
            where = f"seed {replicate.seed}" + (f", split {replicate.split}" if replicate.split else "")
            by_reason.setdefault(reason, []).append(where)
        for reason, places in by_reason.items():
            print(f"failed: {title}, {'; '.join(places)}: {reason}")
        owed = {name: reason for record in result.records for name, reason in record.unscored.items()}
        for name, reason in owed.items():
            again = "run again, it is scored without training" if name in known else "--plugin FILE.py has it"
            print(f"not scored: {title}: metric {name}: {reason}; {again}")
        incomplete |= bool(result.failed) or not known.isdisjoint(owed)
    return incomplete


def print_other_code(made: Sequence[Record]) -> None:
    """Print one line on stderr where other code made the records that are judged as they are.

    Args:
        made: The records.
    """
    from bdlbench.runs import provenance

    if by_reason := provenance.by_other_code(made):
        first, *others = sorted(by_reason, key=lambda reason: -len(by_reason[reason]))
        count = sum(map(len, by_reason.values()))
        more = f", and {len(others)} other reason{'s' * (len(others) > 1)}" * bool(others)
        what = f"judged as stored, though other code made {count} of {len(made)} records: {first}{more}"
        print(f"{what} (without --stored they are trained again)", file=sys.stderr)


def print_faults(faults: Faults) -> None:
    """Print faults of files beside records on stderr, because a program may read the table on stdout."""
    for line in faults.lines():
        print(f"bdlbench: {line}", file=sys.stderr)


@cycles_kept()
def compare(  # noqa: PLR0913 - one parameter for each option of the command
    a: Annotated[
        str, typer.Argument(metavar="A", help="a folder of records, one record, or a git revision of results/")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="the same, to compare with A; REVISION:PATH names a folder")],
    metrics: MetricsOption = "",
    margins: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="[margins] by metric  [default: pyproject.toml's]")
    ] = None,
    treatment: Annotated[
        str, typer.Option(metavar="A:B", help="pair method A of A with B of B, each NAME or 'NAME(OPTION=V)'")
    ] = "",
    ignore_options: Annotated[
        bool, typer.Option("--ignore-options", help="pair methods by name, whatever their options")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="treat inconclusive as failure")] = False,
    references: ReferencesOption = None,
    format_: FormatOption = "terminal",
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Compare B with A: differences with intervals, verdicts, and what would settle the rest. Exits with 1 if worse."""
    style = format_of(format_)
    from bdlbench import api
    from bdlbench.report import verdicts

    add_plugins(plugin, replaced)
    found = api.compare(
        a,
        b,
        metrics=listed(metrics),
        margins=margins,
        treatment=treatment,
        ignore_options=ignore_options,
        strict=strict,
        references=references,
    )
    write(verdicts.render(found, style, *screen()), style)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


@cycles_kept()
def rank(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records on several data sets")],
    metric: Annotated[str, typer.Option(metavar="METRIC", help="the metric to rank by")] = "nll",
    methods: Annotated[str, typer.Option(metavar="A,B", help="only these, on data sets that have all of them")] = "",
    format_: FormatOption = "terminal",
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="draw a critical-difference diagram: .png, .svg or .pdf")
    ] = None,
    references: ReferencesOption = None,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Rank methods over data sets: Friedman's test, then every pair by Wilcoxon's with Holm's correction."""
    style = format_of(format_)
    from bdlbench import api
    from bdlbench.report import figures, verdicts

    add_plugins(plugin, replaced)
    found = api.rank(results, metric, listed(methods), references=references)
    if figure is not None:
        figures.draw_ranking(found, figure)
    write(verdicts.render_ranking(found, style, *screen()), style)
    if found.unread:
        raise typer.Exit(INCOMPLETE)


def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records, or one record")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where index.html and figures/ go")] = Path("report"),
    metrics: MetricsOption = "",
    references: ReferencesOption = None,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Write a self-contained HTML page of a folder's records, with its figures beside it as SVG and PNG."""
    from bdlbench.core import files
    from bdlbench.report import page

    add_plugins(plugin, replaced)
    files.refuse_unwritable(out, "--out")
    file, unread = page.write(results, out, listed(metrics), references)
    print(f"{file}: {file.stat().st_size / 1e6:.2f} MB; its figures, as SVG and PNG, are in {file.parent / 'figures'}")
    if unread:
        raise typer.Exit(INCOMPLETE)
