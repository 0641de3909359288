"""The table of modules that were tried is what the modules do: its page cannot go stale.

The larger ones of torchvision take a minute and 12 GB: `python scripts/modules_table.py docs/modules.md`.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("modules_table", ROOT / "scripts" / "modules_table.py")
table = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = table  # where a dataclass looks for the module of its base
spec.loader.exec_module(table)

REFUSED = ("`x - x.mean(0)`", "`Linear` with `spectral_norm`", "`BatchNorm1d(momentum=None)`")
LARGE = [name for name in table.TRIED if name.startswith("torchvision")]
SMALL = [name for name in table.TRIED if name not in (*REFUSED, *LARGE)]


def on_the_page():
    text = (ROOT / "docs" / "modules.md").read_text("utf-8")
    lines = text.partition(table.MARKS[0])[2].partition(table.MARKS[1])[0].strip().splitlines()
    return lines[0], {line.split(" | ")[0].removeprefix("| "): line for line in lines[2:]}


def test_the_page_has_every_module_and_method():
    head, lines = on_the_page()
    assert list(lines) == list(table.TRIED)
    assert head.count("|") == len(table.METHODS) + 3 and all(f" `{name}` " in head for name in table.METHODS)


@pytest.mark.parametrize("name", [*REFUSED, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL)])
def test_a_line_is_what_the_module_does(name):
    assert table.line(name)[0] == on_the_page()[1][name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision `mobilenet_v3_small`", "torchvision `VisionTransformer`, tiny"])
def test_a_large_one_is_trained_as_the_page_says(name):
    kind, make = table.TRIED[name]
    assert table.tried(kind, make(), "mle") == on_the_page()[1][name].split(" | ")[1] == "yes"


def test_a_line_tells_a_refusal_from_a_fit(monkeypatch):
    """A table that said yes whatever happens would pass every test above."""
    monkeypatch.setattr(table, "METHODS", ("mle", "mc_dropout"))
    monkeypatch.setattr(table, "tried", lambda kind, make, method: "yes" if method == "mle" else "it cannot")
    assert table.line("`x - x.mean(0)`")[0].split(" | ")[1:] == ["yes", "no", "it cannot |"]
