"""`claims`: run the experiments on the lecture's claims, judge them, and write one page."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlbench.cli.options import ExecutorOption, JobsOption, PluginsOption, Replaced, add_plugins
from bdlbench.cli.results import print_other_code
from bdlbench.cli.run import print_outdated, train
from bdlbench.cli.terminal import screen, write
from bdlbench.core.errors import DataUnavailable

if TYPE_CHECKING:
    from bdlbench.studies.experiment import Experiment
    from bdlbench.studies.verdicts import Study

CLAIMS = Path("results/claims")


def claims(
    name: Annotated[str, typer.Argument(help="a claim, or your own CLAIMS.py  [default: all of the package]")] = "",
    full: Annotated[bool, typer.Option("--full", help="the paper sizes, where data are at hand")] = False,
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="where records, page and figures go  [default: results/claims]")
    ] = CLAIMS,
    jobs: JobsOption = 0,
    executor: ExecutorOption = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    stored: Annotated[bool, typer.Option("--stored", help="judge existing records; train nothing")] = False,
    listed: Annotated[bool, typer.Option("--list", help="list the claims; run nothing")] = False,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Run an experiment for each of the lecture's claims, and say which hold."""
    from bdlbench.runs import executors
    from bdlbench.studies import page, registry, verdicts

    executors.refuse_unknown(executor)
    add_plugins(plugin, replaced)
    asked = registry.load(name)
    if full:
        asked = registry.of_paper_size(asked)
    if listed:
        for key, claim in asked.items():
            print(f"{key}: {claim.title}" + (" (--full is larger)" if claim.full else ""))
        return
    folder = results / "full" if full else results
    studies = []
    for key, claim in asked.items():
        studies.append(_study(key, claim, full, folder / key, (jobs, executor, device), stored))
        write(page.text(studies[-1], screen()[1]))
    place = folder / (studies[0].name if len(studies) == 1 else Path(name).stem) if name else folder
    print(f"{page.counted(studies)}; page: {page.write(studies, place)}")
    raise typer.Exit(verdicts.exit_code(studies))


def _study(key: str, claim: Experiment, full: bool, folder: Path, where: tuple[int, str, str], stored: bool) -> Study:
    """Train what is missing of a claim's cells, and judge it."""
    from bdlbench import api
    from bdlbench.runs import suites, work
    from bdlbench.runs.batch import Settings
    from bdlbench.studies import verdicts
    from bdlbench.studies.experiment import Readings

    jobs, executor, device = where
    spec = suites.build_spec(claim.protocol(full).suite, suites.Overrides(device=device))
    job = work.plan(spec, Settings(folder), any_code=stored)
    if not stored:
        print_outdated(job, "--stored judges the records as they are", sys.stderr)
        try:
            job, _ = train(job, work.workers(jobs, job), executor)
        except DataUnavailable as error:
            return verdicts.Study(key, claim, full, missing=str(error))
    held = work.held(job)
    if stored:
        print_other_code(held.records)
    for finding in () if stored else work.findings_of(job, held.records):
        print(finding, file=sys.stderr)
    found = held.results
    if lacking := len(spec.cells) - sum(set(result.replicates) >= set(spec.replicates) for result in found):
        return verdicts.Study(key, claim, full, missing=f"{lacking} of {len(spec.cells)} cells lack replicates")
    made = [record for result in found for record in result.records]
    shares = [(len(record.replicates) + len(record.failed)) / record.batch_rows for record in made]  # of its batch
    seconds = math.fsum(share * (record.seconds or 0.0) for share, record in zip(shares, made, strict=True))
    failed = {(record.key, name): reason for record in made for name, reason in record.unscored.items()}
    return verdicts.study(key, claim, Readings(api.frame_of(found), failed), full, seconds)
