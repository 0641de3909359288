"""The registry is the folder: every module in methods/, models/, datasets/ and metrics/ names its entries in a dict.

Others add entries by entry points (group `bdlbench.methods`, …) or by a file with such dicts (`--plugin file.py`).
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bdlbench.core import files, torch_state
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.foreign import calling, is_foreign, raised_at, shown, told
from bdlbench.core.options import fields, per_row_names, resolve
from bdlbench.core.spec import Choice
from bdlbench.data import added, given
from bdlbench.data.added import DatasetOptions
from bdlbench.data.downloads import import_torchvision
from bdlbench.data.task import Signature, Task
from bdlbench.entries import CONFIGURED, PLUGIN, check_entry, check_name, check_task, definition_of
from bdlbench.entries import KINDS as KINDS  # exported again
from bdlbench.entries import Kind as Kind
from bdlbench.networks.from_module import from_module
from bdlbench.protocols import Dataset, Method, Metric, Model, Versioned

REPLACED_BY = "replaced_by"
"""The option that names the plugin file which replaced the entry: a record must tell the two entries apart."""


class Plugin(NamedTuple):
    """A file that was added: its path, the checksum of its content, and the names that it may replace."""

    path: Path
    sha256: str
    replace: tuple[str, ...]


_plugins: dict[Kind, dict[str, Any]] = {kind: {} for kind in KINDS}
_plugin_files: dict[tuple[Kind, str], Path] = {}
_added: dict[Path, Plugin] = {}
_modules: dict[str, str] = {}


def names(kind: Kind) -> list[str]:
    """List the names of all entries of a kind, sorted."""
    return sorted(_entries(kind))


def load(kind: Kind, name: str) -> Any:
    """Return an entry: a dataclass, or for metrics an instance.

    Raises:
        BadInput: The name is unknown; the nearest is named.
    """
    entries = _entries(kind)
    if name not in entries:
        raise unknown(kind.removesuffix("s"), name, entries)
    return entries[name]


def summary(kind: Kind, name: str) -> str:
    """Return one line about an entry: the first of its docstring, or a metric's own summary."""
    entry = load(kind, name)
    return str(entry.summary) if kind == "metrics" else (inspect.getdoc(entry) or "").partition("\n")[0]


def add_plugin(path: Path, replace: Iterable[str] = ()) -> None:
    """Register the entries of a file, which names them in dicts `methods`, `models`, `datasets` or `metrics`.

    A file that was added before is read again only if it has changed.

    Args:
        path: The file.
        replace: Names of entries that the file may replace by its own.

    Raises:
        BadInput: The file is absent, does not import, or names no entry; or an entry exists already, has a name that
            cannot be written, or lacks what its kind needs. Nothing is added.
    """
    if not path.is_file():
        raise BadInput(f"plugin {path} " + ("is a folder: name a file" if path.is_dir() else "does not exist"))
    content, known = path.read_bytes(), _added.get(path.resolve())
    plugin = Plugin(path, files.sha256(content), tuple(dict.fromkeys(replace)))
    ours = {kind: {name for name in _plugins[kind] if is_of(kind, name, path)} for kind in KINDS}
    same = known is not None and known.sha256 == plugin.sha256 and set(plugin.replace) <= set(known.replace)
    if same and any(ours.values()):
        return
    found = _dicts(import_file(path), f"plugin {path}")
    others = {kind: {n: e for n, e in _entries(kind).items() if n not in ours[kind]} for kind in KINDS}
    for kind in KINDS:  # an entry of ours that an earlier plugin replaced can be replaced again
        others[kind] |= {n: e for n, e in {**_installed_entries(kind), **_own_entries(kind)}.items() if n in ours[kind]}
    beside = {kind: {**others[kind], **found.get(kind, {})} for kind in KINDS}
    for kind, entries in found.items():
        free = [name for name in plugin.replace if name not in _plugins[kind] or name in ours[kind]]
        for name, entry in entries.items():
            whose = f"plugin {path}:{_line_of(content, kind, name)}"
            check_name(kind, name, entry, whose, {**beside, kind: others[kind]}, free)
            check_entry(kind, name, entry, whose)
    for kind, entries in found.items():
        for name in ours[kind] - entries.keys():
            del _plugins[kind][name]
        _plugins[kind].update(entries)
        _plugin_files.update({(kind, name): path for name in entries})
    _added[path.resolve()] = plugin


def add_module(place: str, replace: Iterable[str] = ()) -> str:
    """Register a callable that makes an `nn.Module` as a model, under its own name; return the name.

    Args:
        place: `package.nets:make_cnn`, or `nets.py:make_cnn` of a file.
        replace: Names of entries that it may replace.

    Raises:
        BadInput: It does not import, or is no callable that `from_module` takes; or its name is taken.
    """
    source, colon, name = place.rpartition(":")
    if not (source and colon and name):
        raise BadInput(f"--module {place}: write package.nets:make_cnn, or nets.py:make_cnn of a file")
    if _modules.get(name) == place:
        return name
    whose = f"--module {place}"
    if source.endswith(".py"):
        if not (file := Path(source)).is_file():
            raise BadInput(f"{whose}: the file {source} does not exist")
        module = import_file(file, "--module")
    else:
        module = _imported(source, whose)
    if not hasattr(module, name):
        raise unknown(f"name of {source}", name, [key for key, one in vars(module).items() if callable(one)])
    entry = from_module(getattr(module, name))
    check_name("models", name, entry, whose, {kind: _entries(kind) for kind in KINDS}, tuple(replace))
    check_entry("models", name, entry, whose)
    _plugins["models"][name] = entry
    _modules[name] = place
    return name


def added_modules(entries: Iterable[str] | None = None) -> list[str]:
    """List the modules that `add_module` took, or those of these names, as it was told them."""
    wanted = _modules.keys() if entries is None else set(entries)
    return [place for name, place in _modules.items() if name in wanted]


def _imported(source: str, whose: str) -> Any:
    """Import a module by its name, also from the working folder. Raises BadInput where that fails."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        with torch_state.kept():
            if source.partition(".")[0] == "torchvision":
                import_torchvision()
            return importlib.import_module(source)
    except (Exception, SystemExit) as error:
        where = raised_at(error)
        place = f" ({shown(where[0])}:{where[1]})" if where else ""
        raise BadInput(f"{whose} does not import: {told(error)}{place}") from error


def add_again(plugin: Plugin) -> None:
    """Register the entries of a plugin that another process has. Raises BadInput if its file has changed since."""
    if plugin.path.is_file() and files.sha256(plugin.path.read_bytes()) != plugin.sha256:
        raise BadInput(f"plugin {plugin.path} has changed since this run read it: start the run again")
    add_plugin(plugin.path, plugin.replace)


def forget_added() -> None:
    """Forget the entries of all plugins and modules: a worker that outlives a run takes those of the next."""
    for entries in _plugins.values():
        entries.clear()
    for known in (_plugin_files, _added, _modules):
        known.clear()


def added_plugins() -> list[Plugin]:
    """List the files that gave entries, in order, for other processes."""
    return [
        plugin
        for plugin in _added.values()
        if any(is_of(kind, name, plugin.path) for kind in KINDS for name in _plugins[kind])
    ]


def replaced(kind: Kind, name: str) -> str:
    """Return the name of the plugin file that replaced this entry; "" where the entry is the only one of its name."""
    if name not in _plugins[kind] or (name not in _own_entries(kind) and name not in _installed_entries(kind)):
        return ""
    return _plugin_files.get((kind, name), Path("a plugin")).name


def is_of(kind: Kind, name: str, path: Path) -> bool:
    """Tell whether the entry comes from this file, however its path is spelt."""
    known = _plugin_files.get((kind, name))
    return known is not None and known.resolve() == path.resolve()


def _line_of(source: bytes, kind: Kind, name: Any) -> int:
    """Return the line of a plugin that names an entry: its key in the dict, else where the dict is assigned."""
    line = 1
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if kind in {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}:
                keys = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant) and part.value == name]
                line = keys[0].lineno if keys else node.lineno
    return line


def plugin_files(entries: Iterable[str]) -> list[Path]:
    """List the files that `add_plugin` took any of these names from, each once: a command must name them."""
    wanted = set(entries)
    return list(dict.fromkeys(path for (_, name), path in _plugin_files.items() if name in wanted))


def choice(kind: Kind, name: str, settings: Mapping[str, Mapping[str, Any]]) -> Choice:
    """Return the entry with all its options: defaults overlaid by settings[name].

    A nested entry takes its own settings.
    """
    (only,) = choices(kind, name, {entry: {k: [value] for k, value in own.items()} for entry, own in settings.items()})
    return only


def choices(
    kind: Kind, name: str, settings: Mapping[str, Mapping[str, Sequence[Any]]], outer: tuple[str, ...] = ()
) -> list[Choice]:
    """Return the entry for every combination of its options' values and of those of the entries that it builds on.

    settings: {entry: {option: values}}, of which those of other entries do not concern it, however many values they
    have; outer: the entries that build on this one. An option that came `later` is no part of a choice at its default.
    Of an entry that a plugin was let replace a choice says by which file. Raises BadInput for unknown names and
    options, values out of range, and an entry that builds on itself.
    """
    entry, own = load(kind, name), settings.get(name, {})
    if name in outer:
        raise BadInput(f"{' in '.join((name, *reversed(outer)))} would nest without end: name another entry")
    origin = {REPLACED_BY: file} if (file := replaced(kind, name)) else {}
    found: dict[Choice, None] = {}
    for values in itertools.product(*own.values()):
        told = dict(zip(own, values, strict=True))
        extra = {key: told.pop(key) for key in list(told) if _owner(kind, entry, key) is DatasetOptions}
        options = resolve(entry, name, told)
        for key, field in fields(entry).items():
            if file := field.metadata["file"]:
                text, wanted = str(options[key]), str(options[f"{key}_sha256"])
                options[f"{key}_sha256"] = given.identified(text, wanted, f"{name}.{key}", file)
        inner = {key: field.metadata["entry"] for key, field in fields(entry).items() if field.metadata["entry"]}
        below = [choices(nested, str(options[key]), settings, (*outer, name)) for key, nested in inner.items()]
        idle = [k for k, f in fields(entry).items() if f.metadata["later"] and options[k] == f.default]
        asked = {key: value for key, value in options.items() if key not in idle}  # records of before have no others
        if extra:
            asked |= added.identified(resolve(DatasetOptions, name, extra), name)
        for members in itertools.product(*below):
            found[Choice.of(name, {**asked, **dict(zip(inner, members, strict=True)), **origin})] = None
    return list(found)


def recorded(kind: Kind, then: Choice) -> Choice:
    """Return the choice that a record holds, as this catalog makes it.

    Raises:
        BadInput: An entry is unknown here.
    """
    settings: dict[str, dict[str, Any]] = {}

    def collect(entry: Choice) -> str:
        nested = {key: collect(value) if isinstance(value, Choice) else value for key, value in entry.options}
        name = entry.name
        settings[name] = {key: value for key, value in nested.items() if key != REPLACED_BY}
        file, now = entry.get(REPLACED_BY, ""), next((f for k in CONFIGURED if (f := replaced(k, name))), "")
        if file != now:
            better = f"add --plugin {file} --replace {name}" if file else f"leave out --replace {name}"
            raise BadInput(f"the record was made with {name} {f'of {file}' if file else 'of bdlbench'}: {better}")
        return name

    return choice(kind, collect(then), settings)


def options_of(kind: Kind, name: str) -> Mapping[str, dataclasses.Field[Any]]:
    """Return the options that an entry takes, by name: its own, and for a data set those of added sets."""
    entry = load(kind, name)
    return {**(fields(DatasetOptions) if kind == "datasets" else {}), **fields(entry)}


def check_option(kind: Kind, name: str, option: str, value: Any) -> None:
    """Refuse an option that an entry does not take, or a value that it cannot have.

    Raises:
        BadInput: The option is unknown, or the value has the wrong type or is out of range.
    """
    resolve(_owner(kind, load(kind, name), option), name, {option: value})


def _owner(kind: Kind, entry: type, option: str) -> type:
    """Return the class whose field an option is: the entry's, or `DatasetOptions`, which every data set takes."""
    return (
        DatasetOptions
        if kind == "datasets" and option in fields(DatasetOptions) and option not in fields(entry)
        else entry
    )


def _beside(kind: Kind, entry: type, option: str) -> bool:
    """Tell whether a choice has an option that the entry itself is not built with."""
    return option == REPLACED_BY or _owner(kind, entry, option) is DatasetOptions


def batch_key(kind: Kind, chosen: Choice) -> Choice:
    """Return the choice without the options that may differ between rows of one batch."""
    entry = load(kind, chosen.name)
    known, free = fields(entry), per_row_names(entry)
    kept = {
        key: batch_key(known[key].metadata["entry"], value) if isinstance(value, Choice) else value
        for key, value in chosen.options
        if key not in free
    }
    return Choice.of(chosen.name, kept)


def is_row_by_row(method: Choice) -> bool:
    """Tell whether a method, or one that it builds on, is training code from outside, which keeps no checkpoint."""
    nested = [value for _, value in method.options if isinstance(value, Choice)]
    return getattr(load("methods", method.name), "row_by_row", False) or any(map(is_row_by_row, nested))


def build_method(rows: Sequence[Choice]) -> Method:
    """Build the method whose row r has the options of rows[r]."""
    method: Method = _build("methods", rows, {})
    return method


def build_model(rows: Sequence[Choice], signature: Signature) -> Model:
    """Build the model for `signature` whose row r has the options of rows[r]."""
    model: Model = _build("models", rows, {"signature": signature})
    return model


def build_dataset(chosen: Choice) -> Dataset:
    """Build the data set."""
    dataset: Dataset = _build("datasets", [chosen], {})
    return dataset


def load_task(chosen: Choice, split: int) -> Task:
    """Load one split of a data set.

    Raises:
        BadInput: It is unavailable or no valid task; for foreign code with file and line.
    """
    dataset = build_dataset(chosen)
    with calling(f"data set {chosen.name}", dataset):
        task = dataset.load(split)
        if is_foreign(dataset):
            check_task(task)
    extra = {key: value for key, value in chosen.options if _owner("datasets", type(dataset), key) is DatasetOptions}
    return added.with_added(task, extra, chosen.name)


def definition(metric: Metric) -> str:
    """Return what a record stores of what a metric means: its version and options, or its class where it has none."""
    is_data = is_dataclass(type(metric))
    if isinstance(metric, Versioned):
        told = [field.name for field in dataclasses.fields(metric) if field.repr] if is_data else []  # type: ignore[arg-type]
        text = definition_of(metric.version, {name: getattr(metric, name) for name in told})
    else:
        text = repr(metric) if is_data else type(metric).__qualname__  # a plain repr contains an address
    files_of = [
        file for name, own in _plugins["metrics"].items() if own is metric and (file := replaced("metrics", name))
    ]
    return f"{text} of {files_of[0]}" if files_of else text


def metrics() -> dict[str, Metric]:
    """Return all metrics by name."""
    entries = _entries("metrics")
    return {name: entries[name] for name in sorted(entries)}


def _build(kind: Kind, rows: Sequence[Choice], extra: Mapping[str, Any]) -> Any:
    """Build an entry. An option is one value where all rows agree, else (R,) float64; nested entries come first."""
    entry = load(kind, rows[0].name)
    known, tables = fields(entry), [dict(row.options) for row in rows]
    keys = dict.fromkeys(key for table in tables for key in table if key in known or not _beside(kind, entry, key))
    values: dict[str, Any] = {}
    for key in keys:
        # An option that came `later` is absent from the rows that have its default, and from those alone.
        column = [table[key] if key in table else known[key].default for table in tables]
        if nested := [value for value in column if isinstance(value, Choice)]:
            values[key] = _build(known[key].metadata["entry"], nested, {})
        else:
            values[key] = column[0] if len(set(column)) == 1 else torch.tensor(column, dtype=torch.float64)
    with calling(f"{kind.removesuffix('s')} {rows[0].name}", entry):
        return entry(**extra, **values)


def _entries(kind: Kind) -> dict[str, Any]:
    return {**_installed_entries(kind), **_own_entries(kind), **_plugins[kind]}


@cache
def _own_entries(kind: Kind) -> dict[str, Any]:
    package = importlib.import_module(f"bdlbench.{kind}")
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(package.__path__):
        entries = getattr(importlib.import_module(f"bdlbench.{kind}.{module.name}"), kind)
        if twice := found.keys() & entries.keys():
            raise ValueError(f"two files in {kind}/ name the entry {twice.pop()!r}")
        found |= entries
    return found


@cache
def _installed_entries(kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=f"bdlbench.{kind}"):
        whose = f"the installed package {point.dist.name if point.dist else point.value}"
        if point.name in _own_entries(kind):
            raise BadInput(f"{whose} redefines the {kind.removesuffix('s')} {point.name!r}: uninstall one")
        if owners.setdefault(point.name, whose) != whose:
            raise BadInput(f"{whose} and {owners[point.name]} both name the {kind.removesuffix('s')} {point.name!r}")
        try:
            with torch_state.kept():
                found[point.name] = point.load()
        except (Exception, SystemExit) as error:
            raise BadInput(f"{whose}: {point.value} does not import: {told(error)}") from error
        check_name(kind, point.name, found[point.name], whose, {}, ())
        check_entry(kind, point.name, found[point.name], whose)
    return found


def _dicts(module: Any, whose: str) -> dict[Kind, dict[str, Any]]:
    """Return the dicts of a module that name entries.

    Raises:
        BadInput: One is not a dict, or none names anything.
    """
    named = {kind: value for kind in KINDS if not inspect.ismodule(value := getattr(module, kind, {}))}
    for kind, value in named.items():
        if not isinstance(value, dict):
            raise BadInput(f"{whose} has no dict named {kind}: it is a {type(value).__name__}")
    if not any(named.values()):
        raise BadInput(f"{whose} has no dict named {', '.join(KINDS[:-1])} or {KINDS[-1]} that names an entry")
    return named


def import_file(path: Path, what: str = "plugin") -> Any:
    """Import a file as a module with a name of its own: files of one name in two folders are two modules.

    Raises:
        BadInput: It does not import; the message calls it `what`.
    """
    name = f"{PLUGIN}{path.stem}_{files.sha256(str(path.resolve()).encode())[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{what} {path} is not a Python file")
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look up the annotations of their fields there
    try:
        with torch_state.kept():
            # compiled here: cached bytecode is mistaken for that of another text of the same length and second
            code = compile(path.read_bytes(), str(path.absolute()), "exec", dont_inherit=True)
            exec(code, module.__dict__)  # nosec B102 # a file that the user names by --plugin is code to be run
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        where = raised_at(error)
        place = f"{shown(where[0])}:{where[1]}" if where else shown(path)
        ours = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "bdlbench"
        better = ": what a plugin needs is in bdlbench.extend" if ours else ""
        raise BadInput(f"{what} {path} does not import: {told(error)} ({place}){better}") from error
    return module
