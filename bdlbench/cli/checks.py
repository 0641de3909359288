"""`verify`, `gate` and `check`: checks of records, of a tree and of entries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlbench.cli.options import ModulesOption, PluginsOption, Replaced, add_plugins
from bdlbench.core.errors import DONE, INCOMPLETE, NEGATIVE, BadInput

if TYPE_CHECKING:
    from bdlbench.gate.checks import GateSection
    from bdlbench.gate.verify import Check

SHOWN = 12
"""The most failures that are shown for one part of the gate, so that everything fits on a page."""

VERDICTS = {
    "identical": "bit-identical",
    "noise": "within the noise of equal runs",
    "different": "DIFFERENT",
    "unchecked": "not checked",
}


def verify(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records, or one record")],
    full: Annotated[bool, typer.Option("--full", help="train every cell again completely")] = False,
    threads: Annotated[int, typer.Option(metavar="N", help="number of threads; 0: the record's")] = 0,
    plugin: PluginsOption = [],  # noqa: B006
    module: ModulesOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Run a cheap slice of each record again: is it bit-identical, within noise, or different, and why?"""
    if threads < 0:
        raise BadInput(f"--threads {threads} is out of range: at least 1, or 0 for the record's own")
    from bdlbench import api

    add_plugins(plugin, replaced, module)
    checks = []
    for check in api.verify(results, full=full, threads=threads or None):
        checks.append(check)
        _print_check(check)
    raise typer.Exit(_print_verdict(checks, full))


def _print_check(check: Check) -> None:
    """Print one line for a record, then what differs, the most likely cause, and the lint's faults."""
    what = ", ".join(part.name for part in check.parts if part.verdict == check.verdict)
    replicates = f"{check.replicates} replicate" + "s" * (check.replicates != 1)
    failed = f", {check.failed} failed" if check.failed else ""
    hot = f"; {check.temperature}" if check.temperature else ""
    print(
        f"{VERDICTS[check.verdict]}: {check.title} ({replicates}{failed}){': ' if what else ''}{what}{hot}", flush=True
    )
    for part in check.parts:
        if part.detail:
            print(f"    {part.name}: {VERDICTS[part.verdict]}: {part.detail}")
    if check.verdict in ("different", "noise") and check.elsewhere:
        most, *rest = check.elsewhere
        print(f"    most likely because of {most}" + (f" (also {'; '.join(rest)})" if rest else ""))
    elif check.verdict == "different":
        print("    nothing in the environment explains it: suspect the code or the hardware")
    for finding in check.findings:
        print(f"    {finding}")


def _print_verdict(checks: Sequence[Check], full: bool) -> int:
    """Print the last lines, and return the exit code."""
    counts = {words: sum(c.verdict == v for c in checks) for v, words in VERDICTS.items()}
    print("; ".join(f"{count} {words}" for words, count in counts.items() if count))
    extent = [", ".join(check.checked) or "nothing" for check in checks]
    print(f"checked, by records: {'; '.join(f'{extent.count(what)}: {what}' for what in dict.fromkeys(extent))}")
    if not full and any(what != "nothing" and "whole cell" not in what for what in extent):
        print("training beyond the first steps was not run again there: --full does")
    elsewhere = dict.fromkeys(line for check in checks for line in check.elsewhere)
    if elsewhere:
        print(f"this environment differs from the records': {'; '.join(elsewhere)}")
    refused = any(finding.severity == "refused" for check in checks for finding in check.findings)
    if refused or counts["DIFFERENT"]:
        return NEGATIVE
    return INCOMPLETE if counts["not checked"] or any(check.failed for check in checks) else DONE


def gate(
    reference: Annotated[Path, typer.Option(metavar="DIR", help="the reference records")] = Path("results/reference"),
    config: Annotated[
        Path | None, typer.Option(metavar="SUITE.toml", help="a suite of your own  [default: the suite smoke]")
    ] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="where to keep the suite's new records")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="replace the reference by this tree's results")] = False,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Compare this tree with the reference: protocol, objectives, bits, quality, speed."""
    from bdlbench import api

    add_plugins(plugin, replaced)
    if accept:
        changes = api.accept(reference, config, results)
        print("\n".join(changes) or "nothing changed")
        return
    sections = api.gate(reference, config, results, _print_section)
    failed = [section.name for section in sections if section.failures]
    print(f"gate: failed in {', '.join(f'({name})' for name in failed)}" if failed else "gate: passed")
    if failed:
        raise typer.Exit(NEGATIVE)


def _print_section(section: GateSection) -> None:
    state = "FAILED" if section.failures else "ok"
    notes = f": {'; '.join(section.notes)}" if section.notes else ""
    print(f"({section.name}) {section.title}: {state}{notes} [{section.seconds:.0f} s]", flush=True)
    for line in section.failures[:SHOWN]:
        print(f"    {line}")
    if len(section.failures) > SHOWN:
        print(f"    and {len(section.failures) - SHOWN} more")


def check(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME", help="entries, or a plugin's file  [default: all entries of the plugins]"),
    ] = [],  # noqa: B006
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Check entries, above all your own, on small problems in seconds. Exits with 1 for faults.

    A method: a row has the same bits alone and among others, an interrupted fit equals an uninterrupted one, options
    may differ between rows, shapes are right, and without dropout it is one network. A model: each weight meets the
    method's rule. A data set: it loads the same each time. A metric: its values for each row, for stored predictions,
    and without blocks of examples.
    """
    from bdlbench.gate import check_plugin as contracts

    given = [*plugin, *(Path(name) for name in names if name.endswith(".py"))]
    add_plugins(given, replaced)
    verdicts = set()
    for kind, name in contracts.chosen([name for name in names if not name.endswith(".py")], given):
        for found in contracts.check(kind, name):
            verdicts.add(found.verdict)
            words = {"holds": "holds", "fault": "FAULT", "unchecked": "not checked"}[found.verdict]
            print(f"{found.entry} ({found.where}): {words}: {found.words}", flush=True)
    if verdicts & {"fault", "unchecked"}:
        raise typer.Exit(NEGATIVE if "fault" in verdicts else INCOMPLETE)
