"""From a suite or a command line to a spec: look up names, resolve options, unfold sweeps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from bdlbench import catalog
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.files import parse_toml, read_toml
from bdlbench.core.options import fields, per_row_names, short
from bdlbench.core.spec import (
    SELECTIONS,
    SPLITS,
    Cell,
    Choice,
    Curves,
    Seeds,
    Spec,
    Tuning,
    parse_seeds,
    replicates,
    whole,
)

OptionValues = Mapping[str, Mapping[str, Sequence[Any]]]
"""{entry: {option: values}}; more than one value is a sweep."""

TOP_KEYS = {"version", "title", "seeds", "splits", "samples", "grid", "options", "selection", "curves"}
CELL_KINDS: tuple[catalog.Kind, ...] = ("methods", "models", "datasets")
CURVES_KEYS = {"metrics", "every", "epochs", "samples"}
GRID_KEYS = {"methods", "models", "datasets", "options", "choose", "samples", "search"}
CITATION = re.compile(r"[^/\\]+\.csv [0-9a-f]{64}")
"""The file of `tune` that a grid's options are the winners of, and its SHA-256."""


@dataclass(frozen=True)
class Choose:
    """Options that each replicate of a grid's cells chooses by itself, see `spec.Tuning`.

    Attributes:
        options: Lists of equal length; point i of what is chosen from has the i-th value of each.
        validation: The share of training rows that is held out.
        samples: M, posterior samples of a validation predictive; None for those of the cell.
        refit: Whether the chosen point is trained again on all training rows.
    """

    options: dict[str, dict[str, list[Any]]]
    validation: float = 0.2
    samples: int | None = None
    refit: bool = True

    def points(self) -> list[dict[str, dict[str, list[Any]]]]:
        """Return the points in order, each as the options of a grid."""
        length = max(len(values) for table in self.options.values() for values in table.values())
        return [{e: {k: [v[i]] for k, v in table.items()} for e, table in self.options.items()} for i in range(length)]


@dataclass(frozen=True)
class Grid:
    """Every method on every model on every data set, with options that apply to this grid alone.

    What replicates `choose` by themselves holds in the grid's own cells alone. `samples` is M of the grid's cells; None
    for that of the suite. `search` names the table of trials whose winners the options are, and its hash.
    """

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    options: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    choose: Choose | None = None
    samples: int | None = None
    search: str = ""


@dataclass(frozen=True)
class Suite:
    """A named list of grids with their options, as in a TOML file.

    Attributes:
        title: Its title.
        version: Its version.
        seeds: As `spec.parse_seeds` takes them.
        samples: M, posterior samples of a predictive.
        grids: The grids.
        options: Options for all grids.
        splits: one or each.
        selection: The data that the options were chosen on: "none" (defaults, or by hand), "training", "validation",
            "test" or "ood".
        curves: What is measured while training goes on.
        file: The file that it was read from, which errors name; "" for none.
    """

    title: str
    version: int
    seeds: Seeds
    samples: int
    grids: tuple[Grid, ...]
    options: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    splits: str = "one"
    selection: str = ""
    curves: Curves | None = None
    file: str = ""


@dataclass(frozen=True)
class Overrides:
    """Changes that a command line makes to a suite; an empty value leaves the suite's.

    Attributes:
        methods: Methods to run. Every combination of the named methods, models and data sets is run, and nothing else;
            kinds that are not named come from the suite's grids.
        models: Models to run.
        datasets: Data sets to run.
        seeds: As `spec.parse_seeds` takes them.
        samples: M, posterior samples of a predictive.
        settings: Texts for `parse_settings`, or its result.
        device: auto, cpu or cuda.
        threads: Threads of each batch.
        splits: one or each.
    """

    methods: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    seeds: Seeds = ""
    samples: int | None = None
    settings: tuple[str, ...] | OptionValues = ()
    device: str = "auto"
    threads: int = 1
    splits: str = ""


def suite_names() -> list[str]:
    """Return the names of the package's suites, sorted."""
    folder = resources.files("bdlbench") / "suites"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def find_suite(name: str = "", config: Path | None = None) -> Suite:
    """Read a suite of the package or of a file; by default quick. Raises BadInput if both are named."""
    if name and config:
        raise BadInput(f"a suite ({name}) and --config {config} are both given: choose one")
    return read_suite_file(config) if config else read_suite(name or "quick")


def read_suite(name: str) -> Suite:
    """Read a suite of the package. Raises BadInput for an unknown name; the error names the nearest."""
    if name not in suite_names():
        raise unknown("suite", name, suite_names())
    text = (resources.files("bdlbench") / "suites" / f"{name}.toml").read_text("utf-8")
    return parse_suite(text, f"{name}.toml")


def read_suite_file(path: Path) -> Suite:
    """Read a suite from the user's own file. Raises BadInput with file and line for broken TOML."""
    if not path.is_file():
        raise BadInput(f"suite file {path} does not exist")
    return _suite(read_toml(path), str(path))


def parse_suite(text: str, where: str) -> Suite:
    """Parse the TOML text of a suite; messages name the file `where`.

    Raises BadInput for broken TOML (file, line), an unknown key (with the nearest), a missing one, or a value of the
    wrong type.
    """
    return _suite(parse_toml(text, where), where)


def _suite(raw: Mapping[str, Any], where: str) -> Suite:
    _known(raw, TOP_KEYS, where)
    version, samples = (
        whole(f"{where}: {key} =", raw.get(key, default)) for key, default in {"version": 1, "samples": 100}.items()
    )
    grids = raw.get("grid", [])
    if not isinstance(grids, list) or not grids:
        raise BadInput(f"{where} has no [[grid]]: add one with methods, models and datasets")
    seeds: Seeds = raw.get("seeds", "5")
    parse_seeds(seeds, f"{where}: seeds =")
    splits, selection = _word(raw, "splits", "one", where), _word(raw, "selection", "", where)
    for key, word, words in (("splits", splits, SPLITS), ("selection", selection or "none", SELECTIONS)):
        if word not in words:
            raise unknown(f"value of {key} in {where}", word, words)
    found = tuple(_grid(grid, where) for grid in grids)
    if any(grid.choose for grid in found):
        if selection not in ("", "validation"):
            raise BadInput(f'{where}: selection = "{selection}", but [grid.choose] chooses by validation rows')
        selection = "validation"
    if any(grid.search for grid in found):
        if selection not in ("", "training", "validation"):
            raise BadInput(f'{where}: selection = "{selection}", but a search chooses by held-out training rows')
        selection = selection or "training"
    return Suite(
        title=_word(raw, "title", where, where),
        version=version,
        seeds=seeds,
        samples=samples,
        grids=found,
        options=_options(raw, where),
        splits=splits,
        selection=selection,
        curves=_curves(raw["curves"], where) if "curves" in raw else None,
        file=where,
    )


def build_spec(suite: Suite, overrides: Overrides) -> Spec:
    """Build the cells and replicates of a suite with overrides.

    Raises BadInput for unknown names and options, values out of range, unreadable seeds or splits, samples below 1, and
    an absent device; with the suite's file for what stands there.
    """
    laid_over = overrides.settings
    given = laid_over if isinstance(laid_over, Mapping) else parse_settings(laid_over)
    chosen = [grid.choose.options for grid in suite.grids if grid.choose]
    _refuse_stray(given)
    with _in_file(suite.file):
        for settings in (suite.options, *(grid.options for grid in suite.grids), *chosen):
            _refuse_stray(settings)
        for name in suite.curves.metrics if suite.curves else ():
            if name not in catalog.names("metrics"):
                raise unknown("metric of [curves]", name, catalog.names("metrics"))
    asked_samples = None if overrides.samples is None else whole("--samples", overrides.samples)
    threads = whole("--threads", overrides.threads)
    device = resolve_device(overrides.device)
    for kind in CELL_KINDS:
        for name in getattr(overrides, kind):
            catalog.load(kind, name)
    with _in_file(suite.file):
        named = list(_named_cells(suite.grids, overrides))
        for _, names in named:
            for kind, name in zip(CELL_KINDS, names, strict=True):
                catalog.load(kind, name)
    cells: list[Cell] = []
    searches: dict[str, str] = {}
    for grid, names in named:
        options = merge(in_force(suite, grid, names), given)
        samples = asked_samples or whole("samples =", grid.samples or suite.samples)
        choose = grid.choose if _is_own(grid, names) else None
        by_point: list[list[Cell]] = []
        for point in choose.points() if choose else [{}]:
            at = merge(options, point)
            methods, models, datasets = (
                catalog.choices(kind, n, at) for kind, n in zip(CELL_KINDS, names, strict=True)
            )
            swept = itertools.product(datasets, models, methods)
            by_point.append([Cell(method, model, data, samples, device, threads) for data, model, method in swept])
        made = [_tuned(points, choose, given) for points in zip(*by_point, strict=True)] if choose else by_point[0]
        cells += made
        if grid.search and _is_own(grid, names):  # what the command line sets was not searched
            searches |= {cell.key: grid.search for cell in made if given.keys().isdisjoint(_entries(cell))}
    _refuse_idle(given, cells)
    seeds = suite.seeds if overrides.seeds == "" else overrides.seeds
    asked = replicates(seeds, overrides.splits or suite.splits)
    own = any(_is_own(grid, names) for grid, names in named)
    return Spec(tuple(dict.fromkeys(cells)), asked, suite.selection if own else "", suite.curves, searches)


@contextmanager
def _in_file(file: str) -> Iterator[None]:
    """Let errors within the block name the file whose content is read, where there is one."""
    try:
        yield
    except BadInput as error:
        if not file:
            raise
        raise BadInput(f"{file}: {error}") from error


def _tuned(points: Sequence[Cell], choose: Choose, given: OptionValues) -> Cell:
    """Return the cell whose replicates choose among these cells, which differ in the options of `choose` alone.

    Options of entries that the cell lacks do not concern it. Raises BadInput for an option that rows of one batch
    cannot differ in, and for one that the command line sets.
    """
    values: dict[str, list[Any]] = {}
    first = points[0]
    for entry in dict.fromkeys([*_names(first.method), *_names(first.model)]):
        for option in choose.options.get(entry, {}):
            name = f"{entry}.{option}"
            kind: catalog.Kind = "methods" if entry in _names(first.method) else "models"
            if option not in per_row_names(catalog.load(kind, entry)):
                raise BadInput(f"{name} cannot be chosen by replicates: rows of one batch share it; sweep it instead")
            if option in given.get(entry, {}):
                raise BadInput(f"--set {name}: each replicate chooses it in this suite, so it cannot be set")
            values[name] = [choose.options[entry][option][i] for i in range(len(points))]
    if not values:
        told = ", ".join(f"{entry}.{option}" for entry, table in choose.options.items() for option in table)
        raise BadInput(f"[grid.choose] chooses {told}, which {first.title} does not have")
    resolved = [_values_of(point, values) for point in points]
    tuning = Tuning(
        tuple(values), tuple(dict.fromkeys(resolved)), choose.validation, choose.samples or first.samples, choose.refit
    )
    return first.chosen_by(tuning)


def _values_of(cell: Cell, names: Iterable[str]) -> tuple[Any, ...]:
    """Return the values that a cell has of options named "entry.option", also in nested entries."""
    found: dict[str, Any] = {}
    kinds: list[tuple[catalog.Kind, Choice]] = [("methods", cell.method), ("models", cell.model)]
    for kind, choice in kinds:
        usual = {key: field.default for key, field in fields(catalog.load(kind, choice.name)).items()}
        found |= {f"{choice.name}.{key}": value for key, value in {**usual, **dict(choice.options)}.items()}
        kinds += [(kind, value) for _, value in choice.options if isinstance(value, Choice)]
    return tuple(found[name] for name in names)


class Names(NamedTuple):
    """The names in a cell, before its options are known."""

    method: str
    model: str
    dataset: str


def in_force(suite: Suite, grid: Grid, names: Names) -> OptionValues:
    """Return the suite's options that apply to a cell.

    A cell of the grid has all its options. In other cells, options of the model and of the data set apply if both are
    in the grid, so that an added method has the same protocol. Otherwise the defaults apply.
    """
    options = merge(suite.options, grid.options)
    if _is_own(grid, names):
        return options
    if not (_stands_in(grid, "models", names.model) and _stands_in(grid, "datasets", names.dataset)):
        return {}
    return {entry: table for entry, table in options.items() if entry in (names.model, names.dataset)}


def _named_cells(grids: Sequence[Grid], overrides: Overrides) -> Iterator[tuple[Grid, Names]]:
    """Yield the cells of a suite for the names on a command line, each with the grid that it belongs to.

    Every combination of the named entries is included. Kinds that are not named come from a grid that has the
    combination. If no grid has it, they come from the grid with the same model and data set, else from one with the
    same data set, else with the same model, else from the first grid.
    """
    named: dict[catalog.Kind, list[str]] = {kind: list(dict.fromkeys(getattr(overrides, kind))) for kind in CELL_KINDS}

    def shared(grid: Grid, combination: Mapping[catalog.Kind, str]) -> tuple[bool, ...]:
        method, model, dataset = (
            kind not in combination or _stands_in(grid, kind, combination[kind]) for kind in CELL_KINDS
        )
        return (method and model and dataset, model and dataset, dataset, model)

    homes: dict[tuple[str, ...], list[Grid]] = {}
    kinds = [kind for kind in CELL_KINDS if named[kind]]
    for combination in itertools.product(*(named[kind] for kind in kinds)):
        likeness = [shared(grid, dict(zip(kinds, combination, strict=True))) for grid in grids]
        whole = [grid for grid, alike in zip(grids, likeness, strict=True) if alike[0]]
        homes[combination] = whole or [grids[likeness.index(max(likeness))]]
    for grid in grids:
        if not any(grid is home for found in homes.values() for home in found):
            continue
        lists = {kind: named[kind] or _listed(grid, kind) for kind in CELL_KINDS}
        for dataset, model, method in itertools.product(lists["datasets"], lists["models"], lists["methods"]):
            names = Names(method, model, dataset)
            key = tuple(name for kind, name in zip(CELL_KINDS, names, strict=True) if kind in kinds)
            if any(grid is home for home in homes[key]):
                yield grid, names


def _is_own(grid: Grid, names: Names) -> bool:
    """Return whether a cell is one of the grid's."""
    return all(_stands_in(grid, kind, name) for kind, name in zip(CELL_KINDS, names, strict=True))


def _stands_in(grid: Grid, kind: catalog.Kind, name: str) -> bool:
    """Return whether a grid has an entry. A grid that lists no entry of a kind leaves that kind to the command line."""
    listed: tuple[str, ...] = getattr(grid, kind)
    return name in listed or not listed


def _listed(grid: Grid, kind: catalog.Kind) -> tuple[str, ...]:
    listed: tuple[str, ...] = getattr(grid, kind)
    if not listed:
        raise BadInput(f"no {kind} given: name one with --{kind.removesuffix('s')}")
    return listed


def parse_settings(texts: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Parse "NAME.OPTION=V1,V2" into {entry: {option: [values]}}.

    Raises BadInput for any other form, an empty value, and an option that is given twice.
    """
    settings: dict[str, dict[str, list[Any]]] = {}
    for text in texts:
        target, equals, values = text.partition("=")
        entry, dot, option = target.strip().partition(".")
        if not (equals and dot and entry and option and values):
            raise BadInput(f"--set {short(text)!r} cannot be read: write NAME.OPTION=VALUE or NAME.OPTION=V1,V2")
        named = f"{entry}.{option}" if target.isprintable() else repr(short(target.strip()))
        parts = [value.strip() for value in values.split(",")]
        if "" in parts:
            raise BadInput(f"--set {short(text)!r} holds an empty value: write {named}=V1,V2")
        table = settings.setdefault(entry, {})
        if option in table:
            raise BadInput(f"--set {named} is given twice: write {named}=V1,V2 to sweep over values")
        table[option] = parts
    return settings


def merge(under: OptionValues, over: OptionValues) -> dict[str, dict[str, Sequence[Any]]]:
    """Merge options; if both set an option, `over` wins."""
    return {entry: {**under.get(entry, {}), **over.get(entry, {})} for entry in {**under, **over}}


def resolve_device(name: str) -> str:
    """Resolve "auto", "cpu" or "cuda" to "cpu" or "cuda". Raises BadInput if CUDA is asked for and absent."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise BadInput("--device cuda: no CUDA device is at hand here; use --device cpu or auto")
    return "cuda" if present and name != "cpu" else "cpu"


def _refuse_stray(settings: OptionValues) -> None:
    """Refuse options of an unknown entry, unknown options, and wrong values, even if no cell uses them."""
    kinds: dict[str, catalog.Kind] = {name: kind for kind in CELL_KINDS for name in catalog.names(kind)}
    for entry, table in settings.items():
        if entry not in kinds:
            raise unknown("entry", entry, kinds)
        for option, values in table.items():
            for value in values:
                catalog.check_option(kinds[entry], entry, option, value)
            of_many = isinstance(catalog.options_of(kinds[entry], entry)[option].default, tuple)
            if of_many and len(values) > 1 and not all(isinstance(value, list | tuple | str) for value in values):
                raise BadInput(
                    f"{entry}.{option} = {short(values, str)} may mean one value or several: "
                    f"write '{short(values)}' for one, or ['{short(values[0])}', …] to sweep"
                )


def _refuse_idle(settings: OptionValues, cells: Sequence[Cell]) -> None:
    """Refuse options of an entry that no cell uses: a typing error, or a misunderstanding of the suite."""
    used = {name for cell in cells for name in _entries(cell)}
    for entry in settings:
        if entry not in used:
            raise BadInput(f"--set {entry}.…: {entry} is not part of this run, which has {', '.join(sorted(used))}")


def _entries(cell: Cell) -> list[str]:
    """Return the names of all entries in a cell."""
    return [name for choice in (cell.method, cell.model, cell.dataset) for name in _names(choice)]


def _names(choice: Choice) -> list[str]:
    nested = [name for _, value in choice.options if isinstance(value, Choice) for name in _names(value)]
    return [choice.name, *nested]


def _word(raw: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str) or not value.isprintable():
        raise BadInput(f"{where}: {key} = {short(value, repr)} is not text on one line")
    return value


def _grid(raw: Any, where: str) -> Grid:
    if not isinstance(raw, dict):
        raise BadInput(f"{where}: each [[grid]] is a table with methods, models and datasets")
    _known(raw, GRID_KEYS, where)
    for key in CELL_KINDS:
        if not all(isinstance(name, str) for name in _as_list(raw.get(key, []))):
            raise BadInput(f"{where}: {key} = {short(raw[key], repr)} are not names: write {key} = ['NAME', …]")
    methods, models, datasets = (tuple(_as_list(raw.get(key, []))) for key in CELL_KINDS)
    choose = _choose(raw["choose"], where) if "choose" in raw else None
    samples = whole(f"{where}: samples =", raw["samples"]) if "samples" in raw else None
    search = _word(raw, "search", "", where)
    if search and not CITATION.fullmatch(search):
        raise BadInput(
            f"{where}: search = {short(search, repr)} cites no search: write 'FILE.csv SHA256', as tune does"
        )
    return Grid(methods, models, datasets, _options(raw, where), choose, samples, search)


def _choose(raw: Any, where: str) -> Choose:
    """Parse [grid.choose]: lists of equal length for each option, and how the choice is made."""
    if not isinstance(raw, dict):
        raise BadInput(f"{where}: [grid.choose] is a table of lists, such as mc_dropout = {{ rate = [0.05, 0.1] }}")
    how = {key: raw[key] for key in ("validation", "samples", "refit") if key in raw}
    options = _options({"options": {key: value for key, value in raw.items() if key not in how}}, where)
    lengths = {f"{entry}.{k}": len(values) for entry, table in options.items() for k, values in table.items()}
    if not lengths or len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items()) or "there is none"
        raise BadInput(f"{where}: the lists of [grid.choose] are equally long, a value for each point: {told}")
    share, samples, refit = how.get("validation", 0.2), how.get("samples"), how.get("refit", True)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise BadInput(f"{where}: validation = {short(share, repr)} is no share of the training rows between 0 and 1")
    if not isinstance(refit, bool):
        raise BadInput(f"{where}: refit = {short(refit, repr)} is neither true nor false")
    return Choose(options, float(share), None if samples is None else whole(f"{where}: samples =", samples), refit)


def _curves(raw: Any, where: str) -> Curves:
    if not isinstance(raw, dict):
        raise BadInput(f"{where}: [curves] is a table with metrics, and every or epochs")
    _known(raw, CURVES_KEYS, f"[curves] of {where}")
    metrics, given = _as_list(raw.get("metrics", [])), _as_list(raw.get("epochs", []))
    if not metrics or not all(isinstance(name, str) for name in metrics):
        raise BadInput(f"{where}: [curves] names no metrics: write metrics = ['accuracy', …]")
    if ("every" in raw) == bool(given):
        raise BadInput(f"{where}: [curves] needs either every = NUMBER or epochs = [NUMBER, …]")
    every = whole(f"{where}: every =", raw["every"]) if "every" in raw else 0
    epochs = tuple(sorted(whole(f"{where}: epochs =", epoch) for epoch in given))
    samples = whole(f"{where}: samples =", raw.get("samples", Curves.samples))
    return Curves(tuple(dict.fromkeys(metrics)), every, epochs, samples)


def _options(raw: Mapping[str, Any], where: str) -> dict[str, dict[str, list[Any]]]:
    options = raw.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(table, dict) for table in options.values()):
        raise BadInput(f"{where}: options are tables, one for each entry: [options.mlp]")
    for entry, table in options.items():
        for option, value in table.items():
            if value == []:
                raise BadInput(f"{where}: {entry}.{option} has no value: write one, or leave the line out")
    return {entry: {k: _as_list(v) for k, v in table.items()} for entry, table in options.items()}


def _known(table: Mapping[str, Any], keys: set[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise unknown(f"key in {where}", key, keys)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
