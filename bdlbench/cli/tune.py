"""`tune`: search the options of a suite's methods, with equal budgets, on held-out training rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlbench.cli.options import ExecutorOption, JobsOption, PluginsOption, Replaced, add_plugins
from bdlbench.core.errors import INCOMPLETE, Interrupted

if TYPE_CHECKING:
    from bdlbench.runs.search import TrialBatch


def tune(  # noqa: PLR0913 - one parameter for each option of the command
    suite: Annotated[str, typer.Argument(help="a suite of the package (see: list suites)  [default: quick]")] = "",
    budget: Annotated[int, typer.Option(metavar="EPOCHS", help="epochs of the last rung, for every method")] = ...,  # type: ignore[assignment]
    trials: Annotated[int, typer.Option(help="settings of each method, its defaults included")] = 24,
    replicates: Annotated[int, typer.Option(help="how often each setting is trained")] = 3,
    validation: Annotated[float, typer.Option(metavar="SHARE", help="of the training rows, held out to score")] = 0.2,
    seed: Annotated[int, typer.Option(help="decides the settings and the replicates")] = 0,
    method: Annotated[list[str], typer.Option(metavar="NAME", help="replaces the suite's; repeatable")] = [],  # noqa: B006
    model: Annotated[str, typer.Option(metavar="NAME", help="one of a grid's  [default: its first]")] = "",
    dataset: Annotated[str, typer.Option(metavar="NAME", help="one of a grid's  [default: its first]")] = "",
    keep: Annotated[
        list[str], typer.Option(metavar="OPTION", help="an option that keeps the suite's value; repeatable")
    ] = [],  # noqa: B006
    set_: Annotated[
        list[str], typer.Option("--set", metavar="NAME.OPTION=VALUE", help="an option, not searched; repeatable")
    ] = [],  # noqa: B006
    samples: Annotated[int | None, typer.Option(metavar="M", help="posterior samples of a predictive")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(help="threads of each batch; they affect the bits")] = 1,
    jobs: JobsOption = 0,
    executor: ExecutorOption = "",
    results: Annotated[Path, typer.Option(metavar="DIR", help="where the table of trials goes")] = Path(
        "results/local/search"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="search again what the table holds")] = False,
    config: Annotated[Path | None, typer.Option(metavar="SUITE.toml", help="a suite of your own")] = None,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Search the options of a suite's methods on held-out training rows: equal trials and epochs for every method.

    One model and one data set of a grid are searched. All trials are written to DIR/SUITE.csv, and the winners are
    printed as a suite's options. A stopped search resumes where it was.
    """
    from bdlbench.runs import executors, suites, work
    from bdlbench.runs import search as searching

    executors.refuse_unknown(executor)
    add_plugins(plugin, replaced)
    found = suites.find_suite(suite, config)
    file = results / f"{Path(found.file).stem}.csv"
    protocol = searching.SearchProtocol(trials, budget, replicates, validation, seed)
    names = (tuple(method), (model,) if model else (), (dataset,) if dataset else ())
    asked = suites.Overrides(*names, "", samples, tuple(set_), device, threads)
    plan = searching.plan(found, asked, protocol, tuple(keep))
    for line in (*plan.left_out, *plan.unsupported):
        print(line, file=sys.stderr, flush=True)
    first = plan.contenders[0].cells[0][0]
    workers = work.processes(jobs, first, len(plan.contenders) * replicates)

    def report(batch: TrialBatch, seconds: float, left: float) -> None:
        words = f"{seconds:.1f} s; about {spelled(left)} left" if left else f"{seconds:.1f} s"
        print(f"{searching.headline(protocol, batch)}, {words}", file=sys.stderr, flush=True)

    try:
        rows = searching.perform(plan, file, workers, fresh, report, executor)
    except KeyboardInterrupt:
        if not file.is_file():
            raise Interrupted("interrupted before the first batch was done: nothing is kept") from None
        raise Interrupted(
            f"interrupted; what is done is kept in {file}: the same command {'without --fresh ' * fresh}resumes"
        ) from None
    won, lost = searching.outcome(plan, rows)
    for line in lost:
        print(line, file=sys.stderr)
    print(searching.as_toml(file, won))
    if plan.unsupported or lost:
        raise typer.Exit(INCOMPLETE)


def spelled(seconds: float) -> str:
    """Write a time for people: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
