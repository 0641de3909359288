"""What people write in a suite, behind --set and --seeds: taken as it stands, or refused in one line with its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from bdlbench import catalog
from bdlbench.core import memory
from bdlbench.core.options import fields, is_open, option
from bdlbench.core.spec import Cell, Choice, parse_seeds
from bdlbench.runs.suites import Overrides, build_spec, parse_suite

GRID = "\n[[grid]]\nmethods = ['mle']\nmodels = ['mlp']\ndatasets = ['wine']\n"


def options(text: str, **overrides: object) -> list[dict[str, object]]:
    """The options of every cell, by NAME.OPTION."""
    cells = build_spec(parse_suite(text, "suite.toml"), Overrides(device="cpu", **overrides)).cells  # type: ignore[arg-type]
    return [
        {f"{choice.name}.{k}": v for choice in (cell.method, cell.model) for k, v in choice.options} for cell in cells
    ]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("10", [(10,)]),
        ("[10]", [(10,)]),
        ("'300-100'", [(300, 100)]),
        ("[[300, 100]]", [(300, 100)]),
        ("['300', '100']", [(300,), (100,)]),
        ("[[300], [100]]", [(300,), (100,)]),
        ("[[]]", [()]),
    ],
)
def test_several_numbers_of_one_option(written: str, values: list[tuple[int, ...]]) -> None:
    found = options(f"{GRID}[grid.options.mlp]\nwidths = {written}\n")
    assert [cell["mlp.widths"] for cell in found] == values


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (
            "mlp.widths = [300, 100]",
            ["mlp.widths", "'300-100'", "['300', …]"],
        ),
        ("mlp.widths = [[1.5]]", ["mlp.widths=1.5", "whole"]),
        ("mlp.widths = [[true]]", ["mlp.widths=True", "whole"]),
        ("mlp.widths = []", ["suite.toml", "mlp.widths", "no value"]),
        ("mle.epochs = []", ["suite.toml", "mle.epochs", "no value"]),
        ("mle.epochs = true", ["mle.epochs=true", "whole"]),
        ("mle.epochs = [5, false]", ["mle.epochs=false", "whole"]),
        ("mle.epochs = [[5]]", ["mle.epochs=5", "whole"]),
        ("mle.epochs = {a = 1}", ["mle.epochs={'a': 1}", "whole"]),
        ("mle.epochs = 2020-01-01", ["mle.epochs=2020-01-01", "whole"]),
        ("mle.learning_rate = true", ["mle.learning_rate=true", "64 bits"]),
        ("mle.learning_rate = inf", ["mle.learning_rate=inf", "(0, inf)"]),
        ("mle.decay = 3", ["mle.decay=3", "text"]),
        ("mlp.widths = 9_223_372_036_854_775_808", ["mlp.widths=9223372036854775808", "whole"]),
    ],
)
def test_an_option_of_a_suite(line: str, names: list[str], refused: Any) -> None:
    with refused(*names):
        options(f"{GRID}[grid.options]\n{line}\n")


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("samples = true", ["samples = True", "suite.toml", "whole"]),
        ("samples = 0", ["suite.toml", "samples = 0", "1"]),
        ("samples = 9_223_372_036_854_775_808", ["suite.toml", "samples = 9223372036854775808", "2^63"]),
        ("version = false", ["version = False", "suite.toml", "whole"]),
        ("seeds = true", ["seeds = True", "suite.toml", "(0-9)"]),
        ("seeds = 2.0", ["seeds = 2.0", "suite.toml", "(0-9)"]),
        ("seeds = []", ["seeds = []", "suite.toml", "no seed"]),
        ("seeds = [1, true]", ["suite.toml", "seeds = [1, True]", "(0-9)"]),
        ("seeds = [1, 1]", ["suite.toml", "seeds = [1, 1]", "twice"]),
        ("seeds = [1, -1]", ["suite.toml", "seeds = [1, -1]", "no seed"]),
        ("seeds = 'a'", ["seeds = 'a'", "suite.toml", "(0-9)"]),
        ("splits = 1", ["splits = 1", "suite.toml", "text"]),
        ("splits = 'eahc'", ["value", "splits", "suite.toml", "eahc", "each"]),
        ("selection = false", ["selection = False", "suite.toml", "text"]),
        ("selection = []", ["selection = []", "suite.toml", "text"]),
        ("title = 5", ["title = 5", "suite.toml", "text"]),
        ('title = "a\\u001b[1mb"', ["suite.toml", r"title = 'a\x1b[1mb'", "text"]),
        (f"samples = {'9' * 5000}", ["suite.toml", "5000 digits"]),
        (f"samples = {'[' * 100_000}", ["suite.toml", "recursion"]),
        (f"samples = 0x1{'0' * 5000}", ["suite.toml", "samples =", "thousands", "2^63"]),
    ],
)
def test_a_key_of_a_suite(line: str, names: list[str], refused: Any) -> None:
    with refused(*names) as caught:
        options(line + GRID)
    assert len(caught.text) < 300
    assert "--" not in caught.text  # no word of the command line for what stands in a file


@pytest.mark.parametrize("line", ["methods = [5]", "models = true", "datasets = [['wine']]"])
def test_names_of_a_grid_are_text(line: str, refused: Any) -> None:
    kind = line.partition(" ")[0]
    kept = [other for other in GRID.splitlines() if not other.startswith(kind)]
    with refused("suite.toml", f"{kind} =", f"{kind} = ['NAME', …]"):
        options("\n".join([*kept, line]))


def test_seeds_of_a_suite_are_a_number_a_text_or_a_list() -> None:
    for written, seeds in {"[7, 1]": [1, 7], "[7]": [7], "2": [0, 1], "'4-5'": [4, 5]}.items():
        spec = build_spec(parse_suite(f"seeds = {written}{GRID}", "suite.toml"), Overrides(device="cpu"))
        assert [replicate.seed for replicate in spec.replicates] == seeds


@pytest.mark.parametrize("text", ["0-999999999", "1000000000", "999999999999999999999", "0-99999999999999999999999"])
def test_more_seeds_than_memory_holds_are_refused_before_they_are_listed(text: str, refused: Any) -> None:
    with refused(f"--seeds '{text}'", "replicates", "GiB"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["1_0", "٣", "+5", "1,", "5-", "0-9-", "1e3", "9" * 5000])
def test_seeds_are_decimal_digits(text: str, refused: Any) -> None:
    with refused(f"--seeds '{text[:59]}", "(5)", "(0-9)", "(1,4,7)"):
        parse_seeds(text)


def test_a_seed_has_63_bits(refused: Any) -> None:
    assert parse_seeds(f"{2**63 - 1}-{2**63 - 1}") == (2**63 - 1,)
    with refused("--seeds", str(2**63), "63 bits"):
        parse_seeds(f"{2**63}-{2**63}")


def test_what_memory_holds_is_not_refused(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: 10 << 14)
    assert len(parse_seeds("10")) == 10
    with refused("--seeds '11'", "11 replicates", "GiB"):
        parse_seeds("11")


def test_memory_is_that_of_this_machine() -> None:
    assert 1 << 28 < memory.total_bytes() <= 1 << 50


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (("mlp.widths=-7",), ["mlp.widths=-7", "'-'", "whole"]),
        (("mlp.widths=10,",), ["--set 'mlp.widths=10,'", "empty", "mlp.widths=V1,V2"]),
        (("mle.epochs=1,,2",), ["--set 'mle.epochs=1,,2'", "empty", "mle.epochs=V1,V2"]),
        (("mle.epochs=1", "mle.epochs=2"), ["--set mle.epochs", "mle.epochs=V1,V2", "twice"]),
        (("0.\x1b=0", "0.\x1b=0"), [r"'0.\\x1b'", "twice"]),
        (("0.\x1b=0,,1",), [r"'0.\\x1b=0,,1'", "empty"]),
        (("mle.epoch=zzz",), ["option", "mle", "'epoch'", "epochs"]),
    ],
)
def test_what_set_does_not_take(settings: tuple[str, ...], names: list[str], refused: Any) -> None:
    with refused(*names):
        options(GRID, settings=settings)


@dataclass(frozen=True)
class Renaming:
    """A data set with an option called name."""

    name: str = option("x", "a name")


def test_no_option_renames_its_entry(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setitem(catalog._plugins["methods"], "renaming", Renaming)
    with refused("renaming.name", "option"):
        options(GRID, methods=("renaming",), settings=("renaming.name=zzz",))
    one = Choice.of("a", {"x": 1})
    assert Cell(one, one, one, 3).as_dict()["treatment"]["name"] == "a"


# ends of a range

FRACTIONS = {
    "burn_in": {0: "networks are kept from the first epoch on", 1: "that of a chain's last epoch is"},
    "collect_from": {0: "after the first epoch", 1: "the state at the end of training alone"},
    "entropy_weight": {0: "amortised MAP", 1: "the ELBO"},
    "exploration": {0: "q(z) is trained", 1: "the network is, for every depth, and q(z) is not"},
    "hessian_momentum": {0: "the curvature of the last draw alone", 1: "that of the start"},
    "label_smoothing": {0: "none"},
    "milestone_factor": {1: "no decay"},
    "momentum": {0: "none"},
    "pruned": {0: "none"},
    "ramp_end": {0: "the KL has its full weight from the start", 1: "at the end"},
    "ramp_start": {0: "the KL comes in at once"},
    "warm_start": {0: "none", 1: "all epochs but the last"},
    "warmup": {0: "none", 1: "the rate rises to the end"},
}
"""Fractions that may be 0 or 1, and what they then mean: an end without a meaning is excluded."""


def test_an_end_of_a_fraction_is_allowed_only_where_it_means_something() -> None:
    entries = [(kind, name) for kind in ("methods", "models", "datasets") for name in catalog.names(kind)]  # type: ignore[arg-type]
    found: dict[str, set[int]] = {}
    for kind, name in entries:
        for option_name, field in fields(catalog.load(kind, name)).items():  # type: ignore[arg-type]
            if isinstance(field.default, float) and (field.metadata["low"], field.metadata["high"]) == (0, 1):
                ends = {end for end, side in ((0, "low"), (1, "high")) if not is_open(field, side)}  # type: ignore[arg-type]
                found.setdefault(option_name, set()).update(ends)
    assert {name: ends for name, ends in found.items() if ends} == {name: set(ends) for name, ends in FRACTIONS.items()}


@pytest.mark.parametrize(
    ("setting", "end"),
    [
        ("mle.label_smoothing=1", "[0, 1)"),  # trains on the uniform
        ("mle.momentum=1", "[0, 1)"),  # never forgets a gradient
        ("mle.milestone_factor=0", "(0, 1]"),  # ends training at a milestone
        ("mle.milestones=0", "[1, 99]"),
        ("mle.milestones=50-100", "[1, 99]"),
        ("mean_field_vi.pruned=1", "[0, 1)"),  # takes every weight
        ("sparse_vd.ramp_start=1", "[0, 1)"),  # trains without a KL
    ],
)
def test_an_end_that_means_nothing_is_refused(setting: str, end: str, refused: Any) -> None:
    method = setting.partition(".")[0]
    with refused(setting.partition("=")[0] + "=", end):
        build_spec(parse_suite(GRID, "suite.toml"), Overrides(device="cpu", methods=(method,), settings=(setting,)))
