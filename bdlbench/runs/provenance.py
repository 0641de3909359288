"""The code that made a record, compared with the present code: numbers of old code do not count for new code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path

from bdlbench import catalog
from bdlbench.core import files
from bdlbench.core.errors import BadInput
from bdlbench.core.spec import Cell, Choice, Spec
from bdlbench.records.record import Record
from bdlbench.runs import loading

PACKAGE = Path(__file__).parents[1]

APART = (
    *("cli/", "compare/", "gate/", "peers/", "report/", "reproduce/", "published/", "claims/", "studies/", "suites/"),
    *("__main__.py", "api.py", "extend.py", "stats/hypotheses.py"),
    "data/in_memory.py",
    *("records/cells.py", "records/reading.py", "runs/budget.py", "runs/cluster.py", "runs/costs.py"),
    "runs/executors.py",
    *("runs/external_scores.py", "runs/lint.py", "runs/predictions_file.py", "runs/processes.py"),
    *("runs/progress.py", "runs/remote.py", "runs/shards.py"),
    "runs/search.py",
    *("runs/references.py", "runs/rescoring.py", "runs/suites.py", "runs/work.py", "stats/crossed.py", "stats/holm.py"),
    *("stats/power.py", "stats/rank_tests.py", "stats/reproduction.py"),
)
"""Files that no number of a record depends on: they decide what runs, or read its results."""

EDITED = "its source has changed"
"""The reason why a metric that a record held is scored again."""

UNKNOWN = "nothing is known of the code that made it"


Code = Mapping[str, str]
"""SHA-256 of the code behind a cell's numbers: of the package, and of each entry and metric outside the package.

{"bdlbench": …, "methods mine": …, "metrics mine": …}.
"""


def code_of(cell: Cell) -> Code:
    """Hash the code that a cell's numbers depend on."""
    return code_of_cells([cell])[cell.key]


def code_of_cells(cells: Sequence[Cell]) -> dict[str, Code]:
    """Hash the code that cells' numbers depend on, by the cells' keys; each file is read once.

    A job hashes once, before it trains: a file that is edited later is not the code that was imported.
    """
    hashed = cache(_entry_sha256)
    common = {"bdlbench": package_sha256()}
    metrics = {f"metrics {name}": sha for name in catalog.names("metrics") if (sha := hashed("metrics", name))}
    found: dict[str, Code] = {}
    for cell in cells:
        chosen: dict[catalog.Kind, Choice] = {"methods": cell.method, "models": cell.model, "datasets": cell.dataset}
        named = {f"{kind} {name}": hashed(kind, name) for kind, choice in chosen.items() for name in _names(choice)}
        found[cell.key] = common | {name: sha for name, sha in named.items() if sha} | metrics
    return found


def held_against(
    existing: Sequence[Record], spec: Spec, code: Mapping[str, Code]
) -> tuple[list[Record], list[tuple[Record, str]]]:
    """Compare records with the present code, given by cells' keys.

    Returns two lists. The first holds all records, without metrics whose source has changed; those are scored again
    without training. The second holds the records of the spec's cells and replicates that other code made, each with a
    short description of the change.
    """
    cells = {cell.key: cell for cell in spec.cells}
    if any(_is_foreign_data(cell, code[key]) for key, cell in cells.items()):
        loading.forget()  # their files may have changed since this process read them
    kept, outdated = [], []
    for record in existing:
        if record.key not in cells:
            kept.append(record)
            continue
        asked = not set(spec.replicates).isdisjoint(record.replicates)
        if asked and (changed := _change(record, cells[record.key], code[record.key])):
            outdated.append((record, changed))
        kept.append(_without_edited_metrics(record, code[record.key]))
    return kept, outdated


def by_other_code(made: Sequence[Record]) -> dict[str, list[Record]]:
    """Find the records that other code made, where they are read as they are.

    Args:
        made: The records.

    Returns:
        The records by what has changed, in words.
    """
    found: dict[str, list[Record]] = {}
    for record in made:
        try:
            changed = _change(record, record.cell, code_of(record.cell))
        except BadInput as error:  # an entry of a plugin that is not loaded, or gone
            changed = str(error)
        if changed:
            found.setdefault(changed, []).append(record)
    return found


def _change(record: Record, cell: Cell, now: Code) -> str:
    """Describe how the code behind a record differs from the present code, metrics aside; "" if it does not."""
    then = record.environment.code
    if then is None:
        return UNKNOWN
    changed = [name for name, sha in now.items() if not name.startswith("metrics ") and then.get(name, "") != sha]
    entries = [name for name in changed if name != "bdlbench"]
    if entries:
        kind, _, name = entries[0].partition(" ")
        return f"the source of {kind.removesuffix('s')} {name} has changed"
    if changed:
        return f"bdlbench itself has changed (it was made by commit {_commit(record.environment.commit)})"
    if _is_foreign_data(cell, now) and _data_sources(cell, record) != record.environment.sources:
        return f"the data of {cell.dataset.name} have changed"
    return ""


def _without_edited_metrics(record: Record, now: Code) -> Record:
    """Remove metrics whose source has changed. A new metric, or one of a plugin not loaded, changes nothing."""
    if not record.replicates:
        return record
    then = record.environment.code or {}
    names = {name.removeprefix("metrics "): sha for name, sha in now.items() if name.startswith("metrics ")}
    edited = [name for name, sha in names.items() if then.get(f"metrics {name}", sha) != sha]
    held = record.values.metrics
    kept = {column: entry for column, entry in held.items() if column.partition("[")[0] not in edited}
    if not edited:
        return record
    curves, unscored = record.values.curves, record.unscored | dict.fromkeys(edited, EDITED)
    if curves is not None:  # these cannot be measured again without training
        left = curves.without(edited)
        curves = left if left.series else None
    return replace(record, values=replace(record.values, metrics=kept, curves=curves), unscored=unscored)


def _is_foreign_data(cell: Cell, now: Code) -> bool:
    """Return whether neither the code nor the cell has a checksum of a cell's data.

    So it is with a data set outside the package, and with one that reads a person's folder by its path alone.
    """
    by_path = cell.dataset.get("path") and not cell.dataset.get("path_sha256")
    return f"datasets {cell.dataset.name}" in now or bool(by_path)


def _data_sources(cell: Cell, record: Record) -> dict[str, str]:
    """Return the present sources of the splits that a record holds."""
    splits = {replicate.split for replicate in (*record.replicates, *record.failed)}
    found: dict[str, str] = loading.data_facts(cell.dataset, splits)["sources"]
    return found


@cache
def package_sha256() -> str:
    """Return the SHA-256 of the package's own source files that records depend on."""
    names = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    return files.digest({n: files.sha256(p.read_bytes()) for n, p in names.items() if not n.startswith(APART)})


def _entry_sha256(kind: catalog.Kind, name: str) -> str:
    """Return the SHA-256 of an entry's file and of its imports from the same folder; "" for entries of the package."""
    path = _file(kind, name)
    return "" if path.is_relative_to(PACKAGE) else source_sha256(path)


def _file(kind: catalog.Kind, name: str) -> Path:
    entry = catalog.load(kind, name)
    return Path(inspect.getfile(entry if inspect.isroutine(entry) or inspect.isclass(entry) else type(entry))).resolve()


def source_sha256(path: Path) -> str:
    """Return the SHA-256 of a Python file and of all files that it imports, in any way, from its own folder."""
    return files.digest({name: files.sha256(source.read_bytes()) for name, source in sources(path).items()})


def sources(path: Path) -> dict[str, Path]:
    """Return the files of `source_sha256`, by the names of their modules."""
    finder = ModuleFinder([str(path.parent)])  # it neither finds nor needs modules elsewhere
    finder.run_script(str(path))
    found = {name: getattr(module, "__file__", None) for name, module in finder.modules.items()}
    return {name: Path(file) for name, file in found.items() if file}  # a folder without __init__.py has none


def _names(choice: Choice) -> list[str]:
    nested = [name for _, value in choice.options if isinstance(value, Choice) for name in _names(value)]
    return [choice.name, *nested]


def _commit(then: str) -> str:
    then = then or "unknown"
    return f"{then[:12]}{'+changes' * then.endswith('+changes')}"
