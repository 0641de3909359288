"""Write the ranking of every method on the generated problems: a table for each temperature.

    python scripts/testbed_page.py RECORDS     (bdlbench installed)

RECORDS is a folder of records of the suite `testbed`. Writes RECORDS/README.md.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from textwrap import fill

import pandas as pd

from bdlbench.records import reading
from bdlbench.records.record import Record
from bdlbench.report.text_table import Field, Sheet, markdown

TARGETS = {"testbed_kl": 1, "testbed_kl_dyadic": 10}
"""The metrics, and how many targets each is of."""

HEAD = (
    "The suite `testbed` ([what it is](../../docs/testbed.md)): KL of predictions from the true class "
    "probabilities, of one target and of ten targets of two inputs, divided by what a uniform prediction has "
    "on the same problems: 0 is the truth, 1 knows nothing. Means over all kinds of problem ± standard errors "
    "over seeds, each of which is another problem of every kind; then the KL of ten targets by training "
    "examples for each input. Seconds of training, five seeds at once, on one core of a busy machine. The "
    "nearest in ten targets first. No option was searched for. Numbers of the authors are in figures only, of "
    "agents that were searched for on all 36 kinds of problem: not comparable. Made by `python "
    "scripts/testbed_page.py results/testbed`."
)


def main(folder: Path) -> None:
    """Read the records and write the page."""
    source = reading.read(folder)
    frame = pd.DataFrame([row for record in source.records for row in rows(record)])
    lines = ["# Every method beside the truth", "", fill(HEAD, 120, break_long_words=False, break_on_hyphens=False), ""]
    for temperature, part in frame.groupby("temperature"):
        ratios = sorted(set(part.ratio))
        whole = {name: of_method(own) for name, own in part.groupby("method")}
        by_ratio = {
            ratio: {name: of_method(own)["testbed_kl_dyadic"] for name, own in of_ratio.groupby("method")}
            for ratio, of_ratio in part.groupby("ratio")
        }
        seconds = part.drop_duplicates(["method", "problem"]).groupby("method")["seconds"].sum()
        problems = part.groupby("method")["problem"].nunique()
        order = sorted(whole, key=lambda name: whole[name]["testbed_kl_dyadic"])
        sheet = Sheet(
            f"T = {temperature:g}",
            ("method", "one target", "ten targets", *(f"ten, ratio {ratio}" for ratio in ratios), "train_seconds"),
            tuple(
                tuple(
                    Field(text)
                    for text in (
                        name,
                        *(told(*whole[name][metric]) for metric in TARGETS),
                        *(told(*by_ratio[ratio].get(name, (math.nan, math.nan))) for ratio in ratios),
                        f"{seconds[name]:.1f}",
                    )
                )
                for name in order
            ),
        )
        lines += [f"## T = {temperature:g}", "", markdown(sheet).partition("\n\n")[2].rstrip(), ""]
        lines += [
            f"{name}: only {count} of {problems.max()} kinds of problem, so its means are of others." + "\n"
            for name, count in problems.items()
            if count < problems.max()
        ]
    failed = [f"{one.cell.method.name}: {len(one.failed)} seeds failed." for one in source.records if one.failed]
    (folder / "README.md").write_text("\n".join([*lines, *failed]).rstrip() + "\n", "utf-8")


def rows(record: Record) -> list[dict[str, object]]:
    """Return a row for each seed of a record: its problem, the two KLs, and those of a uniform prediction, in nats."""
    cell, metrics = record.cell, record.values.metrics
    if "testbed_kl_dyadic" not in metrics:
        return []
    data = cell.dataset
    about = {
        "method": cell.method.name,
        "temperature": data.get("temperature", 0.1),
        "ratio": data.get("train_ratio", 10),
        "problem": (data.get("input_dim", 2), data.get("train_ratio", 10)),
        "seconds": record.train_seconds,
    }
    classes = data.get("num_classes", 2)
    return [
        {
            **about,
            "seed": replicate.seed,
            **{name: metrics[name].numbers[i] for name in TARGETS},
            **{
                f"uniform {name}": count * (math.log(classes) - metrics["oracle_entropy"].numbers[i])
                for name, count in TARGETS.items()
            },
        }
        for i, replicate in enumerate(record.replicates)
    ]


def of_method(part: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return, for each metric, the ratio of a method's mean to the uniform prediction's, and its standard error.

    The error is that of the means of seeds, as in the authors' leaderboard, over the same denominator.
    """
    found = {}
    for name in TARGETS:
        scale = part[f"uniform {name}"].mean()
        found[name] = (part[name].mean() / scale, part.groupby("seed")[name].mean().sem() / scale)
    return found


def told(mean: float, error: float) -> str:
    """Write `0.41 ± 0.02`, or nothing where there is no number."""
    return "" if math.isnan(mean) else f"{mean:.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
