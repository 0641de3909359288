"""Write the semi-supervised table from the records of the suite `semi_supervised`.

    python -m bdlbench run semi_supervised --results FOLDER
    python scripts/semi_supervised_table.py FOLDER results/vae             (bdlbench installed)

Writes semi_supervised.csv and .md: test accuracy of M2 and of the same classifier on the labels alone, and the paired
difference over the label draws that both have.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from bdlbench import api
from bdlbench.core.spec import Replicate
from bdlbench.records.cells import Result

ALONE, WITH = "mlp", "m2"


def main(folder: Path, out: Path) -> None:
    """Write both files."""
    out.mkdir(parents=True, exist_ok=True)
    rows = list(table(api.results_of(folder)))
    with (out / "semi_supervised.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| labels | model | training images without label | test accuracy | label draws |", "| --- " * 5 + "|"]
    lines += [f"| {r['labels']} | {r['model']} | {r['unlabelled']} | {percent(r)} | {r['n']} |" for r in rows]
    words = "Mean ± standard error over label draws; M2 − mlp: paired, in points."
    (out / "semi_supervised.md").write_text("\n".join(lines) + f"\n\n{words}\n")


def table(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Return for each number of labels the classifier alone, M2, and their difference."""
    found = {(int(r.cell.dataset.get("num_labelled")), r.cell.model.name): r for r in results}
    for labels in sorted({labels for labels, _ in found}):
        both = {name: accuracies(found[labels, name]) for name in (ALONE, WITH) if (labels, name) in found}
        for name, values in both.items():
            unlabelled = found[labels, name].cell.dataset.get("num_unlabelled", 0)
            yield row(labels, name, unlabelled, list(values.values()))
        if len(both) == 2:
            shared = both[ALONE].keys() & both[WITH].keys()
            yield row(labels, f"{WITH} − {ALONE}", "", [both[WITH][r] - both[ALONE][r] for r in sorted(shared)])


def accuracies(result: Result) -> dict[Replicate, float]:
    """Return the accuracy of each label draw."""
    return dict(result.scores["accuracy"].values)


def row(labels: int, model: str, unlabelled: object, values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard error and n."""
    error = stdev(values) / math.sqrt(len(values))
    numbers = {"accuracy": f"{fmean(values):.4f}", "standard_error": f"{error:.4f}", "n": len(values)}
    return {"labels": labels, "model": model, "unlabelled": unlabelled, **numbers}


def percent(row: dict[str, Any]) -> str:
    """Return a percentage as text."""
    return f"{100 * float(row['accuracy']):.2f} ± {100 * float(row['standard_error']):.2f} %"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
