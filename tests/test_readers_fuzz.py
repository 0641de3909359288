"""Readers of text that people write or a run wrote: whatever stands in a file, it is read, or refused in one line.

Words of a right file are replaced, repeated, removed, swapped, or take odd ones in their place: papers with their
tables, margins, trials of a search, suites, and what the gate's reference holds. Short and always the same here;
`BDLBENCH_FUZZ_EXAMPLES=20000` looks further.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bdlbench import catalog
from bdlbench.compare import margins
from bdlbench.core.errors import BadInput
from bdlbench.gate import checks, objectives
from bdlbench.reproduce import papers
from bdlbench.runs import search, suites
from bdlbench.runs.suites import Overrides

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLES = int(os.environ.get("BDLBENCH_FUZZ_EXAMPLES", "60"))
PAPER = ROOT / "bdlbench" / "published" / "gal2016.toml"

ODD = [
    *(
        "",
        "0",
        "-1",
        "1e999",
        "nan",
        "inf",
        "true",
        '""',
        "[]",
        "{}",
        "[[",
        "]]",
        "=",
        "9" * 20,
        "9" * 5000,
        "1.5",
        "x",
    ),
    *(
        "../../x",
        "/etc/passwd",
        "\x1b[2J",
        "\\ud800",
        "\n",
        "\x00",
        "\u202e",
        "x" * 300,
        ",",
        ";",
        "'",
        '"',
        "a.b.c = 1",
    ),
]


def changed(text: str, draw: random.Random) -> str:
    parts = re.findall(r'"[^"\n]*"|[\w.+-]+|\s+|.', text, re.DOTALL)
    for _ in range(draw.randint(1, 3)):
        i, j = draw.randrange(len(parts)), draw.randrange(len(parts))
        kind = draw.randrange(4)
        if kind == 0:
            parts[i] = draw.choice(ODD)
        elif kind == 1:
            parts[i:i] = parts[j : j + draw.randint(1, 20)]
        elif kind == 2:
            parts[i : i + draw.randint(1, 5)] = [" "]
        else:
            parts[i], parts[j] = parts[j], parts[i]
    return "".join(parts)


def of_suite(path: Path) -> None:
    suites.build_spec(suites.read_suite_file(path), Overrides(seeds="2"))


READERS: dict[str, tuple[Path, Callable[[Path], Any]]] = {
    "a paper": (PAPER, lambda path: papers.read(str(path))),
    "its table": (PAPER.with_suffix(".csv"), lambda path: papers.read(str(path.with_suffix(".toml")))),
    "margins": (ROOT / "pyproject.toml", lambda path: margins.read(path, catalog.names("metrics"))),
    "trials": (ROOT / "results" / "search" / "quick.csv", lambda path: search.winners(search.read(path))),
    "a suite": (ROOT / "bdlbench" / "suites" / "quick.toml", of_suite),
    "objectives": (
        ROOT / "results" / "reference" / "objectives.json",
        lambda path: objectives.differences(checks._read(path, objectives.is_measured), {}),
    ),
    "speeds": (ROOT / "results" / "reference" / "speed.json", lambda path: checks._read(path, checks._is_speed)),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_changed_file_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    source, read = READERS[kind]
    for file in source.parent.glob(f"{PAPER.stem}.*") if source.parent == PAPER.parent else ():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text, path = source.read_text("utf-8"), tmp_path / source.name
    path.write_text(text, "utf-8")
    read(path)
    text = text[:20_000] if kind == "trials" else text
    ends, draw = Counter[str](), random.Random(0 if EXAMPLES == 60 else None)
    for _ in range(EXAMPLES):
        path.write_text(changed(text, draw), "utf-8", newline="")
        try:
            read(path)
        except BadInput as error:
            assert len(str(error)) < 2000 and "Traceback" not in str(error)
            ends["refused"] += 1
        else:
            ends["read"] += 1
    assert ends["refused"], ends
