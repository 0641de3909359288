"""What people write in a suite, behind --set and --seeds: taken as it stands, or refused in one line with its place."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bdlbench import catalog
from bdlbench.core import memory
from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
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
    ("line", "words"),
    [
        (
            "mlp.widths = [300, 100]",
            r"may mean one value or several: write '300-100' for one, or \['300', …\] to sweep",
        ),
        ("mlp.widths = [[1.5]]", "mlp.widths=1.5 is not whole numbers"),
        ("mlp.widths = [[true]]", "mlp.widths=True is not whole numbers"),
        ("mlp.widths = []", r"suite.toml: mlp.widths has no value"),
        ("mle.epochs = []", r"suite.toml: mle.epochs has no value"),
        ("mle.epochs = true", "mle.epochs=true is not a whole number"),
        ("mle.epochs = [5, false]", "mle.epochs=false is not a whole number"),
        ("mle.epochs = [[5]]", "mle.epochs=5 is not a whole number"),
        ("mle.epochs = {a = 1}", "is not a whole number"),
        ("mle.epochs = 2020-01-01", "mle.epochs=2020-01-01 is not a whole number"),
        ("mle.learning_rate = true", "mle.learning_rate=true is not a number"),
        ("mle.learning_rate = inf", "mle.learning_rate=inf is out of range"),
        ("mle.decay = 3", "mle.decay=3 is not text"),
        ("mlp.widths = 9_223_372_036_854_775_808", "is not whole numbers"),
    ],
)
def test_an_option_of_a_suite(line: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        options(f"{GRID}[grid.options]\n{line}\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("samples = true", "suite.toml: samples = True is not a whole number"),
        ("samples = 0", "suite.toml: samples = 0 is out of range: at least 1"),
        ("samples = 9_223_372_036_854_775_808", "suite.toml: samples = 9223372036854775808 is out of range"),
        ("version = false", "suite.toml: version = False is not a whole number"),
        ("seeds = true", "suite.toml: seeds = True cannot be read"),
        ("seeds = 2.0", "suite.toml: seeds = 2.0 cannot be read"),
        ("seeds = []", r"suite.toml: seeds = \[\] names no seed"),
        ("seeds = [1, true]", "suite.toml: seeds = .* cannot be read"),
        ("seeds = [1, 1]", "suite.toml: seeds = .* names a seed twice"),
        ("seeds = [1, -1]", "suite.toml: seeds = .* names no seed"),
        ("seeds = 'a'", "suite.toml: seeds = 'a' cannot be read"),
        ("splits = 1", "suite.toml: splits = 1 is not text"),
        ("splits = 'eahc'", "unknown value of splits in suite.toml 'eahc': did you mean 'each'"),
        ("selection = false", "suite.toml: selection = False is not text"),
        ("selection = []", r"suite.toml: selection = \[\] is not text"),
        ("title = 5", "suite.toml: title = 5 is not text"),
        ('title = "a\\u001b[1mb"', "title = .* is not text on one line"),
        (f"samples = {'9' * 5000}", "suite.toml holds what this version cannot read"),
        (f"samples = {'[' * 100_000}", "suite.toml holds what this version cannot read"),
        (f"samples = 0x1{'0' * 5000}", "suite.toml: samples = a number of thousands of digits is out of range"),
    ],
)
def test_a_key_of_a_suite(line: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        options(line + GRID)
    assert len(str(caught.value)) < 300
    assert "--" not in str(caught.value)  # no word of the command line for what stands in a file


@pytest.mark.parametrize("line", ["methods = [5]", "models = true", "datasets = [['wine']]"])
def test_names_of_a_grid_are_text(line: str) -> None:
    kind = line.partition(" ")[0]
    kept = [other for other in GRID.splitlines() if not other.startswith(kind)]
    with pytest.raises(BadInput, match=f"suite.toml: {kind} = .* are not names"):
        options("\n".join([*kept, line]))


def test_seeds_of_a_suite_are_a_number_a_text_or_a_list() -> None:
    for written, seeds in {"[7, 1]": [1, 7], "[7]": [7], "2": [0, 1], "'4-5'": [4, 5]}.items():
        spec = build_spec(parse_suite(f"seeds = {written}{GRID}", "suite.toml"), Overrides(device="cpu"))
        assert [replicate.seed for replicate in spec.replicates] == seeds


@pytest.mark.parametrize("text", ["0-999999999", "1000000000", "999999999999999999999", "0-99999999999999999999999"])
def test_more_seeds_than_memory_holds_are_refused_before_they_are_listed(text: str) -> None:
    with pytest.raises(BadInput, match=f"--seeds '{text}', which are .* replicates, would take at least .* GiB"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["1_0", "٣", "+5", "1,", "5-", "0-9-", "1e3", "9" * 5000])
def test_seeds_are_decimal_digits(text: str) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        parse_seeds(text)


def test_a_seed_has_63_bits() -> None:
    assert parse_seeds(f"{2**63 - 1}-{2**63 - 1}") == (2**63 - 1,)
    with pytest.raises(BadInput, match="a seed of more than 63 bits"):
        parse_seeds(f"{2**63}-{2**63}")


def test_what_memory_holds_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: 10 << 14)
    assert len(parse_seeds("10")) == 10
    with pytest.raises(BadInput, match="11 replicates"):
        parse_seeds("11")


def test_memory_is_that_of_this_machine() -> None:
    assert 1 << 28 < memory.total_bytes() <= 1 << 50


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("mlp.widths=-7",), "mlp.widths=-7 is not whole numbers joined by '-'"),
        (("mlp.widths=10,",), "holds an empty value"),
        (("mle.epochs=1,,2",), "holds an empty value"),
        (("mle.epochs=1", "mle.epochs=2"), "--set mle.epochs is given twice: write mle.epochs=V1,V2"),
        (("0.\x1b=0", "0.\x1b=0"), "^[ -~]+ is given twice: [ -~]+$"),
        (("0.\x1b=0,,1",), "^[ -~]+ holds an empty value: [ -~]+$"),
        (("mle.name=zzz",), "unknown option of mle 'name'"),
    ],
)
def test_what_set_does_not_take(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        options(GRID, settings=settings)


@dataclass(frozen=True)
class Renaming:
    """A data set with an option called name."""

    name: str = option("x", "a name")


def test_no_option_renames_its_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalog._plugins["methods"], "renaming", Renaming)
    with pytest.raises(BadInput, match=r"renaming\.name: an option cannot be called name"):
        options(GRID, methods=("renaming",), settings=("renaming.name=zzz",))
    one = Choice.of("a", {"x": 1})
    assert Cell(one, one, one, 3).as_dict()["treatment"]["name"] == "a"
