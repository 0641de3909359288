"""What an entry of the catalog must have: a name, and the members and options that its kind needs."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.foreign import Broken, calling, is_foreign, written
from bdlbench.core.options import fields, resolve
from bdlbench.data.task import Examples, Shift, Signature, Task
from bdlbench.protocols import ALL_SHIFTS, TEST

Kind = Literal["methods", "models", "datasets", "metrics"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CONFIGURED: tuple[Kind, ...] = ("methods", "models", "datasets")
"""Kinds whose entries are classes with options."""

NAME = re.compile(r"\w[\w-]*")
"""What an entry may be called.

Nothing that has a meaning in a shell, `--set NAME.OPTION=V1,V2`, Markdown, HTML or CSV.
"""

SHIFT_NAME = re.compile(r"\w[\w-]*( [1-9]\d*)?")
"""What a shifted test set may be called: a kind, and where there are several a severity from 1, as "rotation 3"."""

PLUGIN = "bdlbench_plugin_"
"""How the names of plugins' modules begin."""

WORDS: dict[Kind, dict[str, int]] = {
    "methods": {"unsupported": 1, "fit": 3},
    "models": {"unsupported": 0, "leaves": 0, "__call__": 3},
    "datasets": {"load": 1},
    "metrics": {"__call__": 1, "by_example": 1, "without_blocks": 3},
}
"""What an entry of each kind must be able to do, with how many arguments."""

OPTIONAL = ("by_example", "without_blocks")
"""The members of `WORDS` that an entry may lack."""


APART_FROM_MEANING = ("summary", "unit", "better", "version", "under_shift")
"""Fields of a metric that are no options: words, what a record says beside the definition, and the version itself."""


def word_of(kind: Kind) -> str:
    """Return the kind in the singular."""
    return kind.removesuffix("s")


def check_name(
    kind: Kind, name: Any, entry: Any, whose: str, others: Mapping[Kind, Mapping[str, Any]], replace: Sequence[str]
) -> None:
    """Refuse a name that cannot be written or is taken, in its kind or in another kind that shares its options' prefix.

    Args:
        kind: The kind of the entry.
        name: Its name.
        entry: The entry.
        whose: The plugin, with the line that names the entry; or the package.
        others: The entries that exist.
        replace: Names that may be taken.

    Raises:
        BadInput: The name cannot be used.
    """
    word = word_of(kind)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadInput(f"{whose}: {name!a} cannot be the name of a {word}: letters, digits, _ and - only")
    where = f"{whose}: {word} {name}"
    if (old := others.get(kind, {}).get(name)) is not None and name not in replace:
        better = "choose another name"
        if not str(old.__module__).startswith(PLUGIN):  # two files given at once would replace each other in turn
            better += f", or take the place of {written(old) if is_foreign(old) else 'ours'} by --replace {name}"
        raise BadInput(f"{where} redefines the {word} {name!r}: {better}")
    for other in CONFIGURED if kind in CONFIGURED else ():
        if other != kind and name in others.get(other, {}):
            shared = f"has the name of a {word_of(other)}, and --set {name}.OPTION would mean both"
            raise BadInput(f"{where} {shared}: choose another name")


def check_entry(kind: Kind, name: str, entry: Any, whose: str) -> None:
    """Refuse an entry that lacks what its kind needs: to be a class or an instance, its members, its options.

    Args:
        kind: The kind of the entry.
        name: Its name.
        entry: The entry.
        whose: The plugin, with the line that names the entry; or the package.

    Raises:
        BadInput: Something is missing or wrong.
    """
    where = f"{whose}: {word_of(kind)} {name}"
    if kind == "metrics" and inspect.isclass(entry):
        raise BadInput(f"{where} is a class: write metrics = {{{name!r}: {entry.__name__}()}}, an instance")
    if kind != "metrics" and not inspect.isclass(entry):
        raise BadInput(f"{where} is an instance, not a class: write {kind} = {{{name!r}: {type(entry).__name__}}}")
    for verb, count in WORDS[kind].items():
        own = entry if kind == "metrics" and verb == "__call__" else getattr(entry, verb, None)
        if own is None and verb in OPTIONAL:
            continue
        if not callable(own) or (kind == "models" and not inspect.isroutine(own)) or isinstance(own, _SLOT):
            raise BadInput(f"{where} has no {verb}: see bdlbench/protocols.py")
        try:
            inspect.signature(own).bind(*range(count + (kind != "metrics")))
        except TypeError:
            raise BadInput(f"{where}: {verb} does not take {count} arguments; see bdlbench/protocols.py") from None
        except ValueError:  # a callable that is not written in Python has no signature
            continue
    with calling(where, entry):
        (_check_metric if kind == "metrics" else _check_options)(kind, entry, where)


_SLOT = type(type.__call__.__get__(object))
"""The type of `Class.__call__` where the class itself defines none: it is then that of its metaclass."""


def _check_options(kind: Kind, entry: Any, where: str) -> None:
    if not getattr(getattr(entry, "__dataclass_params__", None), "frozen", False):
        raise BadInput(f"{where} is not a frozen dataclass: write @dataclass(frozen=True) above it")
    given = ["signature"] if kind == "models" else []
    asked = [field.name for field in dataclasses.fields(entry) if field.init]
    if asked[: len(given)] != given:
        raise BadInput(f"{where}: its first field is not `signature: Signature`, what it is built to fit")
    if stray := [name for name in asked if name not in given and name not in fields(entry)]:
        better = f"write {stray[0]}: … = option(default, help)"
        raise BadInput(f"{where}: {stray[0]} is no option, so records would not tell its value: {better}")
    for key, field in fields(entry).items():
        if type(field.default) not in (bool, int, float, str, tuple):
            raise BadInput(f"{where}: the default of {key} is {field.default!r}, no number, text or tuple of numbers")
    resolve(entry, where, {})


def _check_metric(kind: Kind, metric: Any, where: str) -> None:
    for key in ("summary", "unit"):
        text = getattr(metric, key, None)
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise BadInput(f"{where}: {key} is {text!r}, not a line of text")
    version = getattr(metric, "version", 1)
    if type(version) is not int or version < 1:
        raise BadInput(f"{where}: version is {version!r}, not a whole number from 1 on")
    under_shift = getattr(metric, "under_shift", False)
    if not isinstance(under_shift, bool):
        raise BadInput(f"{where}: under_shift is {under_shift!r}, neither True nor False")
    better = getattr(metric, "better", None)
    if better not in ("higher", "lower"):
        raise BadInput(f'{where}: better is {better!r}, neither "higher" nor "lower"')


def definition_of(version: int, options: Mapping[str, Any]) -> str:
    """Say what a metric means, for a record: `version 1 (bins=15)`, `version 1` without options."""
    told = ", ".join(f"{name}={value!r}" for name, value in options.items() if name not in APART_FROM_MEANING)
    return f"version {version}" + (f" ({told})" if told else "")


def check_task(task: Any) -> None:
    """Refuse the result of a data set that is no valid task: its type, shapes, targets or names are wrong.

    Args:
        task: What `load` returned.

    Raises:
        Broken: The text says what it is and what would be right.
    """
    if not isinstance(task, Task) or not isinstance(getattr(task, "signature", None), Signature):
        raise Broken(f"load returned a {type(task).__name__}, not a Task with a Signature")
    signature = task.signature
    parts = {"train": task.train, TEST: task.test, **({"validation": task.validation} if task.validation else {})}
    for name, part in parts.items():
        _check_examples(name, part, signature)
    sets: dict[Any, Any] = dict(task.ood)
    for name, x in sets.items():
        if name == TEST or not isinstance(name, str) or not NAME.fullmatch(name):
            taken = f"{TEST} is the test set" if name == TEST else "letters, digits, _ and - only"
            raise Broken(f"the out-of-distribution set {name!r} cannot be called that: {taken}")
        _check_inputs(f"ood[{name!r}]", x, signature)
    truth: dict[Any, Any] = dict(task.truth)
    kinds: dict[str, dict[str, tuple[int, ...]]] = {
        "categorical": {"log_probs": (signature.outputs,)},
        "gaussian": {"mean": (), "sd": ()},
    }
    right = {name: (len(task.test.y), *rest) for name, rest in kinds.get(signature.likelihood, {}).items()}
    if truth and {name: (tuple(value.shape), value.dtype) for name, value in truth.items()} != {
        name: (shape, torch.float64) for name, shape in right.items()
    }:
        better = " and ".join(f"{name} {shape}" for name, shape in right.items()) or "nothing"
        raise Broken(f"truth does not describe the test inputs: give {better} in float64")
    shifts: dict[Any, Any] = dict(task.shifts)
    for name, shift in shifts.items():
        if not isinstance(name, str) or not SHIFT_NAME.fullmatch(name):
            raise Broken(f"the shift {name!r} cannot be called that: write a kind, and a severity behind a blank")
        if name in (TEST, ALL_SHIFTS, *sets) or any(other.startswith(f"{name} ") for other in shifts):
            raise Broken(f"the shift {name!r} cannot be called that: another set, or a mean over shifts, has the name")
        if not isinstance(shift, Shift):
            raise Broken(f"shifts[{name!r}] is a {type(shift).__name__}, not Shift(x, y)")
        _check_inputs(f"shifts[{name!r}].x", shift.x, signature)
        if shift.y is None and len(shift.x) != len(task.test.y):
            better = f"the {len(task.test.y)} test examples in their order, or targets y of its own"
            raise Broken(f"shifts[{name!r}] has {len(shift.x)} examples and no targets: give {better}")
        if shift.y is not None:
            _check_examples(f"shifts[{name!r}]", Examples(shift.x, shift.y), signature)


def _check_examples(name: str, part: Any, signature: Signature) -> None:
    if not isinstance(part, Examples):
        raise Broken(f"{name} is a {type(part).__name__}, not Examples(x, y)")
    _check_inputs(f"{name}.x", part.x, signature)
    y: Any = part.y
    classes = "categorical" in signature.likelihood
    if not isinstance(y, Tensor) or tuple(y.shape) != (len(part.x),):
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise Broken(f"{name}.y is {shape}, not ({len(part.x)},) as its inputs")
    wanted = torch.int64 if classes else torch.float32 if signature.likelihood == "gaussian" else y.dtype
    if y.dtype != wanted:
        raise Broken(f"{name}.y is {y.dtype}, not {wanted} for the likelihood {signature.likelihood}")
    lowest = -1 if signature.likelihood == "semi_categorical" and name == "train" else 0
    if classes and not lowest <= int(y.min()) <= int(y.max()) < signature.outputs:
        raise Broken(f"{name}.y has classes {int(y.min())} to {int(y.max())}, of {signature.outputs} that count from 0")
    if not y.isfinite().all():
        raise Broken(f"{name}.y has numbers that are not finite")


def _check_inputs(name: str, x: Any, signature: Signature) -> None:
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        found = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise Broken(f"{name} is {found}, not a tensor of torch.float32")
    if tuple(x.shape[1:]) != tuple(signature.input_shape) or not len(x):
        axes = ", ".join(map(str, ("N", *signature.input_shape)))
        raise Broken(f"{name} is {tuple(x.shape)}, not ({axes}) with N at least 1, as the signature's input_shape says")
    if not x.isfinite().all():
        raise Broken(f"{name} has numbers that are not finite")
