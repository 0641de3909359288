"""`run`: train what is missing from a suite, show progress, and print its table."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from bdlbench.cli.listing import data_state
from bdlbench.cli.options import (
    ExecutorOption,
    JobsOption,
    MetricsOption,
    ModulesOption,
    PluginsOption,
    Replaced,
    add_plugins,
    listed,
)
from bdlbench.cli.results import print_failures, print_faults, print_machines, print_options_in_force
from bdlbench.cli.terminal import screen, write
from bdlbench.core.errors import INCOMPLETE, BadInput, Interrupted, unknown
from bdlbench.core.memory import cycles_kept

if TYPE_CHECKING:
    from bdlbench.core.spec import Cell
    from bdlbench.runs.work import Job


def run(  # noqa: PLR0913 - one parameter for each option of the command
    suite: Annotated[str, typer.Argument(help="a suite of the package (see: list suites)  [default: quick]")] = "",
    method: Annotated[list[str], typer.Option(metavar="NAME", help="replaces the suite's; repeatable")] = [],  # noqa: B006
    model: Annotated[list[str], typer.Option(metavar="NAME", help="replaces the suite's; repeatable")] = [],  # noqa: B006
    dataset: Annotated[list[str], typer.Option(metavar="NAME", help="replaces the suite's; repeatable")] = [],  # noqa: B006
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="5 (0 to 4), 0-9 or 1,4,7")] = "",
    splits: Annotated[str, typer.Option(help="one: every seed on split 0; each: seed i on split i")] = "",
    samples: Annotated[int | None, typer.Option(metavar="M", help="posterior samples of a predictive")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(help="threads of each batch; they affect the bits")] = 1,
    jobs: JobsOption = 0,
    executor: ExecutorOption = "",
    shard: Annotated[str, typer.Option(metavar="I/N", help="one of N parts of the suite, for N machines")] = "",
    results: Annotated[Path, typer.Option(metavar="DIR", help="where records go")] = Path("results/local"),
    metrics: MetricsOption = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="train everything again")] = False,
    any_code: Annotated[
        bool, typer.Option("--any-code", help="keep records even if their method or bdlbench has changed since")
    ] = False,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="NAME.OPTION=V1,V2", help="an option; a list sweeps; repeatable")
    ] = [],  # noqa: B006
    config: Annotated[Path | None, typer.Option(metavar="SUITE.toml", help="a suite of your own")] = None,
    plugin: PluginsOption = [],  # noqa: B006
    module: ModulesOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be trained; write nothing")] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(metavar="PRICE", help="of a worker, in any currency: --dry-run says the cost")
    ] = None,
    checkpoint_every: Annotated[
        float, typer.Option(metavar="SECONDS", help="time between checkpoints of a fit")
    ] = 60.0,
    keep_parameters: Annotated[
        bool, typer.Option("--keep-parameters", help="write parameters beside the records")
    ] = False,
) -> None:
    """Train what is missing from a suite, and print its table. A stopped run resumes where it was."""
    from bdlbench import catalog
    from bdlbench.report import tables
    from bdlbench.runs import executors, shards, suites, work
    from bdlbench.runs.batch import Settings

    executors.refuse_unknown(executor)
    if price_per_hour is not None:
        if not dry_run:
            raise BadInput("--price-per-hour is for an estimate: add --dry-run")
        if not 0 <= price_per_hour < math.inf:
            raise BadInput(f"--price-per-hour {price_per_hour} is out of range: a number from 0, such as 0.40")
    modules = add_plugins(plugin, replaced, module)
    for name in listed(metrics):
        if name.partition("[")[0] not in (known := {*catalog.names("metrics"), *tables.COSTS}):
            raise unknown("metric", name, known)
    names = (tuple(method), (*model, *modules), tuple(dataset))
    asked = suites.Overrides(*names, seeds, samples, tuple(set_), device, threads, splits)
    settings = Settings(results, checkpoint_every, keep_parameters)
    spec = suites.build_spec(suites.find_suite(suite, config), asked)
    job = work.plan(shards.part_of(spec, shard) if shard else spec, settings, fresh, any_code)
    workers = work.workers(jobs, job)
    print_outdated(job, "--any-code keeps the records")
    if dry_run:
        _print_plan(job, workers, price_per_hour)
        return
    job, written = train(job, workers, executor)
    if _print_results(job, listed(metrics)) or not written:
        raise typer.Exit(INCOMPLETE)


def train(job: Job, workers: int, executor: str) -> tuple[Job, bool]:
    """Train what is missing from a job, with progress on stderr. Return the prepared job, and whether all was written.

    Raises Interrupted on Ctrl-C.
    """
    from bdlbench.runs import progress, work

    job = work.prepare(job)
    for line in work.left_out(job):
        print(line, file=sys.stderr, flush=True)
    try:
        with progress.reporting(job.batches, sys.stderr) as hear:
            outcomes = work.perform(job, workers, hear, executor)
    except KeyboardInterrupt:
        kept = f"what is done is kept in {job.results}"
        if job.fresh:
            kept += f", what it replaces in its folder {work.REPLACED}"
        again = "without --fresh " if job.fresh else ""
        raise Interrupted(f"interrupted; {kept}: the same command {again}resumes where it was") from None
    return job, not any(outcome.unwritten for outcome in outcomes)


def print_outdated(job: Job, otherwise: str, file: TextIO | None = None) -> None:
    """Print why records are trained again, and which of their replicates are kept nevertheless.

    Args:
        job: The job.
        otherwise: What would use them as they are.
        file: Where to; None is stdout.
    """
    say = partial(print, file=file)
    titles = {cell.key: cell.title for cell in job.spec.cells}
    by_reason: dict[str, list[str]] = {}
    for record, reason in job.outdated:
        by_reason.setdefault(reason, []).append(titles[record.key])
        left = sorted({replicate.seed for replicate in set(record.replicates) - set(job.spec.replicates)})
        if left:
            say(f"kept from other code: {titles[record.key]}, seeds {_ranges(left)}; name these seeds to train them")
    from bdlbench.runs import provenance

    edited = {name for record in job.existing for name, why in record.unscored.items() if why == provenance.EDITED}
    cells = {cell.key for cell in job.spec.cells}
    if job.spec.curves and not job.fresh:
        plain = {r.key for r in job.existing if r.key in cells and r.replicates and not r.values.curves}
        if plain := plain.difference(cell.key for batch in job.batches for cell in batch.cells):
            say(f"without curves, as they were trained before: {len(plain)} of {len(cells)} cells (--fresh measures)")
    for name in sorted(edited):
        say(f"to be scored again from stored predictions, since its source has changed: metric {name}")
    for reason, which in by_reason.items():
        what = ", ".join(which) if len(which) < 4 else f"{len(which)} cells"
        say(f"to be trained again, since {reason}: {what} ({otherwise})")


def _print_plan(job: Job, workers: int, price: float | None) -> None:
    """Print what would be trained, the state of the data, and an estimate of the time and, for a price, the cost."""
    from bdlbench.report import tables
    from bdlbench.runs import suites, work

    refused = {**job.skipped, **work.refused(job)}
    job = replace(job, batches=tuple(batch for batch in job.batches if batch.cells[0] not in refused))
    missing: dict[Cell, list[int]] = {cell: [] for cell in job.spec.cells}
    for batch in job.batches:
        for row in batch.rows:
            missing[row.cell].append(row.replicate.seed)
    for cell, seeds in missing.items():
        todo = f"{len(seeds)} to train (seeds {_ranges(seeds)})" if seeds else "done"
        print(f"{cell.title}: {f'skipped: {refused[cell]}' if cell in refused else todo}")
        for kind, choice in zip(suites.CELL_KINDS, (cell.method, cell.model, cell.dataset), strict=True):
            if words := tables.all_options(kind, choice):
                print(f"    {choice.name}: {words}")
        if cell.tuning:
            print(f"    {cell.tuning.words}")
    if job.spec.curves:
        print(f"curves of the test set: {job.spec.curves}")
    for name in dict.fromkeys(cell.dataset.name for cell, seeds in missing.items() if seeds):
        print(f"data set {name}: {data_state(name)}")
    rows = sum(map(len, missing.values()))
    print(f"{rows} replicates in {len(job.batches)} batches, {workers} at a time\n{_estimate(job, workers, price)}")


def _estimate(job: Job, workers: int, price: float | None) -> str:
    """Estimate hours, memory and cost of what would be trained, for this many workers, and say how far off that is.

    The price is of an hour of one worker.
    """
    from bdlbench.runs import costs, loading
    from bdlbench.runs.budget import spelled

    if not job.batches:
        return "nothing to do"
    known = []
    for batch in job.batches:
        try:
            if loading.is_at_hand(batch.cells[0].dataset):
                costs.size_of_batch(batch)
                known.append(batch)
        except BadInput:  # `run` says it when it comes to it
            continue
    if not known:
        return "no estimate before their data are here"
    told = costs.forecast(known, job.existing)
    together, longest = told.with_workers(workers), max(told.seconds)
    hours = f"about {spelled(together)} with {workers} worker{'s' * (workers > 1)}"
    if workers > 1:
        hours += f", {spelled(told.work)} with one (the longest batch alone: {spelled(longest)})"
    work, held = told.work / 3600, together * workers / 3600
    needed = f"{_rounded(work)} worker-hours; up to {told.peak_bytes / 2**30:.1f} GiB for each worker"
    lines = [f"{hours}; {needed}"]
    if price is not None:
        at_most = f", {held * price:,.2f} if all {workers} are paid until the last ends" if workers > 1 else ""
        lines.append(f"cost: about {work * price:,.2f} at {price:g} for each worker-hour{at_most}")
    by_size = len(known) - told.by_record
    if by_size:
        median, most = costs.fitted().train_seconds.within
        lines.append(
            f"{told.by_record} batches by the recorded cost of equal cells, {by_size} by size: of cells left out of "
            f"that fit, half were within a factor {median:.1f}, nine of ten within {most:.1f}"
        )
    else:
        lines.append("by the recorded cost of equal cells")
    if left := len(job.batches) - len(known):
        lines.append(f"no estimate of {left} batches, whose data are not here")
    return "\n".join(lines)


def _rounded(number: float) -> str:
    """Write a number to two digits, or as a whole one."""
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


@cycles_kept()
def _print_results(job: Job, metrics: Sequence[str]) -> bool:
    """Print the table and what is missing from it. Return whether anything asked for is missing."""
    from bdlbench.report import tables
    from bdlbench.runs import work

    held = work.held(job, metrics)
    done = [result for result in held.results if result.replicates]
    if done:
        write(tables.render(done, "terminal", metrics, "", *screen()))
        print_options_in_force(done)
        print_machines(done, metrics)
    left_out = [*work.left_out(job), *work.missing(job, held)]
    for line in left_out:
        print(line)
    failed = print_failures(held.results)
    print_faults(held.faults)
    for line in held.untold:
        print(line)
    for finding in work.findings_of(job, held.records):
        print(finding)
    count = sum(len(result.replicates) for result in done)
    trained = sum(len(batch.rows) for batch in job.batches)
    print(f"{count} replicates of {len(done)} cells in {job.results}; {trained or 'none'} had to be trained now")
    return failed or bool(left_out or held.faults.damaged or held.faults.gone or held.faults.unread)


def _ranges(seeds: Sequence[int]) -> str:
    """Write seeds as ranges: 0-4,7."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
