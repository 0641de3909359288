"""The fixture `refused` itself: it fails where a refusal is another one, names too little, or is worded by the test."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bdlbench.cli import main as cli
from bdlbench.core.errors import BadInput, DataUnavailable


def ends_well(refused: Any, error: Exception | None, *names: str, lacks: tuple[str, ...] = ()) -> bool:
    try:
        with refused(*names, lacks=lacks):
            if error:
                raise error
    except (AssertionError, pytest.fail.Exception):
        return False
    return True


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mlp.widths=3", "--set mlp.widths=3 is out of range"),
        ("3", "at least 3."),
        ("3", "at least 3, at most 5"),
        ("ece", "metric ece: version is 0"),
        ("mine.py:3", "mine.py:3: no metric"),
        ("[[grid]]", "there is no [[grid]] in it"),
        ("line 3", "not TOML (at line 3, column 5)"),
        ("'a b'", "the name 'a b' has a space"),
        ("metric ece", "metric ece: version is 0"),
    ],
)
def test_a_name_that_is_told(name: str, text: str, refused: Any) -> None:
    assert ends_well(refused, BadInput(text), name)
    assert not ends_well(refused, BadInput(text), text.split()[0], lacks=(name,))
    assert ends_well(refused, BadInput(text), text.split()[0])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mlp.widths=3", "--set mlp.widths=31 is out of range"),
        ("3", "at least 13"),
        ("3", "at least 0.3"),
        ("3", "at least 3.5"),
        ("3", "at least 3,500"),
        ("ece", "metric ece_sweep: version is 0"),
        ("mine.py:3", "mine.py:31: no metric"),
        ("seed", "unknown option 'seeds'"),
    ],
)
def test_a_part_of_another_name_is_not_the_name(name: str, text: str, refused: Any) -> None:
    assert not ends_well(refused, BadInput(text), name)
    assert ends_well(refused, BadInput(text), text.split()[-1], lacks=(name,))


@pytest.mark.parametrize("error", [None, DataUnavailable("rate=3"), BadInput("rate=3\nelse"), BadInput("rate=3\x1b")])
def test_another_refusal_or_another_shape_is_seen(error: Exception | None, refused: Any) -> None:
    assert ends_well(refused, BadInput("rate=3"), "rate=3")
    assert not ends_well(refused, error, "rate=3")


@pytest.mark.parametrize(
    "words", ["is out of range", "did you mean", "unknown metric", "a file", "Not a", "metric ece is"]
)
def test_wording_is_no_name(words: str, refused: Any) -> None:
    assert not ends_well(refused, BadInput(f"{words}: rate"), words)
    assert not ends_well(refused, BadInput(f"{words}: rate"))  # nor is nothing
    assert ends_well(refused, BadInput(f"{words}: rate"), "rate")


@pytest.mark.parametrize("writes", [True, False])
def test_a_refused_command_writes_nothing(
    writes: bool, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(words: list[str]) -> int:
        if writes:
            (tmp_path / "record.json").write_text("{}")
        print("bdlbench: rate", file=sys.stderr)
        return 2

    monkeypatch.setattr(cli, "main", main)
    with pytest.raises(AssertionError) if writes else nullcontext():
        refused.command(["run"], "rate")


def test_a_command_that_is_refused(refused: Any) -> None:
    assert "quick" in refused.command(["run", "quik"], "suite", "quik", "quick")
    for words, names, code in (
        (["run", "quik"], ["quick"], 3),  # another code
        (["run", "quik"], ["quack"], 2),  # another name
        (["list", "suites"], ["quick"], 0),  # it is not refused
    ):
        with pytest.raises(AssertionError):
            refused.command(words, *names, code=code)
