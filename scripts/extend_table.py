"""Write the names in `bdlbench.extend`, a line for each, into the documentation.

python scripts/extend_table.py docs/plugins.md
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from bdlbench import extend

MARKS = ("<!-- extend -->", "<!-- end extend -->")
WORDS = {"PerRow": "A hyper-parameter that may differ between replicates: a number, or one for each row (R,)"}
"""Descriptions of names without a docstring of their own."""


def table() -> str:
    """Return the names with the first sentences of their docstrings."""
    rows = [f"| `{name}` | {_sentence(name, getattr(extend, name))} |" for name in extend.__all__]
    return "\n".join(["| name | what it is |", "| --- | --- |", *rows])


def _sentence(name: str, value: Any) -> str:
    first = WORDS.get(name) or (inspect.getdoc(value) or "").partition("\n")[0]
    return first.rstrip(".:").replace("|", "\\|")


def main(page: Path) -> None:
    """Write the table between its marks."""
    text = page.read_text("utf-8")
    block = f"{MARKS[0]}\n\n{table()}\n\n{MARKS[1]}"
    page.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: block, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
