"""Values that nobody meant, behind --set and --seeds and in suites: taken as they were written, or refused in one line.

Short and always the same here. `BDLBENCH_FUZZ_EXAMPLES=20000 pytest -s tests/test_values_fuzz.py` looks further, and
prints how many were accepted and refused.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bdlbench.core import options
from bdlbench.core.errors import BadInput
from bdlbench.core.files import canonical_json
from bdlbench.core.options import option, resolve
from bdlbench.core.spec import parse_seeds
from bdlbench.runs import suites
from bdlbench.runs.suites import Overrides, build_spec, parse_settings, parse_suite

LONG = "BDLBENCH_FUZZ_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("BDLBENCH_FUZZ_EXAMPLES", "100"))
SEEN: Counter[str] = Counter()

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    yield
    print(f"\n{dict(SEEN)}")


@dataclass(frozen=True)
class Entry:
    """An option of each kind."""

    count: int = option(3, "a count")
    some: int = option(3, "a count in a range", low=1, high=1000)
    rate: float = option(0.5, "a rate", low=0, high=1)
    free: float = option(0.0, "any number")
    widths: tuple[int, ...] = option((50,), "widths", low=1)
    flag: bool = option(False, "yes or no")
    word: str = option("a", "text")


NAMES = [*options.fields(Entry)]


def refused(kind: str, error: BadInput) -> None:
    """Counted, and one line that a person reads."""
    assert "\n" not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 400
    SEEN[f"{kind} refused"] += 1


# numbers as people, programs and cats write them
digits = st.text("0123456789", min_size=1, max_size=25)
numerals = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "-", "+", " ", "--"]),
        digits,
        st.sampled_from(["", ".", ".5", ".0", "_0", "e5", "e-400", "E400", "-7", "--20", "-", ",", " ", "x", "٣"]),
    ),
)
texts = st.one_of(
    numerals,
    st.lists(digits, max_size=4).map("-".join),
    st.sampled_from(["true", "False", "1", "0", "inf", "-inf", "nan", "infinity", "1e999", "1e-999", "0x10", "", "-"]),
    st.text(max_size=12),
    st.integers(4000, 6000).map(lambda n: "9" * n),
)
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(-3, 2000),
    st.floats(),
    st.floats(-1, 2),
    texts,
    st.none(),
    st.dates(),
    st.sampled_from([2**53, 2**63, -(2**63), 2.0**53 + 2, 10**400, 16**5000, -0.0]),
)
values = st.one_of(scalars, st.lists(scalars, max_size=3), st.dictionaries(st.text(max_size=2), scalars, max_size=2))


def meant(default: Any, raw: Any) -> Any:
    """The value that `raw` writes, worked out by exact arithmetic; None where it writes none of the option's kind."""
    if isinstance(default, tuple):
        if isinstance(raw, str):
            raw = raw.strip().split("-") if raw.strip() else []
        parts = [meant(0, part) for part in (raw if isinstance(raw, list) else [raw])]
        return None if None in parts else tuple(parts)
    if isinstance(default, bool):
        return (
            {"true": True, "1": True, "false": False, "0": False}.get(str(raw).lower())
            if is_in(raw, str, bool)
            else None
        )
    if isinstance(default, str):
        return raw if is_in(raw, str) else None
    if not is_in(raw, int, float, str) or isinstance(raw, bool):
        return None
    try:
        exact = Fraction(raw) if not isinstance(raw, str) else Fraction(Decimal(raw.strip()))
    except (ValueError, ArithmeticError):
        return None
    return exact


def is_in(raw: Any, *types: type) -> bool:
    return type(raw) in types


@pytest.mark.slow
@fuzzed
@given(st.sampled_from(NAMES), values)
def test_an_option_has_the_value_that_was_written(name: str, raw: Any) -> None:
    field = options.fields(Entry)[name]
    try:
        found = resolve(Entry, "entry", {name: raw})[name]
    except BadInput as error:
        refused(name, error)
        return
    SEEN[f"{name} accepted"] += 1
    assert type(found) is type(field.default)
    right = meant(field.default, raw)
    assert right is not None, (name, raw, found)
    if isinstance(found, float):
        assert math.isfinite(found)
        assert found == float(right)
        assert found != 0 or right == 0 or abs(right) < 5e-324
    else:
        assert found == right, (name, raw)
    numbers = found if isinstance(found, tuple) else (found,)
    assert all(isinstance(n, str) or field.metadata["low"] <= n <= field.metadata["high"] for n in numbers)
    canonical_json({name: list(found) if isinstance(found, tuple) else found})  # a record can hold it
    if not isinstance(found, str):
        assert resolve(Entry, "entry", {name: options.spell(found)})[name] == found  # and a command line say it again


@fuzzed
@given(st.lists(st.one_of(st.text(max_size=20), st.tuples(st.sampled_from(NAMES), st.lists(texts, max_size=3)).map(
    lambda pair: f"entry.{pair[0]}={','.join(pair[1])}")), max_size=3))  # fmt: skip
def test_set_takes_every_value_of_a_list(given_texts: list[str]) -> None:
    try:
        found = parse_settings(given_texts)
    except BadInput as error:
        refused("--set", error)
        return
    SEEN["--set accepted"] += 1
    assert sum(len(table) for table in found.values()) == len(given_texts)
    for text in given_texts:
        target, _, values = text.partition("=")
        entry, _, name = target.strip().partition(".")
        assert found[entry][name] == [value.strip() for value in values.split(",")]
        assert "" not in found[entry][name]


@fuzzed
@given(st.one_of(texts, st.lists(st.integers(-2, 40).map(str), max_size=5).map(",".join),
                 st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: f"{p[0]}-{p[1]}")))  # fmt: skip
def test_seeds_are_those_that_were_written(text: str) -> None:
    try:
        found = parse_seeds(text)
    except BadInput as error:
        refused("seeds", error)
        return
    SEEN["seeds accepted"] += 1
    if "," in text:
        assert list(found) == sorted(int(part) for part in text.split(","))
    elif "-" in text:
        first, last = (int(part) for part in text.split("-"))
        assert (found[0], found[-1], len(found)) == (first, last, last - first + 1)
    else:
        assert found == tuple(range(int(text)))
    assert all(0 <= seed < 2**63 for seed in (found[0], found[-1]))


def toml(value: Any) -> str:
    """A value as TOML writes it; what TOML lacks as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return hex(value) if abs(value) > 10**4000 and value > 0 else str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(str(k))} = {toml(v)}' for k, v in value.items())}}}"
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    text = "" if value is None else str(value)
    return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text) + '"'


counts = st.one_of(st.integers(1, 50), st.integers(1, 50).map(str), st.integers(1, 50).map(float))
right = {
    "version": st.integers(1, 50),
    "samples": st.integers(1, 50),
    "title": st.just("a title"),
    "seeds": st.one_of(st.integers(1, 50), st.lists(st.integers(0, 50), min_size=1, unique=True), st.just("3-7")),
    "splits": st.sampled_from(["one", "each"]),
    "selection": st.sampled_from(["", "none", "test"]),
    "epochs": st.one_of(counts, st.lists(counts, min_size=1, max_size=3)),
    "learning_rate": st.one_of(counts, st.floats(1e-300, 1e300), st.lists(st.floats(1e-9, 1), min_size=1, max_size=3)),
    "widths": st.one_of(st.sampled_from([7, "7", "7-5", [[7, 5]], [[7], [5, 3]], ["7", "5"], [[]], [7, 5]]), counts),
    "decay": st.sampled_from(["constant", "linear"]),
}


def mostly_right(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keys with values that they take, now and then one that they do not."""
    known = {name: st.integers(0, 15).flatmap(lambda n, name=name: right[name] if n else values) for name in names}
    return st.fixed_dictionaries({}, optional=known)


keys = st.one_of(
    mostly_right(["version", "title", "seeds", "splits", "samples", "selection"]),
    st.dictionaries(st.sampled_from(["version", "title", "seeds", "options", "sead"]), values, max_size=2),
)
tables = st.fixed_dictionaries(
    {}, optional={"mle": mostly_right(["epochs", "learning_rate", "decay"]), "mlp": mostly_right(["widths"])}
)
grids = st.fixed_dictionaries(
    {
        "methods": st.sampled_from([["mle"], "mle", ["mle", "map"]]),
        "models": st.integers(0, 15).flatmap(lambda n: st.just(["mlp"]) if n else values),
        "datasets": st.just(["wine"]),
    },
    optional={"options": st.integers(0, 15).flatmap(lambda n: tables if n else values)},
)


@fuzzed
@given(keys, grids)
def test_a_suite_says_what_it_holds(top: dict[str, Any], grid: dict[str, Any]) -> None:
    lines = [f"{key} = {toml(value)}" for key, value in top.items()]
    text = "\n".join([*lines, "[[grid]]", *(f"{key} = {toml(value)}" for key, value in grid.items())])
    try:
        suite = parse_suite(text, "suite.toml")
        spec = build_spec(suite, Overrides(device="cpu"))
    except BadInput as error:
        refused("suite", error)
        return
    SEEN["suite accepted"] += 1
    raw = tomllib.loads(text)
    assert (suite.samples, suite.version) == (raw.get("samples", 100), raw.get("version", 1))
    written = raw.get("seeds", "5")
    listed = sorted(written) if isinstance(written, list) else list(parse_seeds(str(written)))
    assert [replicate.seed for replicate in spec.replicates] == listed
    assert type(suite.samples) is type(suite.version) is int
    table = raw["grid"][0].get("options", {})
    for entry, name in (("mle", "epochs"), ("mlp", "widths"), ("mle", "learning_rate")):
        written = table.get(entry, {}).get(name)
        if written is None:
            continue
        each = written if isinstance(written, list) else [written]
        default = options.fields(suites.catalog.load("methods" if entry == "mle" else "models", entry))[name].default
        right = {meant(default, one) for one in each}
        assert None not in right
        chosen = [choice for cell in spec.cells for choice in (cell.method, cell.model) if choice.name == entry]
        found = {dict(choice.options)[name] for choice in chosen}
        assert found == {float(one) for one in right} if name == "learning_rate" else found == right


@fuzzed
@given(st.one_of(st.text(), st.text("[]{}=\"'.#\n ab1-_:,", max_size=60)))
def test_any_text_at_all_is_a_suite_or_refused(text: str) -> None:
    try:
        build_spec(parse_suite(text, "suite.toml"), Overrides(device="cpu"))
    except BadInput as error:
        refused("text", error)
