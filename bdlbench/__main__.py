"""The command line. Nothing heavy is imported before a command needs it; every error is one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bdlbench.core import instructions
from bdlbench.core.errors import BadInput, BenchError, unknown
from bdlbench.report import terminal

if TYPE_CHECKING:
    from bdlbench.catalog import Kind
    from bdlbench.core.spec import Cell
    from bdlbench.gate.checks import GateSection
    from bdlbench.gate.verify import Check
    from bdlbench.records.cells import Result
    from bdlbench.records.reading import Faults
    from bdlbench.report.text_table import Format
    from bdlbench.runs.batch import Settings
    from bdlbench.runs.work import Job

LISTED = ("methods", "models", "datasets", "metrics", "suites")
INCOMPLETE, INTERNAL, INTERRUPTED = 4, 70, 130
SHOWN = 12  # failures of one part of the gate, so that all fits on a page

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A benchmark and reproducibility suite for Bayesian deep learning.",
    epilog="Exit codes: 0 done, 1 negative verdict, 2 bad input, 3 not comparable, 4 incomplete, 70 internal error, "
    "130 interrupted.",
)

PluginsOption = Annotated[
    list[Path], typer.Option("--plugin", metavar="FILE.py", help="a file with entries of your own")
]
Replaced = Annotated[
    list[str], typer.Option("--replace", metavar="NAME", help="let a plugin take the place of an entry of this name")
]
MetricsOption = Annotated[str, typer.Option("--metrics", metavar="A,B", help="columns; default: the main ones")]
Style = Annotated[str, typer.Option("--format", help="terminal, markdown, csv, latex or json")]


class Interrupted(BenchError):
    """Ctrl-C."""

    exit_code = INTERRUPTED


@app.callback()
def everywhere(
    native: Annotated[
        bool, typer.Option("--native", help="all vector instructions of the processor, not only AVX2: other bits")
    ] = False,
) -> None:
    """Take the options that every command has."""
    if native:
        os.environ[instructions.NATIVE] = "1"
        instructions.choose()


@app.command()
def run(  # noqa: PLR0913 - one parameter for each option of the command
    suite: Annotated[str, typer.Argument(help="a suite of the package, see: list suites  [default: quick]")] = "",
    method: Annotated[list[str], typer.Option(metavar="NAME", help="instead of the suite's; repeatable")] = [],  # noqa: B006
    model: Annotated[list[str], typer.Option(metavar="NAME", help="instead of the suite's; repeatable")] = [],  # noqa: B006
    dataset: Annotated[list[str], typer.Option(metavar="NAME", help="instead of the suite's; repeatable")] = [],  # noqa: B006
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="5 (0 to 4), 0-9 or 1,4,7")] = "",
    splits: Annotated[str, typer.Option(help="one: every seed on split 0; each: seed i on split i")] = "",
    samples: Annotated[int | None, typer.Option(metavar="M", help="posterior samples of a predictive")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(help="of each batch; part of what decides the bits")] = 1,
    jobs: Annotated[int, typer.Option(help="worker processes; 0: as many as cores allow, one on a GPU")] = 0,
    results: Annotated[Path, typer.Option(metavar="DIR", help="where records go")] = Path("results/local"),
    metrics: MetricsOption = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="train again what is done already")] = False,
    any_code: Annotated[
        bool, typer.Option("--any-code", help="keep what is done, though its method or bdlbench has changed since")
    ] = False,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="NAME.OPTION=V1,V2", help="an option; a list sweeps; repeatable")
    ] = [],  # noqa: B006
    config: Annotated[Path | None, typer.Option(metavar="SUITE.toml", help="a suite of your own")] = None,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be trained, and write nothing")] = False,
    checkpoint_every: Annotated[float, typer.Option(metavar="SECONDS", help="between checkpoints in a fit")] = 60.0,
    keep_parameters: Annotated[bool, typer.Option("--keep-parameters", help="write them beside the records")] = False,
) -> None:
    """Train what is missing of a suite, and print its table. Stopped at any time, it resumes where it was."""
    from bdlbench import api, catalog
    from bdlbench.report import tables
    from bdlbench.runs import suites, work

    settings = work.settings_of(results, checkpoint_every, keep_parameters)
    _add_plugins(plugin, replaced)
    for name in _names(metrics):
        if name.partition("[")[0] not in (known := {*catalog.names("metrics"), *tables.COSTS}):
            raise unknown("metric", name, known)
    names = (tuple(method), tuple(model), tuple(dataset))
    asked = suites.Overrides(*names, seeds, samples, tuple(set_), device, threads, splits)
    job = work.prepare(suites.build_spec(api.suite_of(suite, config), asked), results, fresh, any_code)
    workers = work.workers(jobs, job)
    _print_outdated(job)
    if dry_run:
        _print_plan(job, workers)
        return
    done, written = _perform(job, workers, plugin, settings)
    if _report(done, _names(metrics)) or not written:
        raise typer.Exit(INCOMPLETE)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, models, datasets, metrics or suites  [default: all]")] = "",
    name: Annotated[str, typer.Argument(help="one entry: its whole description and its options")] = "",
    options: Annotated[bool, typer.Option("--options", help="with defaults, ranges and help")] = False,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Name what there is, one line each."""
    if kind and kind not in LISTED:
        raise unknown("kind", kind, LISTED)
    _add_plugins(plugin, replaced)
    if name:
        _print_entry(kind, name)
        return
    for shown in [kind] if kind else LISTED:
        if not kind:
            print(shown)
        _print_kind(shown, options, "" if kind else "  ")


@app.command()
def table(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records, or one record")],
    format_: Style = "terminal",
    metrics: MetricsOption = "",
    sort: Annotated[str, typer.Option(metavar="METRIC", help="best first by this metric")] = "",
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it too: .png, .svg or .pdf")] = None,
    interval: Annotated[
        bool, typer.Option("--interval", help="half the 95 % interval, of new seeds and test examples, after ±")
    ] = False,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Print the records of a folder: mean and standard error over replicates, the best and its equals in bold."""
    style = _style(format_)
    from bdlbench import api
    from bdlbench.report import figures, tables

    _add_plugins(plugin, replaced)
    faults: list[Faults] = []
    found, untold = api.completed(results, [*_names(metrics), sort], plugin, faults.append)
    if figure is not None:
        figures.draw_table(found, figure, _names(metrics), sort)
    _write(tables.render(found, style, _names(metrics), sort, *_screen(), interval=interval), style)
    if style == "terminal":
        _print_options_in_force(found)
        _print_machines(results, _names(metrics))
        _print_failures(found)
        for line in untold:
            print(line)
    _print_faults(faults)
    if faults[0].damaged:
        raise typer.Exit(INCOMPLETE)


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="a folder of records, one record, or a git revision of results/")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="another, to be held against it; REVISION:PATH names a folder")],
    metrics: MetricsOption = "",
    margins: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="[margins] by metric  [default: pyproject.toml's]")
    ] = None,
    treatment: Annotated[str, typer.Option(metavar="A:B", help="pair method A of A with method B of B")] = "",
    ignore_options: Annotated[
        bool, typer.Option("--ignore-options", help="pair methods by name, whatever their options")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="inconclusive counts as failure")] = False,
    format_: Style = "terminal",
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Hold B against A: differences with intervals, verdicts, and what would settle what is open. Exits 1 if worse."""
    style = _style(format_)
    from bdlbench import api
    from bdlbench.report import verdicts

    _add_plugins(plugin, replaced)
    found = api.compare(
        a,
        b,
        metrics=_names(metrics),
        margins=margins,
        treatment=treatment,
        ignore_options=ignore_options,
        strict=strict,
        plugin=plugin,
    )
    _write(verdicts.render(found, style, *_screen()), style)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


@app.command()
def rank(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records on several data sets")],
    metric: Annotated[str, typer.Option(metavar="METRIC", help="what the ranks are of")] = "nll",
    methods: Annotated[str, typer.Option(metavar="A,B", help="only these, on the data sets that have them all")] = "",
    format_: Style = "terminal",
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="a critical-difference diagram: .png, .svg or .pdf")
    ] = None,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Rank methods over data sets: Friedman, then every pair by Wilcoxon with Holm's correction."""
    style = _style(format_)
    from bdlbench import api
    from bdlbench.report import figures, verdicts

    _add_plugins(plugin, replaced)
    found = api.rank(results, metric, _names(methods), plugin)
    if figure is not None:
        figures.draw_ranking(found, figure)
    _write(verdicts.render_ranking(found, style, *_screen()), style)


@app.command()
def score(  # noqa: PLR0913 - one parameter for each option of the command
    file: Annotated[Path, typer.Argument(metavar="FILE", help="predictions: .npz, .csv or .parquet")],
    method: Annotated[str, typer.Option(metavar="NAME", help="what made the predictions")],
    dataset: Annotated[str, typer.Option(metavar="NAME", help="whose test set they are of, in its order")],
    own_data: Annotated[bool, typer.Option("--own-data", help="the data set is yours, not one of the catalog")] = False,
    model: Annotated[str, typer.Option(metavar="NAME", help="of the protocol; cells compare within one")] = "external",
    samples: Annotated[int | None, typer.Option(metavar="M", help="of the protocol  [default: the file's]")] = None,
    seeds: Annotated[
        str, typer.Option(metavar="SEEDS", help="of the replicates  [default: the file's, or 0, 1, …]")
    ] = "",
    splits: Annotated[str, typer.Option(help="one: every seed on split 0; each: seed i on split i")] = "one",
    set_: Annotated[list[str], typer.Option("--set", metavar="NAME.OPTION=VALUE", help="an option; repeatable")] = [],  # noqa: B006
    axes: Annotated[str, typer.Option(help="of an npz's probs: NC, RNC, MNC or MRNC")] = "",
    results: Annotated[Path, typer.Option(metavar="DIR", help="where the record goes")] = Path("results/local"),
    fresh: Annotated[bool, typer.Option("--fresh", help="replace replicates that are there already")] = False,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Score predictions made elsewhere by the same metrics, and keep them as a record like any other.

    An npz holds `probs` or `logits` (N, C), with posterior samples M and replicates R in front if there are such, and
    `labels` (N,), counted from 0; if wanted `ood.SET.probs` or `ood.SET.logits`, `score.NAME` with `ood.SET.score.NAME`
    (higher: more out of distribution), and `seeds` (R,). A table has a row for each example: `prob_0`, `prob_1`, … or
    `logit_0`, …, `label`; if wanted `set` (test, or an out-of-distribution set's name), `seed`, `sample`, `score_NAME`.
    """
    from bdlbench import api
    from bdlbench.report import tables
    from bdlbench.runs.external_scores import Claim

    _add_plugins(plugin, replaced)
    claim = Claim(method, dataset, model, own_data, samples, seeds, splits, tuple(set_), axes)
    record = api.score(file, claim, results, fresh)
    _write(tables.render(api.results_of(record), "terminal", (), "", *_screen()))
    checked = "taken from the file" if own_data else f"those of {dataset}"
    print(f"{len(api.read(record)['seed'].dropna().unique())} replicates in {record}; the labels are {checked}")


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records, or one record")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where index.html and figures/ go")] = Path("report"),
    metrics: MetricsOption = "",
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Write one HTML page of a folder's records, complete in itself, and its figures beside it as SVG and PNG."""
    from bdlbench import api

    _add_plugins(plugin, replaced)
    page = api.report(results, out, _names(metrics))
    print(f"{page}: {page.stat().st_size / 1e6:.2f} MB; its figures, as SVG and PNG, are in {page.parent / 'figures'}")


@app.command()
def verify(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="a folder of records, or one record")],
    full: Annotated[bool, typer.Option("--full", help="train every cell again, whole")] = False,
    threads: Annotated[int, typer.Option(metavar="N", help="instead of the record's own")] = 0,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Run a cheap slice of each record again: bit-identical, within the noise of equal runs, or different, and why."""
    if threads < 0:
        raise BadInput(f"--threads {threads} is out of range: at least 1, or 0 for the record's own")
    from bdlbench import api

    _add_plugins(plugin, replaced)
    checks = []
    for check in api.verify(results, full=full, threads=threads or None):
        checks.append(check)
        _print_check(check)
    raise typer.Exit(_print_verdict(checks, full))


@app.command()
def gate(
    reference: Annotated[Path, typer.Option(metavar="DIR", help="the reference records")] = Path("results/reference"),
    config: Annotated[Path | None, typer.Option(metavar="SUITE.toml", help="instead of the suite smoke")] = None,
    results: Annotated[Path | None, typer.Option(metavar="DIR", help="keep the suite's new records there")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="make the reference what this tree makes")] = False,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Hold this tree against the reference: protocol, objectives, bits, quality, speed."""
    from bdlbench import api

    _add_plugins(plugin, replaced)
    if accept:
        changes = api.accept(reference, config, results)
        print("\n".join(changes) or "nothing changed")
        return
    sections = api.gate(reference, config, results, _print_section)
    failed = [section.name for section in sections if section.failures]
    print(f"gate: failed in {', '.join(f'({name})' for name in failed)}" if failed else "gate: passed")
    if failed:
        raise typer.Exit(1)


@app.command()
def check(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="entries  [default: all of the plugins]")] = [],  # noqa: B006
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Ask entries, your own above all, for what every entry holds to, on small problems in seconds. Exits 1 for faults.

    Of a method: a row's bits alone and among others, interrupted = uninterrupted, options as rows, shapes, and that
    without dropping it is one network. Of a model: that each weight meets the method's rule. Of a data set: that it
    loads the same each time. Of a metric: its values by row, of stored predictions, and without blocks of examples.
    """
    from bdlbench.gate import check_plugin as contracts

    _add_plugins(plugin, replaced)
    verdicts = set()
    for kind, name in contracts.chosen(names, plugin):
        for found in contracts.check(kind, name):
            verdicts.add(found.verdict)
            words = {"holds": "holds", "fault": "FAULT", "unchecked": "not checked"}[found.verdict]
            print(f"{found.entry} ({found.where}): {words}: {found.words}", flush=True)
    if verdicts & {"fault", "unchecked"}:
        raise typer.Exit(1 if "fault" in verdicts else INCOMPLETE)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="fetch and verify this data set  [default: say how all stand]")] = "",
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Say which data sets are present and verified, or fetch one."""
    from bdlbench import catalog
    from bdlbench.data import downloads

    _add_plugins(plugin, replaced)
    if name:
        files = getattr(catalog.load("datasets", name), "files", ())
        downloads.fetch(files, name)
        for path, state in downloads.status(files):
            print(f"{name}: {path}: {state}")
        return
    names = catalog.names("datasets")
    print(f"store: {downloads.root()} (set BDLBENCH_DATA to change it)")
    for entry in names:
        print(f"{entry:{max(map(len, names))}}  {_standing(getattr(catalog.load('datasets', entry), 'files', ()))}")


@app.command()
def peers(
    format_: Annotated[str, typer.Option("--format", help="terminal, markdown, csv or json")] = "terminal",
    rows: Annotated[str, typer.Option("--rows", metavar="A,B", help="of the table, by name; default: all")] = "",
    rounds: Annotated[int, typer.Option("--rounds", help="in each of which everyone has a turn")] = 5,
    tables: Annotated[int, typer.Option("--tables", help="2: the whole table twice, to show its spread")] = 1,
    threads: Annotated[int, typer.Option("--threads", help="of torch")] = 1,
) -> None:
    """Time the same work by this package, plain torch and other libraries, in turn (pip install 'bdlbench[peers]')."""
    for name, value in {"--rounds": rounds, "--tables": tables, "--threads": threads}.items():
        if value < 1:
            raise BadInput(f"{name} {value} is out of range: at least 1")
    import torch

    from bdlbench.core.memory import keep_freed_memory
    from bdlbench.peers import show, work, works

    style = next((known for known in show.TIMING_FORMATS if known == format_), None)
    if style is None:
        raise unknown("format", format_, show.TIMING_FORMATS)
    chosen = works.chosen(_names(rows))
    torch.set_num_threads(threads)
    keep_freed_memory()  # as `run` does; everyone here gains by it
    measured: list[list[work.PeerRow]] = [[] for _ in range(tables)]
    for done in measured:
        for each in chosen:
            print(f"timing {each.name}: {each.title}", file=sys.stderr, flush=True)
            done.append(work.measure(each, rounds))
    _write(show.render(measured, style, threads, *_screen()), style)
    if not all(row.complete for done in measured for row in done):
        raise typer.Exit(INCOMPLETE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    with terminal.forgiving():
        return _ended(argv)


def _ended(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--native" in arguments:  # an option of every command may stand anywhere
        arguments = ["--native", *(word for word in arguments if word != "--native")]
    try:
        code = app(arguments or ["--help"], prog_name="bdlbench", standalone_mode=False)
        if code == INTERRUPTED:
            raise Interrupted("interrupted")
        sys.stdout.flush()  # what cannot be written is this command's failure, not the interpreter's
        return code if isinstance(code, int) else 0
    except BenchError as error:
        return _fail(f"{error}{_place(error)}", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except BaseException as error:  # also another's sys.exit: its number is not one of our verdicts
        if hasattr(error, "format_message"):  # the command line itself is wrong
            return _fail(error.format_message(), BadInput.exit_code)
        if os.environ.get("BDLBENCH_DEBUG") == "1":
            raise
        return _fail(f"internal error: {type(error).__name__}: {error} (BDLBENCH_DEBUG=1 shows where)", INTERNAL)


def _place(error: BenchError) -> str:
    """Where in a plugin an error arose that does not say it itself: (mine.py:12)."""
    if "torch" not in sys.modules:  # then no plugin was read
        return ""
    from bdlbench.core import foreign

    where = foreign.raised_at(error)
    return f" ({foreign.shown(where[0])}:{where[1]})" if where and where[0].name not in str(error) else ""


def _fail(message: str, code: int) -> int:
    print(f"bdlbench: {' '.join(message.split())}", file=sys.stderr)
    return code


# run


def _perform(job: Job, workers: int, plugins: Sequence[Path], settings: Settings) -> tuple[Job, bool]:
    """Train what can be trained of a job. Returns it with what was left out, and whether all was written."""
    from bdlbench.runs import progress, work

    job = work.ready(job)
    for line in work.left_out(job):
        print(line, file=sys.stderr, flush=True)
    try:
        with progress.reporting(job.batches, sys.stderr) as report:
            outcomes = work.perform(job, workers, plugins, settings, report)
    except KeyboardInterrupt:
        again = "without --fresh " if job.fresh else ""
        kept = f"what is done is kept in {job.results}"
        if job.fresh:
            kept += f", what it replaces in its folder {work.REPLACED}"
        raise Interrupted(f"interrupted; {kept}: the same command {again}resumes where it was") from None
    return job, not any(outcome.unwritten for outcome in outcomes)


def _report(job: Job, metrics: Sequence[str]) -> bool:
    """Print the table and what is missing from it. Returns whether anything asked for is missing."""
    from bdlbench.report import tables
    from bdlbench.runs import work

    faults: list[Faults] = []
    found, untold = work.results_for(job, faults.append, metrics)
    done = [result for result in found if result.replicates]
    if done:
        _write(tables.render(done, "terminal", metrics, "", *_screen()))
        _print_options_in_force(done)
        _print_machines(job.results, metrics)
    left_out = work.left_out(job)
    for line in left_out:
        print(line)
    failed = _print_failures(found)
    _print_faults(faults)
    for line in untold:
        print(line)
    failed |= any(one.damaged or one.gone for one in faults)
    for finding in work.findings_of(job):
        print(finding)
    count = sum(len(result.replicates) for result in done)
    trained = sum(len(batch.rows) for batch in job.batches)
    print(f"{count} replicates of {len(done)} cells in {job.results}; {trained or 'none'} had to be trained now")
    return failed or bool(left_out)


def _print_options_in_force(found: Sequence[Result]) -> None:
    """Those that are not the methods' defaults, a line for each data set."""
    from bdlbench.report import tables

    for line in tables.not_the_defaults(found):
        print(line)


def _print_faults(faults: Sequence[Faults]) -> None:
    """What is wrong with files beside records, on stderr: stdout may be a table that a program reads."""
    for line in (line for one in faults for line in one.lines()):
        print(f"bdlbench: {line}", file=sys.stderr)


def _print_machines(results: Path, metrics: Sequence[str]) -> None:
    """Where throughput was measured, if it is asked for."""
    from bdlbench import api
    from bdlbench.report import tables

    if not set(metrics).isdisjoint(tables.SHORT):
        print(f"Measured on {'; '.join(api.machines(results))}.")


def _print_failures(found: Sequence[Result]) -> bool:
    from bdlbench import catalog

    known, incomplete = set(catalog.names("metrics")), False
    for result in found:
        by_reason: dict[str, list[str]] = {}
        for replicate, reason in sorted(result.failed.items()):
            where = f"seed {replicate.seed}" + (f", split {replicate.split}" if replicate.split else "")
            by_reason.setdefault(reason, []).append(where)
        for reason, places in by_reason.items():
            print(f"failed: {result.title}, {'; '.join(places)}: {reason}")
        owed = {name: reason for record in result.records for name, reason in record.unscored.items()}
        for name, reason in owed.items():
            again = "run again, it is scored without training" if name in known else "--plugin FILE.py has it"
            print(f"not scored: {result.title}: metric {name}: {reason}; {again}")
        incomplete |= bool(result.failed) or not known.isdisjoint(owed)
    return incomplete


def _print_outdated(job: Job) -> None:
    """Why records are not taken as they are, and which of their replicates are left as they are all the same."""
    titles = {cell.key: cell.title for cell in job.spec.cells}
    by_reason: dict[str, list[str]] = {}
    for record, reason in job.outdated:
        by_reason.setdefault(reason, []).append(titles[record.key])
        left = sorted({replicate.seed for replicate in set(record.replicates) - set(job.spec.replicates)})
        if left:
            print(f"left as other code made them: {titles[record.key]}, seeds {_ranges(left)}; name them to train them")
    from bdlbench.runs import provenance

    edited = {name for record in job.existing for name, why in record.unscored.items() if why == provenance.EDITED}
    for name in sorted(edited):
        print(f"to be scored again from stored predictions, since its source has changed: metric {name}")
    for reason, which in by_reason.items():
        what = ", ".join(which) if len(which) < 4 else f"{len(which)} cells"
        print(f"to be trained again, since {reason}: {what} (--any-code keeps the records)")


def _print_plan(job: Job, workers: int) -> None:
    """What would be trained, where the data stand, and how long it may take."""
    from bdlbench import catalog
    from bdlbench.report import tables
    from bdlbench.runs import suites, work

    refused = work.refused(job)
    job = replace(job, batches=tuple(batch for batch in job.batches if batch.cells[0] not in refused))
    missing: dict[Cell, list[int]] = {cell: [] for cell in job.spec.cells}
    for batch in job.batches:
        for row in batch.rows:
            missing[row.cell].append(row.replicate.seed)
    for cell, seeds in missing.items():
        todo = f"{len(seeds)} to train (seeds {_ranges(seeds)})" if seeds else "done"
        print(f"{cell.title}: {f'skipped: {refused[cell]}' if cell in refused else todo}")
        for kind, choice in zip(suites.CHOSEN, (cell.method, cell.model, cell.dataset), strict=True):
            if words := tables.all_options(kind, choice.as_dict()):
                print(f"    {choice.name}: {words}")
    for name in dict.fromkeys(cell.dataset.name for cell, seeds in missing.items() if seeds):
        print(f"data set {name}: {_standing(getattr(catalog.load('datasets', name), 'files', ()))}")
    rows = sum(map(len, missing.values()))
    print(f"{rows} replicates in {len(job.batches)} batches, {workers} at a time; {_estimate(job, workers)}")


def _estimate(job: Job, workers: int) -> str:
    """From what equal cells cost before: at most in proportion to the rows."""
    seconds, known = 0.0, 0
    for batch in job.batches:
        keys = {cell.key for cell in batch.cells}
        costs = [record.cost for record in job.existing if record.key in keys and record.cost]
        if costs:
            cost = costs[-1]
            spent = cost.get("train_seconds", 0.0) + cost.get("predict_seconds", 0.0)
            seconds += spent * max(1.0, len(batch.rows) / cost.get("rows", 1.0))
            known += 1
    if not job.batches:
        return "nothing to do"
    if not known:
        return "no estimate yet: no record of these cells to judge by"
    rest = len(job.batches) - known
    missing = f"; no estimate for the other {rest}" if rest else ""
    return f"at most about {seconds / workers:.0f} s by the recorded cost of equal cells ({known} batches{missing})"


def _ranges(seeds: Sequence[int]) -> str:
    """0-4,7"""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


# list and data


def _add_plugins(paths: Sequence[Path], replaced: Sequence[str]) -> None:
    if replaced and not paths:
        raise BadInput(f"--replace {replaced[0]}: no --plugin is given that could take its place")
    if paths:
        from bdlbench import catalog
        from bdlbench.report import tables

        for path in paths:
            catalog.add_plugin(path, replaced)
        if taken := [name for name in catalog.names("metrics") if name in tables.COSTS]:
            raise BadInput(f"the metric {taken[0]} has the name of a cost, a column of its own: choose another name")
        idle = [name for name in replaced if not any(catalog.replaced(kind, name) for kind in catalog.KINDS)]
        if idle:
            raise BadInput(f"--replace {idle[0]}: no plugin that is given has an entry of this name and of one here")


def _print_kind(kind: str, options: bool, indent: str) -> None:
    lines = _summaries(kind)
    width = max(map(len, lines), default=0)
    for name, line in lines.items():
        print(f"{indent}{name:{width}}  {line}")
        if options:
            _print_options(kind, name, f"{indent}    ")


def _summaries(kind: str) -> dict[str, str]:
    """One line for each entry of a kind."""
    from bdlbench import catalog
    from bdlbench.runs import suites

    if found := _catalog_kind(kind):
        entries = {name: catalog.summary(found, name) for name in catalog.names(found)}
        return entries | (_costs() if found == "metrics" else {})
    return {name: suites.read_suite(name).title for name in suites.suite_names()}


def _costs() -> dict[str, str]:
    """What `--metrics` of `run`, `table` and `report` takes beside metrics, one line each."""
    from bdlbench.report import tables

    return {name: f"cost of a batch, in tables only: {line}" for name, line in tables.COSTS.items()}


def _catalog_kind(kind: str) -> Kind | None:
    """`kind` if the catalog has it: suites are not its."""
    from bdlbench import catalog

    return next((known for known in catalog.KINDS if known == kind), None)


def _print_options(kind: str, name: str, indent: str) -> None:
    from bdlbench import catalog
    from bdlbench.core import options

    found = _catalog_kind(kind)
    if found is None or found == "metrics":
        return
    entry = catalog.load(found, name)
    free = options.per_row_names(entry)
    for key, field in options.fields(entry).items():
        swept = "; a sweep is one batch" if key in free else ""
        default, allowed = options.spell(field.default), options.allowed(field)
        print(f"{indent}{name}.{key} = {default}: {field.metadata['help']} ({allowed}{swept})")


def _print_entry(kind: str, name: str) -> None:
    """All that is written about one entry."""
    import inspect

    from bdlbench import catalog
    from bdlbench.runs import suites

    found = _catalog_kind(kind)
    if found is None:
        suite = suites.read_suite(name)
        print(f"{name}: {suite.title} (version {suite.version}); seeds {suite.seeds}, M = {suite.samples}")
        for grid in suite.grids:
            print("  " + " × ".join(", ".join(part) for part in (grid.methods, grid.models, grid.datasets)))
            for entry, values in suites.merge(suite.options, grid.options).items():
                if any(entry in listed for listed in (grid.methods, grid.models, grid.datasets)):
                    print(f"    {entry}: {', '.join(f'{k} {_values(v)}' for k, v in values.items())}")
        print("  these options hold in these cells alone; what is not shown has its default: list methods --options")
        return
    if found == "metrics" and name in (costs := _costs()):
        print(f"{name}: {costs[name]}")
        return
    entry = catalog.load(found, name)
    summary = f"{entry.summary} ({entry.unit}; {entry.better} is better)\n" if found == "metrics" else ""
    print(f"{name}: {summary}{inspect.getdoc(entry)}")
    _print_options(kind, name, "  ")


def _values(values: Sequence[Any]) -> str:
    """120, or 1|2|4 for a sweep."""
    from bdlbench.core import options

    return "|".join(map(options.spell, values))


def _standing(files: Sequence[Any]) -> str:
    """verified, or how many of its files are in which state."""
    from bdlbench.data import downloads

    states = [state for _, state in downloads.status(files)]
    if len(set(states)) == 1:
        return f"{states[0]}" + (f" ({len(files)} files)" if files else " with scikit-learn")
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


# verify and gate


VERDICTS = {
    "identical": "bit-identical",
    "noise": "within the noise of equal runs",
    "different": "DIFFERENT",
    "unchecked": "not checked",
}


def _print_check(check: Check) -> None:
    """One line for a record, and below it what differs, why most likely, and what the lint says."""
    what = ", ".join(part.name for part in check.parts if part.verdict == check.verdict)
    replicates = f"{check.replicates} replicate" + "s" * (check.replicates != 1)
    failed = f", {check.failed} failed" if check.failed else ""
    hot = f"; {check.temperature}" if check.temperature else ""
    print(
        f"{VERDICTS[check.verdict]}: {check.title} ({replicates}{failed}){': ' if what else ''}{what}{hot}", flush=True
    )
    for part in check.parts:
        if part.detail:
            print(f"    {part.name}: {VERDICTS[part.verdict]}: {part.detail}")
    if check.verdict in ("different", "noise") and check.elsewhere:
        most, *rest = check.elsewhere
        print(f"    most likely because of {most}" + (f" (also {'; '.join(rest)})" if rest else ""))
    elif check.verdict == "different":
        print("    nothing in the environment explains it: the code, or the hardware")
    for finding in check.findings:
        print(f"    {finding}")


def _print_verdict(checks: Sequence[Check], full: bool) -> int:
    """The last lines, and the exit code."""
    counts = {words: sum(c.verdict == v for c in checks) for v, words in VERDICTS.items()}
    print("; ".join(f"{count} {words}" for words, count in counts.items() if count))
    extent = [", ".join(check.checked) or "nothing" for check in checks]
    print(f"checked, by records: {'; '.join(f'{extent.count(what)}: {what}' for what in dict.fromkeys(extent))}")
    if not full and any(what != "nothing" and "whole cell" not in what for what in extent):
        print("training beyond the first steps was not run again there: --full does")
    elsewhere = dict.fromkeys(line for check in checks for line in check.elsewhere)
    if elsewhere:
        print(f"this place differs from where they were made: {'; '.join(elsewhere)}")
    refused = any(finding.severity == "refused" for check in checks for finding in check.findings)
    if refused or counts["DIFFERENT"]:
        return 1
    return INCOMPLETE if counts["not checked"] or any(check.failed for check in checks) else 0


def _print_section(section: GateSection) -> None:
    state = "FAILED" if section.failures else "ok"
    notes = f": {'; '.join(section.notes)}" if section.notes else ""
    print(f"({section.name}) {section.title}: {state}{notes} [{section.seconds:.0f} s]", flush=True)
    for line in section.failures[:SHOWN]:
        print(f"    {line}")
    if len(section.failures) > SHOWN:
        print(f"    and {len(section.failures) - SHOWN} more")


# output


def _style(name: str) -> Format:
    from bdlbench.report.text_table import FORMATS

    style = next((known for known in FORMATS if known == name), None)
    if style is None:
        raise unknown("format", name, FORMATS)
    return style


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _screen() -> tuple[int, bool]:
    """How wide the output may be ($COLUMNS, or the terminal's; a file has no limit), and whether it shows bold."""
    import shutil

    terminal = sys.stdout.isatty()
    return shutil.get_terminal_size((100 if terminal else 240, 24)).columns, terminal


def _write(text: str, style: str = "terminal") -> None:
    """What programs read is in UTF-8 wherever it goes: a sign that a terminal lacks may be replaced there, not here."""
    if style in ("csv", "json") and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    sys.exit(main())
