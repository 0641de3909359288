"""docs/faults.md has the rows of the tests, and of no others."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.conftest import PAGE, rows_of


def test_every_test_has_its_rows_and_every_row_its_test() -> None:
    """The words of a row are compared by its own test."""
    pattern = re.compile(r"^def (test_\w+)\([^)]*\btell: Tell", re.M)
    made = {
        f"`{file.stem}::{name}`"
        for file in Path(__file__).parent.glob("test_*.py")
        for name in pattern.findall(file.read_text("utf-8"))
    }
    assert len(made) > 15
    assert {row[-1] for row in rows_of(PAGE.read_text("utf-8")).values()} == made
