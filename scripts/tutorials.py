"""Run the blocks of tutorials in order, each tutorial in a fresh folder, and write what they print into it.

    python scripts/tutorials.py docs/first-steps.md docs/tutorials/*.md docs/adapters.md

A block with a title is a file; `sh` is run by bash, which ends at the first command that fails; `python` without a
title is run by Python. A `text` block right after a block that is run shows its standard output. Other blocks, such as
`shell`, are not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
SCREEN = 88
"""Columns of the output: the width of the site's code blocks on a laptop."""


def printed(page: str) -> Iterator[tuple[re.Match[str], str]]:
    """Run a page's blocks; yield every block that shows output, with the output of this run.

    Raises RuntimeError where a block fails, with the block and its output.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "COLUMNS": str(SCREEN), "PYTHONPATH": path, "PATH": _path()}
    ran, end = "", 0
    with tempfile.TemporaryDirectory() as folder:
        for block in FENCE.finditer(page):
            language, title, text = block.groups()
            follows = page[end : block.start()].strip() == "" and end > 0
            if title:
                (Path(folder) / title).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / title).write_text(text, "utf-8")
            elif language in ("sh", "python"):
                command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
                done = subprocess.run(
                    [*command, text], cwd=folder, env=environment, capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise RuntimeError(f"ended with {done.returncode}:\n{text}\n{done.stdout}\n{done.stderr}")
                ran = done.stdout
            elif language == "text" and follows:
                yield block, ran
            end = block.end()


def _path() -> str:
    """Return PATH as in an activated environment: `python` is this interpreter."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def main(pages: list[str]) -> None:
    """Rewrite the pages' outputs."""
    for name in pages:
        text = Path(name).read_text("utf-8")
        for block, output in reversed(list(printed(text))):
            text = text[: block.start(3)] + output.strip("\n") + "\n" + text[block.end(3) :]
        Path(name).write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
