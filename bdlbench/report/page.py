"""Write the report's page: one self-contained HTML file, from a template that escapes everything."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib as mpl
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from bdlbench.core import files
from bdlbench.core.spec import flatten
from bdlbench.records import reading
from bdlbench.records.cells import Result, merge
from bdlbench.records.record import Record, Unread
from bdlbench.report import commands, evidence, overview, plots, tables
from bdlbench.report.evidence import EvidenceSection
from bdlbench.report.plots import Panel
from bdlbench.report.tables import Column
from bdlbench.runs import rescoring
from bdlbench.runs.references import asked_for

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
DPI = 150


@dataclass(frozen=True)
class CellSummary:
    """A number of a data set's table.

    Attributes:
        text: The number as the table prints it.
        interval: Its 95 % interval, "" without one.
        leads: Whether it is bold.
    """

    text: str
    interval: str
    leads: bool


@dataclass(frozen=True)
class Drawing:
    """A panel on the page.

    Attributes:
        svg: Markup with a description.
        stem: The name of its files, without ending.
    """

    svg: Markup
    stem: str


class Written(NamedTuple):
    """A page.

    Attributes:
        file: Its path.
        unread: Records that it leaves out and names, because they cannot be read.
    """

    file: Path
    unread: tuple[Unread, ...]


def write(path: Path, out: Path, metrics: Sequence[str] = (), references: Path | None = None) -> Written:
    """Write out/index.html from the records at `path`, and every figure to out/figures as SVG and PNG.

    The same records give the same page.

    Args:
        path: A folder of records, or a record.
        out: The folder to write.
        metrics: The metrics to show, by default the main ones.
        references: The folder of records to compare with, by default that of the references.

    Returns:
        The page.

    Raises:
        BadInput: There are no records, a metric is unknown, or the folder of references holds none.
    """
    source = reading.read(path)
    completed, untold = rescoring.complete(source, metrics, asked_for(references))
    suite = overview.nearest_suite(merge(completed.records))
    found = overview.in_order(completed.records, suite)
    results = merge(found)
    sections = evidence.sections(found, metrics)
    again = commands.commands(found, path, out, references)  # before anything is written
    colours = plots.colours_of([row.method for section in sections for row in section.rows])
    shown = [_shown(section, i, colours, out / "figures") for i, section in enumerate(sections)]
    text = template("report.html.j2").render(
        title=overview.title(results, suite),
        folder=str(path),
        contents=_contents(results),
        overview=overview.rows(sections),
        sentences=[overview.sentence(section) for section in sections],
        sections=shown,
        colours={method: mpl.colors.to_hex(colour) for method, colour in colours.items()},
        failures=[*_failures(results), *untold, *(f"left out: {one.reason}" for one in source.unread)],
        environment=environment(found),
        commands=again,
    )
    files.write_atomic(out / "index.html", text.encode())
    return Written(out / "index.html", source.unread)


def environment(found: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Return each fact of the environment of records with all of its values, the most frequent first."""
    facts: dict[str, dict[str, int]] = {}
    for record in found:
        for name, value in flatten(record.environment.as_dict()).items():
            counts = facts.setdefault(name, {})
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            counts[text] = counts.get(text, 0) + 1
    return [(name, sorted(counts, key=lambda text: -counts[text])) for name, counts in sorted(facts.items())]


def template(name: str, package: str = "bdlbench.report") -> Any:
    """Return a template that escapes everything; it may include the report's own, such as style.css.j2.

    Args:
        name: The file, in the folder templates/ of the package.
        package: The package.
    """
    loader = ChoiceLoader([PackageLoader(package, "templates"), PackageLoader("bdlbench.report", "templates")])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template(name)


def _shown(section: EvidenceSection, index: int, colours: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write a section's figures and return the section as the template takes it."""
    drawn = plots.plots(section, colours)
    title = section.table.title
    return {
        "id": f"data-{index + 1}",
        "title": title,
        "name": title.partition(" · ")[0],
        "table": section.table,
        "cells": [
            [_cell(section, i, j, column) for j, column in enumerate(section.table.columns)]
            for i in range(len(section.rows))
        ],
        "methods": [row.method for row in section.rows],
        "caption": tables.describe([row.result for row in section.rows], [section.table]).replace("`", ""),
        "plots": [
            (plot, [drawing(panel, f"{index + 1}-{_slug(title.split()[0])}-", folder) for panel in plot.panels])
            for plot in drawn
            if plot.panels
        ],
        "left_out": {plot.title: why for plot in drawn if (why := plot.partly if plot.panels else plot.reason)},
        "notes": section.notes,
    }


def _cell(section: EvidenceSection, i: int, j: int, column: Column) -> CellSummary:
    row, entry = section.rows[i], section.table.rows[i].entries[j]
    half = section.standings[column.name].half_widths.get(row.result.key, math.nan) if not column.is_cost else math.nan
    interval = ""
    if half > 0 and entry.error and float(entry.error) > 0:
        decimals = len(tables.number(entry.value, half).error.partition(".")[2])
        low, high = (f"{entry.value + side * half:.{decimals}f}" for side in (-1, 1))
        interval = f"{low} … {high}".replace("-", "−")
    return CellSummary(entry.text, interval, entry.leads)


def _contents(results: Sequence[Result]) -> str:
    count = sum(len(result.replicates) for result in results)
    names = dict.fromkeys(result.cell.dataset.name for result in results)
    cells = "one cell" if len(results) == 1 else f"{len(results)} cells"
    return f"{count} replicates of {cells} on {', '.join(names)}"


def _failures(results: Sequence[Result]) -> list[str]:
    return [
        f"{result.title}, seed {replicate.seed}, split {replicate.split}: {reason}"
        for result in results
        for replicate, reason in sorted(result.failed.items())
    ]


def drawing(panel: Panel, prefix: str, folder: Path) -> Drawing:
    """Write a panel as SVG and PNG, and return it as part of a page.

    Args:
        panel: The panel.
        prefix: What the names of its files begin with.
        folder: The folder to write.

    Returns:
        Its markup and the name of its files.
    """
    stem = f"{prefix}{_slug(panel.name)}-{files.sha256(panel.name.encode())[:4]}"
    with mpl.rc_context({"svg.hashsalt": stem, "svg.fonttype": "none"}):
        svg = _saved(panel.figure, format="svg", metadata={"Date": None, "Creator": None})
    panel.figure.set_layout_engine("none")  # the layout is done: a second pass would be slow and give another one
    files.write_atomic(folder / f"{stem}.svg", svg)
    files.write_atomic(folder / f"{stem}.png", _saved(panel.figure, format="png", dpi=DPI, metadata={"Software": None}))
    return Drawing(inline(svg, panel.alt), stem)


def _saved(figure: Figure, **options: Any) -> bytes:
    """Return the figure's file. The same figure gives the same bytes: no date, no versions, ids from a fixed salt."""
    stream = io.BytesIO()
    with warnings.catch_warnings():  # a script that the font lacks becomes boxes in a PNG, and stays text in an SVG
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, **options)
    return stream.getvalue()


def inline(svg: bytes, alt: str) -> Markup:
    """Return an SVG as part of an HTML page.

    `alt` describes it, its width is that of its place, and ids that nothing refers to are removed.
    """
    root = ElementTree.fromstring(svg)  # nosec B314 # drawn by matplotlib in this process
    wanted = set(re.findall(rb"#([\w.-]+)", svg))
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
        if parent.get("id", "").encode() not in wanted:
            parent.attrib.pop("id", None)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    for prefix, uri in (("", SVG), ("xlink", XLINK)):
        ElementTree.register_namespace(prefix, uri)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # nosec B704 # texts are escaped as they are written


def _slug(text: str) -> str:
    """Return a text that is a valid file name on any system."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:60]
