"""From a suite or a command line to a spec: names are looked up, options resolved, sweeps unfolded."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from bdlbench import catalog
from bdlbench.errors import BadInput, unknown
from bdlbench.options import resolve
from bdlbench.spec import SELECTIONS, Cell, Choice, Spec, replicates

Settings = Mapping[str, Mapping[str, Sequence[Any]]]
"""{entry: {option: values}}: more than one value sweeps."""

TOP_KEYS = {"version", "title", "seeds", "splits", "samples", "grid", "options", "selection"}
CHOSEN: tuple[catalog.Kind, ...] = ("methods", "models", "datasets")
GRID_KEYS = {"methods", "models", "datasets", "options"}


@dataclass(frozen=True)
class Grid:
    """Every method on every model on every data set, with options that hold in this grid alone."""

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    options: dict[str, dict[str, list[Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A named list of grids with their options, as a TOML file holds it.

    selection: what data chose the options: "none" (defaults, or by hand), "training", "validation", "test" or "ood".
    """

    title: str
    version: int
    seeds: str
    samples: int
    grids: tuple[Grid, ...]
    options: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    splits: str = "one"
    selection: str = ""


@dataclass(frozen=True)
class Overrides:
    """What a command line lays over a suite; empty means as the suite says.

    methods, models, datasets: of each grid those that are named here; what no grid has joins the first.
    """

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    seeds: str = ""
    samples: int | None = None
    settings: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 1
    splits: str = ""


def suite_names() -> list[str]:
    """The suites that come with the package, sorted."""
    folder = resources.files("bdlbench") / "suites"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def read_suite(name: str) -> Suite:
    """A suite of the package. Raises BadInput for an unknown name, with the nearest."""
    if name not in suite_names():
        raise unknown("suite", name, suite_names())
    text = (resources.files("bdlbench") / "suites" / f"{name}.toml").read_text()
    return parse_suite(text, f"{name}.toml")


def read_suite_file(path: Path) -> Suite:
    """A suite of one's own. Raises BadInput with file and line for broken TOML."""
    if not path.is_file():
        raise BadInput(f"suite file {path} does not exist")
    try:
        return parse_suite(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"suite file {path} cannot be read: {error}") from None


def parse_suite(text: str, where: str) -> Suite:
    """Raises BadInput for broken TOML (file, line), an unknown key (with the nearest), or a missing one."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error).replace("end of document", f"line {len(text.splitlines())}, the end")
        raise BadInput(f"{where} is not valid TOML: {reason}") from None
    _known(raw, TOP_KEYS, where)
    version, samples = raw.get("version", 1), raw.get("samples", 100)
    for key, value in {"version": version, "samples": samples}.items():
        if not isinstance(value, int):
            raise BadInput(f"{where}: {key}={value!r} is not a whole number")
    grids = raw.get("grid", [])
    if not isinstance(grids, list) or not grids:
        raise BadInput(f"{where} has no [[grid]]: add one with methods, models and datasets")
    return Suite(
        title=str(raw.get("title", where)),
        version=version,
        seeds=str(raw.get("seeds", "5")),
        samples=samples,
        grids=tuple(_grid(grid, where) for grid in grids),
        options=_options(raw, where),
        splits=str(raw.get("splits", "one")),
        selection=_selection(raw.get("selection", ""), where),
    )


def build_spec(suite: Suite, overrides: Overrides) -> Spec:
    """The cells and replicates of a suite under overrides.

    Raises BadInput for unknown names and options, values out of range, seeds or splits that cannot be read, samples
    below 1, a device that is absent.
    """
    given = parse_settings(overrides.settings)
    for settings in (given, suite.options, *(grid.options for grid in suite.grids)):
        _refuse_stray(settings)
    samples = suite.samples if overrides.samples is None else overrides.samples
    if samples < 1:
        raise BadInput(f"--samples {samples} is out of range: at least 1")
    if overrides.threads < 1:
        raise BadInput(f"--threads {overrides.threads} is out of range: at least 1")
    device = resolve_device(overrides.device)
    cells = [
        Cell(method, model, dataset, samples, device, overrides.threads)
        for grid in narrowed(suite.grids, overrides)
        for settings in [merge(merge(suite.options, grid.options), given)]
        for dataset in _choices("datasets", grid.datasets, settings)
        for model in _choices("models", grid.models, settings)
        for method in _choices("methods", grid.methods, settings)
    ]
    _refuse_idle(given, cells)
    asked = replicates(overrides.seeds or suite.seeds, overrides.splits or suite.splits)
    return Spec(tuple(dict.fromkeys(cells)), asked, suite.selection)


def narrowed(grids: Sequence[Grid], overrides: Overrides) -> list[Grid]:
    """The grids with what `overrides` names of them; where none is left, the first with all that is named instead."""
    kept = [
        _with_names(grid, *(_named(kind, grid, grids, getattr(overrides, kind)) for kind in CHOSEN)) for grid in grids
    ]
    first = grids[0]
    instead = _with_names(first, *(getattr(overrides, kind) or getattr(first, kind) for kind in CHOSEN))
    return [grid for grid in kept if grid.methods and grid.models and grid.datasets] or [instead]


def _with_names(grid: Grid, methods: Sequence[str], models: Sequence[str], datasets: Sequence[str]) -> Grid:
    return Grid(tuple(methods), tuple(models), tuple(datasets), grid.options)


def _named(kind: catalog.Kind, grid: Grid, grids: Sequence[Grid], asked: Sequence[str]) -> tuple[str, ...]:
    """What a grid keeps of a kind: all, or what is asked for; what no grid has goes to the first."""
    if not asked:
        return tuple(getattr(grid, kind))
    known = {name for other in grids for name in getattr(other, kind)}
    return tuple(name for name in asked if name in getattr(grid, kind) or (grid is grids[0] and name not in known))


def parse_settings(texts: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """{entry: {option: [values]}} from "NAME.OPTION=V1,V2". Raises BadInput for another form."""
    settings: dict[str, dict[str, list[Any]]] = {}
    for text in texts:
        target, equals, values = text.partition("=")
        entry, dot, option = target.strip().partition(".")
        if not (equals and dot and entry and option and values):
            raise BadInput(f"--set {text!r} cannot be read: write NAME.OPTION=VALUE or NAME.OPTION=V1,V2")
        settings.setdefault(entry, {})[option] = [value.strip() for value in values.split(",")]
    return settings


def merge(under: Settings, over: Settings) -> dict[str, dict[str, Sequence[Any]]]:
    """Options of both; where both name one, `over` wins."""
    return {entry: {**under.get(entry, {}), **over.get(entry, {})} for entry in {**under, **over}}


def resolve_device(name: str) -> str:
    """ "cpu" or "cuda", from "auto" too. Raises BadInput where CUDA is asked for and absent."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise BadInput("--device cuda: no CUDA device is at hand here; use --device cpu or auto")
    return "cuda" if present and name != "cpu" else "cpu"


def _choices(kind: catalog.Kind, names: Sequence[str], settings: Settings) -> list[Choice]:
    """Each entry once for every combination of the values swept over."""
    if not names:
        raise BadInput(f"no {kind} given: name one with --{kind.removesuffix('s')}")
    return [choice for name in names for choice in _unfold(kind, name, settings)]


def _unfold(kind: catalog.Kind, name: str, settings: Settings) -> list[Choice]:
    catalog.load(kind, name)
    swept = [(entry, option, values) for entry, table in settings.items() for option, values in table.items()]
    combinations = itertools.product(*(values for _, _, values in swept))
    found: dict[Choice, None] = {}
    for combination in combinations:
        chosen: dict[str, dict[str, Any]] = {}
        for (entry, option, _), value in zip(swept, combination, strict=True):
            chosen.setdefault(entry, {})[option] = value
        found[catalog.choice(kind, name, chosen)] = None
    return list(found)


def _refuse_stray(settings: Settings) -> None:
    """Options of an entry that does not exist, options that it lacks, and values it does not take; used or not."""
    kinds: dict[str, catalog.Kind] = {name: kind for kind in CHOSEN for name in catalog.names(kind)}
    for entry, table in settings.items():
        if entry not in kinds:
            raise unknown("entry", entry, kinds)
        for option, values in table.items():
            for value in values:
                resolve(catalog.load(kinds[entry], entry), entry, {option: value})


def _refuse_idle(settings: Settings, cells: Sequence[Cell]) -> None:
    """Options that the command line gives to an entry that no cell uses: a typo, or a wrong idea of the suite."""
    used = {name for cell in cells for choice in (cell.method, cell.model, cell.dataset) for name in _names(choice)}
    for entry in settings:
        if entry not in used:
            raise BadInput(f"--set {entry}.…: {entry} is not part of this run, which has {', '.join(sorted(used))}")


def _names(choice: Choice) -> list[str]:
    nested = [name for _, value in choice.options if isinstance(value, Choice) for name in _names(value)]
    return [choice.name, *nested]


def _selection(word: Any, where: str) -> str:
    if word and word not in SELECTIONS:
        raise unknown(f"value of selection in {where}", str(word), SELECTIONS)
    return str(word)


def _grid(raw: Any, where: str) -> Grid:
    if not isinstance(raw, dict):
        raise BadInput(f"{where}: each [[grid]] is a table with methods, models and datasets")
    _known(raw, GRID_KEYS, where)
    methods, models, datasets = (tuple(map(str, _as_list(raw.get(key, [])))) for key in CHOSEN)
    return Grid(methods, models, datasets, _options(raw, where))


def _options(raw: Mapping[str, Any], where: str) -> dict[str, dict[str, list[Any]]]:
    options = raw.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(table, dict) for table in options.values()):
        raise BadInput(f"{where}: options are tables, one for each entry: [options.mlp]")
    return {entry: {k: _as_list(v) for k, v in table.items()} for entry, table in options.items()}


def _known(table: Mapping[str, Any], keys: set[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise unknown(f"key in {where}", key, keys)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
