"""Compare two sides cell by cell: pair their cells, find the differences, and judge them for new seeds and examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bdlbench.compare import margins as margin_table
from bdlbench.compare.differences import Finding, find, judge
from bdlbench.compare.measured import (
    Contributions,
    ExampleLayout,
    aligned,
    checksums,
    contributions,
    layout_of,
    predictions_of,
)
from bdlbench.compare.pairing import SAME_TREATMENT, Pairing, gap_lines, partners
from bdlbench.core.spec import Replicate
from bdlbench.records.cells import Result, columns_named, merge
from bdlbench.records.reading import Source
from bdlbench.records.record import Unread
from bdlbench.runs import rescoring
from bdlbench.runs.references import References, asked_for

if TYPE_CHECKING:
    from pandas import DataFrame

NEGATIVE, NOT_COMPARABLE, INCOMPLETE = 1, 3, 4


@dataclass(frozen=True)
class Pair:
    """A cell that both sides have.

    Attributes:
        a: The cell in A.
        b: The cell in B.
        findings: One for each metric that both have.
        notes: Facts about the pair that a reader needs before its numbers.
        missing: Columns of A that B lacks.
    """

    a: Result
    b: Result
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether B has all that A has: each metric, finite, and as many replicates, none of A's failed."""
        lost = [r for r in self.b.failed if r in self.a.replicates]
        if self.missing or lost or len(self.b.replicates) < len(self.a.replicates):
            return False
        return all(math.isfinite(f.mean_b) or not math.isfinite(f.mean_a) for f in self.findings)


@dataclass(frozen=True, repr=False)
class Comparison:
    """The cells of two sides: pairs, cells without a partner, and reasons why similar cells are not paired.

    Attributes:
        pairs: Cells that both sides have.
        only_a: Cells that B lacks.
        only_b: Cells that A lacks.
        apart: Similar cells whose protocols differ, one line each.
        strict: Whether "inconclusive" is a negative verdict too.
        options: Cells that differ only in the options of their method, one line each.
        untold: Metrics that records do not hold and that their stored predictions cannot give, one line each.
        unread: Records of both sides that are left out, because they cannot be read.
    """

    pairs: tuple[Pair, ...]
    only_a: tuple[Result, ...]
    only_b: tuple[Result, ...]
    apart: tuple[str, ...] = ()
    strict: bool = False
    options: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    unread: tuple[Unread, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all pairs."""
        return tuple(finding for pair in self.pairs for finding in pair.findings)

    @property
    def exit_code(self) -> int:
        """The exit code of `compare`.

        1 where anything is worse beyond its margin (with `strict`, also inconclusive), 3 where protocols differ, 4
        where a record of either side cannot be read, or B lacks cells, replicates, metrics or out-of-distribution sets
        of A, else 0.
        """
        negative = {"worse", "inconclusive"} if self.strict else {"worse"}
        if any(finding.verdict in negative for finding in self.findings):
            return NEGATIVE
        if self.apart:
            return NOT_COMPARABLE
        return INCOMPLETE if self.unread or self.only_a or not all(pair.is_whole for pair in self.pairs) else 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one flat row for each pair and metric. Values that cannot be known are None."""
        for pair in self.pairs:
            about = {
                "dataset": pair.a.cell.dataset.name,
                "model": pair.a.cell.model.name,
                "method": pair.a.cell.method.name,
                "method_b": pair.b.cell.method.name,
                "cell_a": pair.a.key,
                "cell_b": pair.b.key,
            }
            for finding in pair.findings:
                facts = {
                    "metric": finding.metric,
                    "unit": finding.unit,
                    "better": finding.better,
                    "mean_a": finding.mean_a,
                    "mean_b": finding.mean_b,
                    "difference": finding.estimate,
                    "low": finding.estimate - finding.interval,
                    "high": finding.estimate + finding.interval,
                    "p": finding.p_value,
                    "corrected_p": finding.corrected_p,
                    "verdict": finding.verdict,
                    "margin": finding.margin,
                    "detectable": finding.detectable,
                    "seeds_to_settle": finding.seeds,
                    "standard_error": float(finding.difference.standard_error),
                    "seed_variance": float(finding.difference.seed),
                    "monte_carlo_variance": finding.monte_carlo,
                    "example_variance": float(finding.difference.example),
                    "population": finding.population,
                    "replicates_a": finding.replicates[0],
                    "replicates_b": finding.replicates[1],
                    "pairs": finding.pairs,
                }
                lost = {name for name, value in facts.items() if isinstance(value, float) and not math.isfinite(value)}
                yield {**about, **{name: None if name in lost else value for name, value in facts.items()}}

    def frame(self) -> DataFrame:
        """Return the rows as a table."""
        from pandas import DataFrame

        return DataFrame(list(self.rows()))

    def __repr__(self) -> str:
        """Return one line for each pair and metric, then the notes."""
        lines = [
            f"{row['dataset']} · {row['model']} · {row['method']}"
            f"{'' if row['method_b'] == row['method'] else ' → ' + row['method_b']}: {row['metric']} "
            f"{_short(row['mean_a'])} → {_short(row['mean_b'])} {row['unit']}, B − A {_short(row['difference'])} "
            f"[{_short(row['low'])}, {_short(row['high'])}], p {_short(row['corrected_p'])}: {row['verdict']}"
            for row in self.rows()
        ]
        for side, alone in (("A", self.only_a), ("B", self.only_b)):
            lines += [f"only in {side}: {result.title}" for result in alone]
        lines += [f"{pair.a.title}: {note}" for pair in self.pairs for note in pair.notes]
        return "\n".join([*lines, *self.apart, *self.options, *self.untold, f"exit code {self.exit_code}"])


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def compare(
    a: Source,
    b: Source,
    margins: Mapping[str, float] | None = None,
    metrics: Sequence[str] = (),
    pairing: Pairing = SAME_TREATMENT,
    strict: bool = False,
    references: References | None = None,
) -> Comparison:
    """Compare B with A in cells of the same protocol and treatment; device and threads may differ.

    Args:
        a: The records of the first side.
        b: The records of the second side.
        margins: {metric: the loss that still counts as equally good}, 0 for others.
        metrics: The metrics to compare, by default the main ones. Metrics that a record does not hold are computed from
            its stored predictions.
        pairing: Which treatments are partners.
        strict: Whether "inconclusive" is a negative verdict.
        references: What distances from a posterior are of, by default those of the default folder.

    Returns:
        All pairs with verdicts, and the cells without a partner.

    Raises:
        NotComparable: The sides share no protocol, or a shared cell was scored on other data or by another metric. The
            text names the field.
        BadInput: A metric is unknown, or partners are ambiguous.
    """
    references = asked_for(None) if references is None else references
    both, untold = rescoring.complete(Source(a.entries + b.entries), metrics, references)
    ours, theirs = Source(both.entries[: len(a.entries)]), Source(both.entries[len(a.entries) :])
    found = partners(merge(ours.records, ours), merge(theirs.records, theirs), pairing)
    columns = columns_named([r for couple in found.couples for r in couple], metrics if found.couples else ())
    pairs = [_pair(left, right, margins or {}, columns, references) for left, right in found.couples]
    judged = iter(judge([finding for pair in pairs for finding in pair.findings]))
    pairs = [replace(pair, findings=tuple(next(judged) for _ in pair.findings)) for pair in pairs]
    return Comparison(
        tuple(pairs), found.only_a, found.only_b, found.apart, strict, found.options, untold, a.unread + b.unread
    )


# one pair


def _pair(a: Result, b: Result, margins: Mapping[str, float], columns: Sequence[str], references: References) -> Pair:
    names = [c for c in columns if c in a.scores and c in b.scores]
    missing = tuple(c for c in columns if c in a.scores and c not in b.scores)
    kept = [predictions_of(side) for side in (a, b)]
    told_a, told_b = (
        contributions(side, names, predictions, references=references)
        for side, predictions in zip((a, b), kept, strict=True)
    )
    bytes_a, bytes_b = map(checksums, kept)
    same = bytes_a == bytes_b and set(bytes_a) == {*a.replicates, *b.replicates}
    layout = layout_of([a, b])
    found = []
    for name in names:
        left, right = aligned(told_a[name], told_b[name])
        score, margin = a.scores[name], margin_table.of(margins, name)
        finding = find(name, score.unit, score.better, left, right, layout, margin)
        found.append(replace(finding, identical=same and bool(left.values) and left.values == right.values))
    notes = [*_notes(a, b, found, layout), *_unpaired({name: (told_a[name], told_b[name]) for name in names})]
    return Pair(a, b, tuple(found), (*notes, *(f"{name} is in A alone" for name in missing)), missing)


def _unpaired(couples: Mapping[str, tuple[Contributions, Contributions]]) -> Iterator[str]:
    """Yield a line for each population that differs between the sides, and for each side that knows less."""
    both = [couple for couple in couples.values() if all(told.populations for told in couple)]
    sides = [{p for couple in both for p in couple[i].populations} for i in (0, 1)]
    for name in sorted({name for name, _ in sides[0] ^ sides[1]}):
        ours, theirs = (", ".join(str(n) for other, n in sorted(side) if other == name) or "no" for side in sides)
        yield f"{name} has {ours} examples in A and {theirs} in B: they are compared unpaired"
    for side, i in (("A", 0), ("B", 1)):
        less = [name for name, couple in couples.items() if couple[1 - i].populations and not couple[i].populations]
        less = [name for name in less if all(map(math.isfinite, couples[name][i].values.values()))]
        if less:
            gap = f"the stored predictions of {side} do not give {', '.join(less)}"
            yield f"{gap}: the intervals are for these test examples only"


def _notes(a: Result, b: Result, found: Sequence[Finding], layout: ExampleLayout) -> Iterator[str]:
    machines = ({"device": side.cell.device, "threads": side.cell.threads} for side in (a, b))
    options = (side.cell.method.flat if a.title == b.title else {} for side in (a, b))
    yield from gap_lines(*(machine | chosen for machine, chosen in zip(machines, options, strict=True)))
    for name, side, other in (("A", a, b), ("B", b, a)):
        alone = [r for r in side.replicates if r not in other.replicates]
        if alone:
            how = "left out: their splits are not shared" if layout.nested is not None else "compared unpaired"
            verbs = ("has", "is") if len(alone) == 1 else ("have", "are")
            yield f"{_listed(alone)} of {name} {verbs[0]} no partner and {verbs[1]} {how}"
        if len(side.replicates) == 1:
            yield f"one replicate in {name}: nothing is known of new seeds, so there is no verdict"
        for replicate, why in sorted(side.failed.items()):
            yield f"{_listed([replicate])} failed in {name}: {why}"
        for finding in found:
            values = side.scores[finding.metric].values
            broken = [r for r in sorted(values) if not math.isfinite(values[r])]
            if broken:
                yield f"{finding.metric} of {_listed(broken)} in {name} is not finite: no verdict"
    if layout.nested is not None and math.isnan(layout.nested):
        yield "splits overlap, and these records do not say how many examples they trained on: run them again"


def _listed(replicates: Sequence[Replicate]) -> str:
    """Return words such as "seeds 3, 4" or "seed 7, split 2"."""
    if len(replicates) == 1:
        split = f", split {replicates[0].split}" if replicates[0].split else ""
        return f"seed {replicates[0].seed}{split}"
    return "seeds " + ", ".join(str(r.seed) for r in replicates)
