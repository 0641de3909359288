"""Measure 20 splits trained as rows of one batch beside the same splits trained one after the other.

    python scripts/splits_together.py [--dataset boston …] [--epochs 40] [--samples 1000] [--repeats 3]
    python scripts/splits_together.py --whole

The first form takes the protocol of the suite gal2016 (MC dropout, 50 hidden units, batches of 32) with another budget
and fewer samples, and no less of anything else: one process, one thread, the two ways in turn. Seconds are those of the
processor, from the loaded data to the written records, so other work on the machine counts little; the ratio is the
median of each repeat's own. Exit code 1 if a bit of a split differs between the two ways.

`--whole` is the protocol as published, 400 epochs and 10,000 samples: the five small sets with 20 splits each, two
processes, in seconds of the wall. It needs a machine that does nothing else. Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bdlbench import api
from bdlbench.records.record import Record
from bdlbench.runs import suites
from bdlbench.runs.batch import Batch, Settings, batches, run_batch

SMALL = ("boston", "concrete", "energy", "wine_quality", "yacht")


class Turn(NamedTuple):
    """One repeat: processor seconds of both ways, and whether every split has the same bits."""

    together: float
    alone: float
    same_bits: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of one form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", nargs="+", default=["boston"], metavar="NAME")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.whole:
        with tempfile.TemporaryDirectory(prefix="bdlbench-") as folder:
            began = time.monotonic()
            api.run("gal2016", dataset=list(SMALL), results=Path(folder), jobs=2)
            seconds = time.monotonic() - began
        print(f"{', '.join(SMALL)}: 20 splits each, 400 epochs, 10,000 samples, two processes: {seconds:.0f} s")
        return 0
    print("| set | epochs | samples | 20 splits together | one after the other | ratio |")
    print("| --- | --: | --: | --: | --: | --: |")
    same = True
    for name in asked.dataset:
        settings = (f"mc_dropout.epochs={asked.epochs}",)
        overrides = suites.Overrides(datasets=(name,), samples=asked.samples, settings=settings, device="cpu")
        (batch,) = batches(suites.build_spec(suites.read_suite("gal2016"), overrides), [])
        turns = [one_turn(batch) for _ in range(asked.repeats)]
        together, alone = (median(getattr(turn, way) for turn in turns) for way in ("together", "alone"))
        ratio = median(turn.alone / turn.together for turn in turns)
        print(f"| {name} | {asked.epochs} | {asked.samples:,} | {together:.1f} s | {alone:.1f} s | {ratio:.1f} |")
        same &= all(turn.same_bits for turn in turns)
    print(f"\nEvery split has {'the same bits' if same else 'OTHER BITS'} both ways.")
    return 0 if same else 1


def one_turn(batch: Batch) -> Turn:
    """Train the rows of a batch at once, then each by itself."""
    (whole,), together = timed([batch])
    single, alone = timed([Batch((row,)) for row in batch.rows])
    hashes = tuple(record.values.parameters_sha256[0] for record in single)
    return Turn(together, alone, hashes == whole.values.parameters_sha256)


def timed(work: Sequence[Batch]) -> tuple[list[Record], float]:
    """Run batches one after the other in a folder that is then removed; return their records, and processor seconds."""
    with tempfile.TemporaryDirectory(prefix="bdlbench-") as folder:
        began = time.process_time()
        records = [record for batch in work for record in run_batch(batch, Settings(Path(folder))).records]
        return records, time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
