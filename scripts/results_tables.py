"""Write the tables of the committed records into README.md and docs/results/, between their marks.

python scripts/results_tables.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
SCREEN = 118
"""Columns of the README's table."""


def tables() -> dict[tuple[str, str], str]:
    """Return the text between the marks of each file, by (file, mark)."""
    return {
        ("README.md", "digits table"): f"```text\n{_digits()}\n```",
        ("docs/results/quick.md", "quick table"): _printed("quick", "markdown"),
        ("docs/results/mnist.md", "mnist table"): _printed("mnist", "markdown"),
        ("docs/results/speed.md", "speed table"): _speed(),
    }


def _printed(suite: str, style: str) -> str:
    """Return the output of `table`, as a reader's own call prints it."""
    command = [sys.executable, "-m", "bdlbench", "table", str(REFERENCE / suite), "--format", style]
    environment = {**os.environ, "COLUMNS": str(SCREEN), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _digits() -> str:
    """Return only the table of `digits`, with the meaning of its numbers."""
    sections = re.split(r"\n\n(?=\S+.* · M = \d+\n)", "\n\n" + _printed("quick", "terminal"))
    (table,) = (section for section in sections if section.startswith("digits · "))
    meaning = re.search(r"^Mean.*?(?= The best of many)", sections[-1], re.DOTALL | re.MULTILINE)
    assert meaning, "the table says what its numbers mean"
    return f"{table.strip()}\n\n{meaning[0]}"


def _speed() -> str:
    """Return the ratios of training steps, a line for each method."""
    stored = json.loads((REFERENCE / "speed.json").read_text("utf-8"))
    cells = [(*name.split(" · "), ratio) for name, ratio in stored["ratios"].items()]
    works = sorted({work for _, work, _ in cells}, key=len)
    rows = {method: {work: ratio for m, work, ratio in cells if m == method} for method, _, _ in cells}
    about = stored["environment"]
    lines = [
        f"| method | {' | '.join(works)} |",
        f"| :-- |{' --: |' * len(works)}",
        *(
            f"| {method} | {' | '.join(f'{row[work]:.2f}' if work in row else '' for work in works)} |"
            for method, row in rows.items()
        ),
        "",
        f"{about['processor']}, {about['cpu_capability']}, torch {about['packages.torch']}. 64-100-10: five seeds at"
        " once, batches of 64; 784-300-100-10: one seed, batches of 100. A step of hmc is a whole trajectory.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Rewrite the text between the marks."""
    for (file, mark), table in tables().items():
        path = ROOT / file
        text = path.read_text("utf-8")
        block = f"<!-- {mark} -->\n\n{table}\n\n<!-- end -->"
        changed, count = re.subn(f"<!-- {mark} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{file}: must hold <!-- {mark} --> once, and holds it {count} times")
        path.write_text(changed, "utf-8")


if __name__ == "__main__":
    main()
