"""Tutorials do what they say: every block runs as printed, in a fresh folder, and prints what the page shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADAPTERS = ROOT / "docs" / "adapters.md"
PAGES = [ROOT / "docs" / "first-steps.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md")), ADAPTERS]
spec = importlib.util.spec_from_file_location("tutorials", ROOT / "scripts" / "tutorials.py")
assert spec and spec.loader
tutorials = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tutorials)

NUMBER = re.compile(r"[−+-]?\d+(?:\.\d+)?(?:e-?\d+)?")


def agrees(shown: str, found: str) -> bool:
    """The same words, and the same numbers up to what another processor's rounding makes of a short training.

    Columns may move, so blanks do not count; nor do the lines under headings, and the marks of what is bold.
    """

    def parts(text: str) -> tuple[list[str], list[float]]:
        words = " ".join(re.sub(r"[─*]+", " ", NUMBER.sub(" # ", text)).split()).split(" ")
        return words, [float(number.replace("−", "-")) for number in NUMBER.findall(text)]

    (words, numbers), (other_words, others) = parts(shown), parts(found)
    return words == other_words and others == pytest.approx(numbers, rel=0.1, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_shows(page: Path) -> None:
    """As `python scripts/tutorials.py` writes it."""
    if page == ADAPTERS and importlib.util.find_spec("laplace") is None:
        pytest.skip("laplace-torch is not installed")
    shown = list(tutorials.printed(page.read_text("utf-8")))
    assert shown
    for block, output in shown:
        assert agrees(block[3], output), f"{page}: shows\n{block[3]}\nbut prints\n{output}"


def test_what_a_page_shows_is_compared() -> None:
    page = "```sh\necho 0.5 good > x; cat x\n```\n\n```text\n0.5 good\n```\n\nor\n\n```text\nanything\n```\n"
    ((block, output),) = tutorials.printed(page)
    assert (block[3], output) == ("0.5 good\n", "0.5 good\n")
    assert agrees("a  0.50 ± 0.1*\n──", "a 0.51 ± 0.11")
    assert not agrees("a 0.50", "a 0.60") and not agrees("a 0.50", "b 0.50") and not agrees("a", "a 1")
    with pytest.raises(RuntimeError, match=r"\b3\b"):
        list(tutorials.printed("```sh\nexit 3\n```\n"))
    ((_, output),) = tutorials.printed('```python title="x.py"\nprint(7)\n```\n```sh\npython x.py\n```\n```text\n```\n')
    assert output == "7\n"
