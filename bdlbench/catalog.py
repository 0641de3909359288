"""The registry is the folder: every module in methods/, models/, datasets/ and metrics/ names its entries in a dict.

Others add entries by entry points (group `bdlbench.methods`, …) or by a file with such dicts (`--plugin file.py`).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from bdlbench.data import Signature
from bdlbench.errors import BadInput, unknown
from bdlbench.options import fields, per_row_names, resolve
from bdlbench.protocols import Dataset, Method, Metric, Model
from bdlbench.spec import Choice

Kind = Literal["methods", "models", "datasets", "metrics"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_plugins: dict[Kind, dict[str, Any]] = {kind: {} for kind in KINDS}
_plugin_files: dict[str, Path] = {}


def names(kind: Kind) -> list[str]:
    """Names of all entries of a kind, sorted."""
    return sorted(_entries(kind))


def load(kind: Kind, name: str) -> Any:
    """The entry: a dataclass, or for metrics an instance. Raises BadInput for an unknown name, with the nearest."""
    entries = _entries(kind)
    if name not in entries:
        raise unknown(kind.removesuffix("s"), name, entries)
    return entries[name]


def summary(kind: Kind, name: str) -> str:
    """One line about an entry: the first of its docstring, or a metric's own."""
    entry = load(kind, name)
    return str(entry.summary) if kind == "metrics" else (inspect.getdoc(entry) or "").partition("\n")[0]


def add_plugin(path: Path) -> None:
    """Register the entries of a file, which names them in dicts `methods`, `models`, `datasets` or `metrics`.

    Raises BadInput where the file is absent, does not import, names no entry, or names one that exists.
    """
    found = _dicts(_import_file(path))
    if not found:
        raise BadInput(f"plugin {path} has no dict named {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    for kind, entries in found.items():
        for name, entry in entries.items():
            known = _entries(kind).get(name)
            if known is not None and inspect.getmodule(known) is not inspect.getmodule(entry):
                raise BadInput(f"plugin {path} redefines the {kind.removesuffix('s')} {name!r}: choose another name")
    for kind, entries in found.items():
        _plugins[kind].update(entries)
        _plugin_files.update(dict.fromkeys(entries, path))


def plugin_files(entries: Iterable[str]) -> list[Path]:
    """The files that `add_plugin` took any of these names from, each once: what a command must name to have them."""
    return list(dict.fromkeys(_plugin_files[name] for name in entries if name in _plugin_files))


def choice(kind: Kind, name: str, settings: Mapping[str, Mapping[str, Any]]) -> Choice:
    """The entry with all its options: defaults overlaid by settings[name]; a nested entry takes its own settings."""
    entry = load(kind, name)
    options: dict[str, Any] = resolve(entry, name, settings.get(name, {}))
    for key, field in fields(entry).items():
        if nested := field.metadata["entry"]:
            if options[key] == name:
                raise BadInput(f"{name}.{key}={name} would nest without end: name another entry")
            options[key] = choice(nested, str(options[key]), settings)
    return Choice.of(name, options)


def recorded(kind: Kind, table: Mapping[str, Any]) -> Choice:
    """The choice that a record holds as {"name": …, option: value, …}. Raises BadInput where the entry is not known."""
    settings: dict[str, dict[str, Any]] = {}

    def collect(entry: Mapping[str, Any]) -> str:
        nested = {key: collect(value) if isinstance(value, Mapping) else value for key, value in entry.items()}
        settings[entry["name"]] = {key: value for key, value in nested.items() if key != "name"}
        return str(entry["name"])

    return choice(kind, collect(table), settings)


def batch_key(kind: Kind, chosen: Choice) -> Choice:
    """The choice without what may differ between rows of one batch."""
    free = per_row_names(load(kind, chosen.name))
    kept = {
        key: batch_key(_nested_kind(kind, chosen, key), value) if isinstance(value, Choice) else value
        for key, value in chosen.options
        if key not in free
    }
    return Choice.of(chosen.name, kept)


def build_method(rows: Sequence[Choice]) -> Method:
    """The method whose row r has the options of rows[r]."""
    method: Method = _build("methods", rows, {})
    return method


def build_model(rows: Sequence[Choice], signature: Signature) -> Model:
    """The model for `signature` whose row r has the options of rows[r]."""
    model: Model = _build("models", rows, {"signature": signature})
    return model


def build_dataset(chosen: Choice) -> Dataset:
    """The data set."""
    dataset: Dataset = _build("datasets", [chosen], {})
    return dataset


def parts(kind: Kind, chosen: Choice) -> dict[str, Any]:
    """The entry of a choice and those nested in it, by name."""
    found = {chosen.name: load(kind, chosen.name)}
    for key, value in chosen.options:
        if isinstance(value, Choice):
            found |= parts(_nested_kind(kind, chosen, key), value)
    return found


def definition(metric: Metric) -> str:
    """What a record keeps of a metric's definition: its options too."""
    is_data = is_dataclass(type(metric))
    return repr(metric) if is_data else type(metric).__qualname__  # a plain repr holds an address


def metrics() -> dict[str, Metric]:
    """All metrics by name."""
    return {name: load("metrics", name) for name in names("metrics")}


def _build(kind: Kind, rows: Sequence[Choice], extra: Mapping[str, Any]) -> Any:
    tables = [dict(row.options) for row in rows]
    values = {key: _column(kind, rows[0], key, [table[key] for table in tables]) for key in tables[0]}
    return load(kind, rows[0].name)(**extra, **values)


def _column(kind: Kind, chosen: Choice, key: str, values: Sequence[Any]) -> Any:
    """One value where all rows agree, else (R,) float64; nested entries are built in turn."""
    if isinstance(values[0], Choice):
        return _build(_nested_kind(kind, chosen, key), values, {})
    return values[0] if len(set(values)) == 1 else torch.tensor(values, dtype=torch.float64)


def _nested_kind(kind: Kind, chosen: Choice, key: str) -> Kind:
    nested: Kind = fields(load(kind, chosen.name))[key].metadata["entry"]
    return nested


def _entries(kind: Kind) -> dict[str, Any]:
    return {**_installed_entries(kind), **_own_entries(kind), **_plugins[kind]}


@cache
def _own_entries(kind: Kind) -> dict[str, Any]:
    package = importlib.import_module(f"bdlbench.{kind}")
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(package.__path__):
        entries = _dicts(importlib.import_module(f"bdlbench.{kind}.{module.name}"))[kind]
        if twice := found.keys() & entries.keys():
            raise ValueError(f"two files in {kind}/ name the entry {twice.pop()!r}")
        found |= entries
    return found


@cache
def _installed_entries(kind: Kind) -> dict[str, Any]:
    found = {}
    for point in importlib.metadata.entry_points(group=f"bdlbench.{kind}"):
        whose = f"the installed package {point.dist.name if point.dist else point.value}"
        if point.name in _own_entries(kind):
            raise BadInput(f"{whose} redefines the {kind.removesuffix('s')} {point.name!r}: uninstall one")
        try:
            found[point.name] = point.load()
        except Exception as error:
            raise BadInput(f"{whose}: {point.value} does not import: {type(error).__name__}: {error}") from error
    return found


def _dicts(module: Any) -> dict[Kind, dict[str, Any]]:
    return {kind: getattr(module, kind) for kind in KINDS if isinstance(getattr(module, kind, None), dict)}


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise BadInput(f"plugin {path} does not exist")
    spec = importlib.util.spec_from_file_location(f"bdlbench_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInput(f"plugin {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for the annotations of their fields
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise BadInput(f"plugin {path} does not import: {type(error).__name__}: {error}") from error
    return module
