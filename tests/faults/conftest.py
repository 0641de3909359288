"""What every injected fault did, for the table in docs/faults.md.

A test says what it injected and what must happen, in words; it asserts that it happened. `--faults-page` writes these
words into the page; without it each test compares its words with the page's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- faults -->", "<!-- end faults -->"
HEAD = "| fault | what is done | what happens | exit code | measured | test |\n|---|---|---|---|---|---|"

Tell = Callable[..., None]


def rows_of(page: str) -> dict[str, tuple[str, ...]]:
    """{name of a test and fault: cells} of the table between the two marks."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in table.splitlines() if "`" in line]
    return {f"{row[-1]} {row[0]}": row for row in rows}


def size_of(row: tuple[str, ...]) -> int:
    """Return how many times a fault was injected, by the number that its measurement begins with; 0 without one."""
    found = re.match(r"\d+", row[4])
    return int(found[0]) if found else 0


@pytest.fixture(scope="session")
def all_faults(request: pytest.FixtureRequest) -> bool:
    """Whether 200 kills and twenty processes are asked for, instead of a few."""
    return bool(request.config.getoption("--all-faults"))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Iterator[Tell]:
    """Say of a fault what was done, what happened, and with which exit code: words(…), measured="…" for numbers."""
    told: list[tuple[str, ...]] = []
    test = f"`{request.path.name.removesuffix('.py')}::{request.node.originalname}`"

    def say(fault: str, done: str, happens: str, code: int | str, measured: str = "") -> None:
        row = (fault, done, happens, str(code), measured, test)
        assert not any(re.search(r"[|\n]", cell) for cell in row), "these words stand in a cell of a table"
        told.append(row)

    yield say
    if not told:  # it has failed, or was skipped
        return
    page = PAGE.read_text("utf-8")
    rows = rows_of(page)
    if request.config.getoption("--faults-page"):
        for row in told:
            written = rows.get(name := f"{row[-1]} {row[0]}", row)
            if written[:4] != row[:4] or size_of(row) >= size_of(written):  # more of them were measured before
                rows[name] = row
        lines = "\n".join("| " + " | ".join(row) + " |" for _, row in sorted(rows.items()))
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{HEAD}\n{lines}\n\n{END}{rest.partition(END)[2]}", "utf-8")
        return
    for row in told:
        written = rows.get(f"{row[-1]} {row[0]}", ())
        words = [(*cells[:4], cells[5]) if cells else () for cells in (row, written)]
        assert words[0] == words[1], "docs/faults.md says otherwise: pytest tests/faults --faults-page"
