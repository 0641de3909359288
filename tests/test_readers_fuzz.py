"""Readers of text that people write or a run wrote: whatever stands in a file, it is read, or refused in one line.

Words of a right file are replaced, repeated, removed, swapped, or take odd ones in their place: papers with their
tables, margins, trials of a search, suites, and what the gate's reference holds. Short and always the same here;
`BDLBENCH_FUZZ_EXAMPLES=20000` looks further.
"""

from __future__ import annotations

import importlib.util
import os
import random
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
spec = importlib.util.spec_from_file_location("word_changes", ROOT / "scripts" / "word_changes.py")
spec.loader.exec_module(word_changes := importlib.util.module_from_spec(spec))
words_changed = word_changes.words_changed
EXAMPLES = int(os.environ.get("BDLBENCH_FUZZ_EXAMPLES", "60"))
PAPER = ROOT / "bdlbench" / "published" / "gal2016.toml"

ODD = [
    *b'0 -1 1e999 nan inf true "" [] {} [[ ]] = 1.5 x ../../x /etc/passwd \\ud800 , ; \' "'.split(),
    *(b"", b"9" * 20, b"9" * 5000, b"x" * 300, b"a.b.c = 1", b"\x1b[2J", b"\n", b"\x00", "\u202e".encode()),
]


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
        path.write_bytes(words_changed(text.encode(), ODD, draw))
        try:
            read(path)
        except BadInput as error:
            assert len(str(error)) < 2000 and "Traceback" not in str(error)
            ends["refused"] += 1
        else:
            ends["read"] += 1
    assert ends["refused"], ends
