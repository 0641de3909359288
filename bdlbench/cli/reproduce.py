"""`reproduce`: run a paper's protocol as written, and compare its published numbers with the results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bdlbench.cli.options import ExecutorOption, JobsOption
from bdlbench.cli.results import print_other_code
from bdlbench.cli.run import print_outdated, train
from bdlbench.cli.terminal import screen, write
from bdlbench.core.errors import INCOMPLETE, NEGATIVE, BadInput, DataUnavailable

if TYPE_CHECKING:
    from bdlbench.reproduce.papers import Paper
    from bdlbench.reproduce.verdicts import Line

REPRODUCTIONS = Path("results/reproductions")


def reproduce(
    name: Annotated[str, typer.Argument(help="a paper, or your own PAPER.toml  [default: list all papers]")] = "",
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="where records go, in a folder named after the paper")
    ] = REPRODUCTIONS,
    jobs: JobsOption = 0,
    executor: ExecutorOption = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    stored: Annotated[bool, typer.Option("--stored", help="judge existing records; train nothing")] = False,
    page: Annotated[Path | None, typer.Option(metavar="FILE.md", help="write a page of all papers")] = None,
) -> None:
    """Run a paper's protocol, and say for each published number whether it is reproduced."""
    from bdlbench.reproduce import papers

    if page is not None:
        if name:
            raise BadInput(f"--page is of all papers: leave out {name}")
        _write_page(page, results)
        return
    if not name:
        for known in papers.names():
            paper = papers.read(known)
            causes = sum(bool(row.cause) for row in paper.rows)
            rows = f"{len(paper.rows)} number{'s' * (len(paper.rows) != 1)}" + (
                f", {causes} not comparable" if causes else ""
            )
            suite = f"suite {paper.suite}" if paper.suite else "no suite of it yet"
            print(f"{known}: {paper.citation}; {rows}; {suite}")
        return
    paper = papers.read(name)
    folder = results / paper.name
    if not stored and not paper.suite:
        print(f"{name} has no suite yet, so nothing can be run; its numbers: reproduce {name} --stored")
        raise typer.Exit(INCOMPLETE)
    if not stored:
        try:
            _train(paper, folder, jobs, executor, device)
        except DataUnavailable as error:  # all that is left to train lacks its data: judge the rest
            if not any(folder.glob("*.json")):
                raise
            print(f"bdlbench: {error}", file=sys.stderr)
    elif any(folder.glob("*.json")):
        from bdlbench.records import record as records

        print_other_code(records.scan(folder).records)
    lines = _lines(paper, folder)
    from bdlbench.reproduce.page import text

    write(text(paper, lines, screen()[1]))
    verdicts = {line.verdict for line in lines}
    if "not run" in verdicts:
        raise typer.Exit(INCOMPLETE)
    if "not reproduced" in verdicts:
        raise typer.Exit(NEGATIVE)


def _train(paper: Paper, folder: Path, jobs: int, executor: str, device: str) -> None:
    from bdlbench.records import record as records
    from bdlbench.runs import executors, suites, work
    from bdlbench.runs.batch import Settings

    executors.refuse_unknown(executor)
    own = paper.suite.endswith(".toml")
    suite = suites.find_suite("", Path(paper.suite)) if own else suites.find_suite(paper.suite, None)
    job = work.plan(suites.build_spec(suite, suites.Overrides(device=device)), Settings(folder))
    print_outdated(job, "--stored judges the records as they are", sys.stderr)
    trained, _ = train(job, work.workers(jobs, job), executor)
    for finding in work.findings_of(trained, records.scan(folder).records if folder.is_dir() else ()):
        print(finding, file=sys.stderr)


def _lines(paper: Paper, folder: Path) -> list[Line]:
    """Judge the records in the folder, which may not exist yet."""
    from bdlbench import api
    from bdlbench.reproduce import verdicts

    return verdicts.of(paper, api.results_of(folder) if any(folder.glob("*.json")) else [])


def _write_page(file: Path, results: Path) -> None:
    from bdlbench.core.files import write_atomic
    from bdlbench.reproduce import papers
    from bdlbench.reproduce.page import page

    read = [papers.read(name) for name in papers.names()]
    write_atomic(file, page([(paper, _lines(paper, results / paper.name)) for paper in read]).encode())
