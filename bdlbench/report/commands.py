"""The commands that make a folder's records again. Each is checked: it asks for exactly the cells in the folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.core.options import resolve, spell
from bdlbench.core.spec import ELSEWHERE, Choice, Replicate
from bdlbench.records.cells import Result, merge
from bdlbench.records.contents import PredictionsFrom
from bdlbench.records.record import Record
from bdlbench.runs import suites as plan

BASE = "quick"
"""The suite that `run` takes where no suite is named."""


@dataclass
class _Run:
    """Cells that one command can ask for: they differ only in the method, and no option has two values."""

    results: list[Result] = field(default_factory=list)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)


def commands(found: Sequence[Record], folder: Path, out: Path, references: Path | None = None) -> list[str]:
    """Return shell commands in order: runs, scored files, the report.

    Args:
        found: The records.
        folder: Where they are.
        out: The folder of the report.
        references: The folder of references that it was asked to read; None for that of the package.

    Returns:
        One line for each command. A cell that no command can make is a comment (#).
    """
    results = [result for result in merge(found) if result.replicates]
    trained = [result for result in results if result.cell.device != ELSEWHERE]
    suites, left = _suites(trained, folder)
    alone = {result.key: _run_lines(_Run([result], _options(result)), folder) for result in left}
    possible = [result for result in left if not alone[result.key][0].startswith("#")]
    runs = [line for group in _grouped(possible) for line in _run_lines(group, folder)]
    runs += [line for result in left if result not in possible for line in alone[result.key]]
    scored = [_score_line(record, folder) for record in found if record.cell.device == ELSEWHERE]
    entries = dict.fromkeys(entry for result in results for entry in _options(result))
    shown = ["--out", str(out), *(["--references", str(references)] if references else []), *_plugin_words(entries)]
    return [*suites, *runs, *scored, _line("report", str(folder), *shown)]


def _suites(results: Sequence[Result], folder: Path) -> tuple[list[str], list[Result]]:
    """Return commands for suites that are complete in the folder, with equal replicates, and the other cells."""
    left, lines = {result.key: result for result in results}, []
    for name in plan.suite_names():
        for device, threads in dict.fromkeys((r.cell.device, r.cell.threads) for r in results):
            spec = plan.build_spec(plan.read_suite(name), plan.Overrides(device="cpu"))
            keys = {replace(cell, device=device, threads=threads).key for cell in spec.cells}
            asked = {tuple(left[key].replicates) for key in keys & left.keys()}
            words = _replicate_words(name, asked.pop()) if keys <= left.keys() and len(asked) == 1 else None
            if words is not None:
                words += _machine_words(left[min(keys)])
                lines.append(_line("run", name, *words, "--results", str(folder)))
                left = {key: result for key, result in left.items() if key not in keys}
    return lines, list(left.values())


def _replicate_words(name: str, asked: Sequence[Replicate]) -> list[str] | None:
    """Return the options with which a suite asks for these replicates; None where it cannot."""
    suite = plan.read_suite(name)
    if plan.build_spec(suite, plan.Overrides(device="cpu")).replicates == tuple(asked):
        return []
    try:
        seeds, splits = _seeds(asked)
        spec = plan.build_spec(suite, plan.Overrides(seeds=seeds, device="cpu", splits=splits))
    except BadInput:
        return None
    return _seed_words(asked, suite.splits) if set(spec.replicates) == set(asked) else None


def _grouped(results: Sequence[Result]) -> list[_Run]:
    """Group cells into few commands: cells that differ only in the method share one while their options agree."""
    groups: dict[str, list[_Run]] = {}
    for result in results:
        cell = result.cell
        alike = repr([cell.dataset, cell.model, cell.samples, cell.device, cell.threads, result.replicates])
        options = _options(result)
        for run in groups.setdefault(alike, []):
            if _agree(run.options, options):
                break
        else:
            run = _Run()
            groups[alike].append(run)
        run.results.append(result)
        for entry, table in options.items():
            run.options.setdefault(entry, {}).update(table)
    return [run for runs in groups.values() for run in runs]


def _run_lines(run: _Run, folder: Path) -> list[str]:
    """Return the command if it asks for exactly these cells, else a comment for each cell."""
    first = run.results[0]
    if first.cell.tuning:
        return [_comment(result, "its replicates chose options: run its suite") for result in run.results]
    methods = tuple(dict.fromkeys(result.cell.method.name for result in run.results))
    names = (methods, (first.cell.model.name,), (first.cell.dataset.name,))
    try:
        settings = tuple(_settings(run.options))
        seeds, splits = _seeds(first.replicates)
        asked = plan.Overrides(*names, seeds, first.cell.samples, settings, "cpu", first.cell.threads, splits)
        suite = plan.read_suite(BASE)
        spec = plan.build_spec(suite, asked)
    except BadInput as error:
        return [_comment(result, str(error)) for result in run.results]
    cells = {replace(cell, device=first.cell.device).key for cell in spec.cells}
    if cells != {result.key for result in run.results} or set(spec.replicates) != set(first.replicates):
        return [_comment(result, _why_none(result)) for result in run.results]
    words = [word for name in methods for word in ("--method", name)]
    words += ["--model", *names[1], "--dataset", *names[2], *_seed_words(first.replicates, suite.splits)]
    words += ["--samples", str(first.cell.samples), *(word for text in settings for word in ("--set", text))]
    words += _plugin_words(run.options)
    return [_line("run", *words, *_machine_words(first), "--results", str(folder))]


def _why_none(result: Result) -> str:
    """Return that no command asks for a cell, and the options that its record lacks."""
    cell = result.cell
    choices: dict[catalog.Kind, Choice] = {"methods": cell.method, "models": cell.model, "datasets": cell.dataset}
    words = []
    for kind, choice in choices.items():
        here = dict(_entries(catalog.recorded(kind, choice)))
        for entry, then in _entries(choice):
            now = here[entry]
            words += [f"{entry} has the new option {key} ({spell(now[key])})" for key in now if key not in then]
    return "; ".join(["no command of this version asks for this cell", *words])


def _plugin_words(entries: Iterable[str]) -> list[str]:
    named = list(entries)
    words = [word for path in catalog.plugin_files(named) for word in ("--plugin", str(path))]
    words += [word for place in catalog.added_modules(named) for word in ("--module", place)]
    taken = [name for name in named if any(catalog.replaced(kind, name) for kind in catalog.KINDS)]
    return words + [word for name in taken for word in ("--replace", name)]


def _options(result: Result) -> dict[str, dict[str, Any]]:
    """Return {entry: {option: value}} of all entries of a cell."""
    return {
        entry: table
        for choice in (result.cell.method, result.cell.model, result.cell.dataset)
        for entry, table in _entries(choice)
    }


def _entries(choice: Choice) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield an entry and the entries nested in it, with their options; a nested entry appears as its name."""
    table = {
        key: value.name if isinstance(value, Choice) else value
        for key, value in choice.options
        if key != catalog.REPLACED_BY
    }
    yield choice.name, table
    for _, value in choice.options:
        if isinstance(value, Choice):
            yield from _entries(value)


def _agree(known: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(known[entry] == table for entry, table in new.items() if entry in known)


def _settings(options: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield NAME.OPTION=VALUE for options that differ from the default, or that the base suite may have changed."""
    suite = plan.read_suite(BASE)
    touched = [suite.options, *(grid.options for grid in suite.grids)]
    for entry, table in options.items():
        defaults = resolve(_load(entry), entry, {})
        for option, value in table.items():
            default = defaults.get(option)
            same = spell(list(default) if isinstance(default, tuple) else default) == spell(value)
            if not same or any(option in settings.get(entry, {}) for settings in touched):
                yield f"{entry}.{option}={spell(value)}"


def _load(entry: str) -> Any:
    kinds = [kind for kind in plan.CELL_KINDS if entry in catalog.names(kind)]
    if not kinds:
        raise BadInput(f"{entry} is not in this catalog: if a plugin has it, add --plugin FILE.py")
    return catalog.load(kinds[0], entry)


def _seeds(replicates: Sequence[Replicate]) -> tuple[str, str]:
    """Return seeds and splits in the words of the command line. Raise BadInput where it has no words for them."""
    seeds = sorted(replicate.seed for replicate in replicates)
    splits = {replicate.split for replicate in replicates}
    if splits == {0}:
        word = "one"
    elif all(replicate.split == replicate.seed for replicate in replicates):
        word = "each"
    else:
        raise BadInput("--splits has no word for the way in which its seeds and splits are paired")
    whole = seeds == list(range(seeds[0], seeds[-1] + 1))
    return (f"{seeds[0]}-{seeds[-1]}" if whole else ",".join(map(str, seeds))), word


def _seed_words(replicates: Sequence[Replicate], usual: str) -> list[str]:
    """Return --seeds and --splits; the latter only where it differs from `usual`, the suite's own."""
    seeds, splits = _seeds(replicates)
    return ["--seeds", seeds, *(["--splits", splits] if splits != usual else [])]


def _machine_words(result: Result) -> list[str]:
    threads = result.cell.threads
    return ["--device", result.cell.device, *(["--threads", str(threads)] if threads != 1 else [])]


def _score_line(record: Record, folder: Path) -> str:
    """Return the command that made a record from a file of predictions."""
    cell = record.cell
    said = record.environment.predictions_from or PredictionsFrom("FILE")
    words = [said.file, "--method", cell.method.name]
    own = cell.dataset.name not in catalog.names("datasets")
    words += ["--dataset", cell.dataset.name, *(["--own-data"] if own else [])]
    words += ["--model", cell.model.name, "--samples", str(cell.samples)]
    given = {"--axes": said.axes, "--seeds": said.seeds, "--splits": said.splits}
    words += [word for name, value in given.items() if value for word in (name, value)]
    for choice in (cell.method, cell.model, cell.dataset):
        for entry, table in _entries(choice):
            words += [word for key, value in table.items() for word in ("--set", f"{entry}.{key}={spell(value)}")]
            words += _plugin_words([entry])
    return _line("score", *words, "--results", str(folder))


def _comment(result: Result, reason: str) -> str:
    """Return one line, whatever characters the names contain."""
    return " ".join(f"# {result.title}: {reason}".split())


def _line(*words: str) -> str:
    return shlex.join(["python", "-m", "bdlbench", *words])
