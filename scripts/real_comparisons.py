"""Run `compare` on real runs: one method against itself, two methods that should agree, and VI without its KL.

    python scripts/real_comparisons.py RUNS docs/statistics.md

RUNS is a folder for the trainings, which are resumed where they exist (half an hour on two cores): 100
seeds of five methods of the suite `quick` on `digits` and `digits_near`, so that each cell gives ten comparisons of
five seeds against five others; `map` with a prior of standard deviation 1e6 beside `mle`; and mean-field VI with and
without its KL on `diabetes`, by a plugin (weighted_kl.py).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bdlbench import api, catalog
from bdlbench.compare import margins, pairs
from bdlbench.compare.differences import LEVEL, judge
from bdlbench.compare.pairs import Comparison
from bdlbench.records import reading
from bdlbench.records import record as records
from bdlbench.records.reading import Source
from bdlbench.report import verdicts

METHODS = ("mle", "map", "mc_dropout", "dropconnect", "mean_field_vi")
DATASETS = ("digits", "digits_near")
GROUPS, SIZE = 10, 5
MARKS = ("<!-- real -->", "<!-- end real -->")
HERE = Path(__file__).parent


def train(runs: Path) -> None:
    """Run the missing trainings."""
    common = {"model": "mlp", "dataset": DATASETS}
    api.run("quick", results=runs / "seeds", method=METHODS, seeds=f"0-{2 * GROUPS * SIZE - 1}", **common)
    wide = {"map.prior_sd": 1e6}
    api.run("quick", results=runs / "wide", method=["mle", "map"], set=wide, seeds="5", **common)
    for weight in (1.0, 0.0):
        settings = {"weighted_vi.epochs": 600, "weighted_vi.learning_rate": 3e-3, "mlp.noise_sd": 0.7}
        settings["mlp.widths"] = (100,)
        settings["weighted_vi.kl_weight"] = weight
        cell = {"method": "weighted_vi", "model": "mlp", "dataset": "diabetes", "seeds": 5}
        api.run("quick", results=runs / f"kl_{weight:g}", set=settings, plugin=HERE / "weighted_kl.py", **cell)


def groups(runs: Path, method: str, dataset: str) -> Iterator[Source]:
    """Return the cell's replicates in groups of five."""
    (record,) = [
        r for r in records.read(runs / "seeds") if (r.cell.method.name, r.cell.dataset.name) == (method, dataset)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for start in range(0, 2 * GROUPS * SIZE, SIZE):
            folder = Path(scratch) / str(start)
            folder.mkdir()
            for ending in (".json", ".safetensors"):
                shutil.copy(runs / "seeds" / f"{record.name}{ending}", folder)
            records.without(folder, record, {r for r in record.replicates if not start <= r.seed < start + SIZE})
            yield reading.read(folder)


def null_comparisons(runs: Path, allowed: dict[str, float]) -> Iterator[str]:
    """Return a row for each cell: how many of its ten comparisons differ at margin zero, and the verdicts."""
    total: Counter[str] = Counter()
    for dataset in DATASETS:
        for method in METHODS:
            sides = groups(runs, method, dataset)
            counts: Counter[str] = Counter()
            for a, b in zip(sides, sides, strict=True):
                found = pairs.compare(a, b, allowed).findings
                strict = judge([replace(finding, margin=0.0) for finding in found])
                counts["tests"] += len(found)
                counts["raw"] += sum(f.p_value <= LEVEL for f in found)
                counts["differ"] += any(f.verdict in ("better", "worse") for f in strict)
                counts["regressions"] += any(f.verdict == "worse" for f in found)
                counts += Counter(f.verdict for f in found)
            total += counts
            print(dataset, method, dict(counts), flush=True)
            yield row(dataset, method, GROUPS, counts)
    yield row("all", "", GROUPS * len(METHODS) * len(DATASETS), total)


def row(dataset: str, method: str, comparisons: int, counts: Counter[str]) -> str:
    numbers = [counts[name] for name in ("differ", "regressions", "tests", "raw", "equivalent", "inconclusive")]
    return "| " + " | ".join([dataset, method, str(comparisons), *map(str, numbers)]) + " |"


def verdict_lines(found: Comparison) -> str:
    """Return only the verdicts, as a table."""
    return verdicts.render(found, "markdown").partition("<details>")[0]


def main(runs: Path, path: Path) -> None:
    """Write the section between the marks of the document."""
    train(runs)
    allowed = margins.read(HERE.parent / "pyproject.toml", catalog.names("metrics"))
    text = "One method's five seeds against five others (disjoint, so unpaired):\n\n"
    text += "| data set | method | comparisons | differ at zero margin | regressions at the margins "
    text += "| metrics | p ≤ 5 % uncorrected | equivalent | inconclusive |\n"
    text += "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: |\n"
    text += "\n".join(null_comparisons(runs, allowed)) + "\n\n"
    wide = api.compare(runs / "wide", runs / "wide", margins=allowed, treatment=("mle", "map"))
    text += f"`mle` against `map` with `prior_sd` 1e6, five seeds:\n\n{verdict_lines(wide)}\n"
    dropped = api.compare(runs / "kl_1", runs / "kl_0", margins=allowed, ignore_options=True)
    text += f"Mean-field VI against itself with the KL dropped:\n\n{verdict_lines(dropped)}"
    document = path.read_text("utf-8")
    before, after = document.split(MARKS[0])[0], document.split(MARKS[1])[1]
    path.write_text(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
