"""Draw the package two levels deep, from the front door down, into the design.

python scripts/tree.py docs/design.md
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("<!-- tree -->", "<!-- end tree -->")


def tree(root: Path = ROOT) -> str:
    """Return folders and files by floor, the lowest last, with the first line of their docstrings."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return "\n".join(
        line for floor in floors for name in floor.split(" | ") for line in _drawn(root / "bdlbench", name)
    )


def _drawn(package: Path, name: str) -> Iterator[str]:
    folder = package / name
    where, title = (folder / "__init__.py", f"{name}/") if folder.is_dir() else (package / f"{name}.py", f"{name}.py")
    files = " ".join(sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__"))
    for line in (*textwrap.wrap(_summary(where), 98), *textwrap.wrap(files, 98)):
        yield f"    {title:<16}{line}"
        title = ""


def _summary(path: Path) -> str:
    return (
        (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0].partition(". ")[0].rstrip(".:")
    )


def main(design: Path) -> None:
    """Write the tree between its marks."""
    text = design.read_text("utf-8")
    block = f"{MARKS[0]}\n\n{tree()}\n\n{MARKS[1]}"
    design.write_text(re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: block, text, flags=re.DOTALL), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
