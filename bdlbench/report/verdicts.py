"""Comparisons and rankings as text: terminal, Markdown for a pull request, CSV, LaTeX, JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bdlbench.compare.differences import LEVEL, Finding, Population
from bdlbench.compare.pairs import Comparison, Pair
from bdlbench.report import tables, text_table
from bdlbench.report.text_table import Field, Format, Sheet

if TYPE_CHECKING:
    from bdlbench.compare.rank import Ranking  # scipy.stats is slow to import

VerdictRow = dict[str, Any]

SHOWN_ROUNDING = 1e-6
"""Differences below this share of the compared values are shown as 0."""


def render(comparison: Comparison, style: Format = "terminal", width: int = 100, color: bool = False) -> str:
    """Return a comparison as text."""
    if style == "csv":
        return text_table.csv_lines(comparison.rows(), CSV_NAMES)
    if style == "json":
        return _json(comparison)
    shown = list(_sheets(comparison))
    summary, notes = describe(comparison), list(_notes(comparison))
    if style == "latex":
        return "".join(text_table.latex(main, f"{main.title}. {summary}") for main, _ in shown)
    if style == "markdown":
        return _markdown(shown, summary, notes)
    if any(text_table.breadth(sheet, color=False) > width for pair in shown for sheet in pair):
        shown = list(_sheets(comparison, units=False))
    text = "".join(text_table.terminal(sheet, color, width) + "\n" for pair in shown for sheet in pair)
    return text + text_table.wrapped([*notes, summary, LEGEND], width, color)


LEGEND = (
    "B − A: difference of the means with its 95 % interval, not corrected. p: for no difference, Holm-corrected over "
    "all tests shown. worse, better: beyond the margin; equivalent: within it; by tests with the same correction. "
    "seeds, examples: the shares of the variance that come from new seeds and from new test examples; (samples): the "
    "share that more posterior samples would remove. could show: the smallest difference that is found with 80 % power "
    "at the corrected level. seeds to settle: with this many on each side, a fresh run reaches a verdict with 80 % "
    "power if the true difference is 0, or twice the margin (∞: the test examples leave too much open, or there is no "
    "margin). Do not add seeds until a verdict comes: it would be wrong more often than 5 %."
)


def describe(comparison: Comparison) -> str:
    """Return one line with the number of verdicts of each kind."""
    counts = Counter(finding.verdict for finding in comparison.findings)
    words = [f"{counts[verdict]} {verdict}" for verdict in ("worse", "better", "equivalent", "inconclusive")]
    tests = sum(finding.testable for finding in comparison.findings)
    same = sum(finding.identical for finding in comparison.findings)
    identical = f" {same} with identical predictions are not tested." if same else ""
    return f"{', '.join(words)}, of B against A; {tests} tests, Holm-corrected at {100 * LEVEL:g} %.{identical}"


CSV_NAMES = ["dataset", "model", "method", "method_b", "cell_a", "cell_b", "metric", "unit", "better", "mean_a"]
CSV_NAMES += ["mean_b", "difference", "low", "high", "p", "corrected_p", "verdict", "margin", "detectable"]
CSV_NAMES += ["seeds_to_settle", "standard_error", "seed_variance", "monte_carlo_variance", "example_variance"]
CSV_NAMES += ["population", "replicates_a", "replicates_b", "pairs"]


def _json(comparison: Comparison) -> str:
    body = {
        "findings": list(comparison.rows()),
        "only_in_a": [result.title for result in comparison.only_a],
        "only_in_b": [result.title for result in comparison.only_b],
        "notes": list(_notes(comparison)),
        "exit_code": comparison.exit_code,
    }
    return json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _markdown(shown: Sequence[tuple[Sheet, Sheet]], summary: str, notes: Sequence[str]) -> str:
    """Return the verdicts, and below them, folded, the parts of the uncertainty."""
    text = "".join(text_table.markdown(main) for main, _ in shown) + f"{summary}\n"
    text += "".join(f"\n- {text_table.escape_markdown(note)}" for note in notes) + ("\n" if notes else "")
    details = "".join(text_table.markdown(detail) for _, detail in shown)
    return f"{text}\n<details><summary>What the uncertainty is made of</summary>\n\n{details}{LEGEND}\n\n</details>\n"


# sheets of a comparison


def _sheets(comparison: Comparison, units: bool = True) -> Iterator[tuple[Sheet, Sheet]]:
    """Yield for each data set the verdicts, and the parts of their uncertainty."""
    grouped: dict[str, list[Pair]] = {}
    for pair in comparison.pairs:
        grouped.setdefault(pair.a.cell.dataset.identity_sha256, []).append(pair)
    for pairs in grouped.values():
        labels = tables.labels([pair.a for pair in pairs])
        title = tables.title_of([pair.a for pair in pairs])
        verdicts, parts = [], []
        for i, pair in enumerate(pairs):
            words = [Field(_named(pair, name, column.get(i, ""))) for name, column in labels.items()]
            for finding in pair.findings:
                verdicts.append((*words, *_verdict(finding, units)))
                parts.append((*words, *_parts(finding)))
                words = [Field("") for _ in words]
        left = len(labels) + 1
        heads = (*labels, "metric", "A", "B", "B − A", "95 %", "p", "verdict")
        yield (
            Sheet(title, heads, tuple(verdicts), left),
            Sheet(f"{title}: what the uncertainty is made of", (*labels, *PART_COLUMNS), tuple(parts), left),
        )


PART_COLUMNS = (
    "metric",
    "n",
    "standard error",
    "seeds",
    "(samples)",
    "examples",
    "could show",
    "margin",
    "seeds to settle",
)


def _named(pair: Pair, label: str, text: str) -> str:
    other = pair.b.cell.method.name
    return f"{text} → {other}" if label == "method" and other != pair.a.cell.method.name else text


def _verdict(finding: Finding, units: bool) -> list[Field]:
    arrow = tables.ARROWS[finding.better]
    decided = finding.verdict in ("better", "worse")
    width, scale = finding.interval, max(abs(finding.mean_a), abs(finding.mean_b))
    low, high = (_rounded(finding.estimate + side * width, width / 2, scale) for side in (-1, 1))
    means = [_rounded(mean, max(width / 2, 1e-3 * scale), scale) for mean in (finding.mean_a, finding.mean_b)]
    return [
        Field(f"{finding.metric} {arrow}" + f" ({finding.unit})" * units),
        *map(Field, means),
        Field(_signed(_rounded(finding.estimate, width / 2, scale))),
        Field(tables.ABSENT if math.isnan(width) else f"[{_signed(low)}, {_signed(high)}]"),
        Field(_probability(finding.corrected_p)),
        Field(finding.verdict, decided),
    ]


def _parts(finding: Finding) -> list[Field]:
    """Return the parts of the variance in per cent, and the smallest difference that could have been shown."""
    difference = finding.difference
    seed, example = float(difference.seed), float(difference.example)
    total = seed + example
    shares = [_share(part, total) for part in (seed, finding.monte_carlo, example)]
    replicates = "+".join(map(str, finding.replicates)) if finding.pairs < max(finding.replicates) else ""
    error = float(difference.standard_error)
    return [
        Field(finding.metric),
        Field(replicates or str(finding.pairs)),
        Field(_short(error)),
        *map(Field, shares),
        Field(_short(finding.detectable or math.nan)),
        Field(_short(finding.margin)),
        Field(_seeds(finding)),
    ]


def _notes(comparison: Comparison) -> Iterator[str]:
    if not comparison.pairs:
        yield "no cell of A has a partner in B; --ignore-options pairs methods by name, --treatment across methods"
    for pair in comparison.pairs:
        for note in pair.notes:
            yield f"{pair.a.title}: {note}."
    for side, alone in (("A", comparison.only_a), ("B", comparison.only_b)):
        for result in alone:
            yield f"only in {side}: {result.title}, {tables.spelled('methods', result.cell.method)}"
    for line in comparison.apart:
        yield f"not comparable, the protocols differ: {line}"
    for line in comparison.options:
        yield f"the options differ: {line}; --ignore-options compares them"
    if comparison.findings and not any(finding.margin for finding in comparison.findings):
        yield (
            "no margin is given, by --margins or [tool.bdlbench.gate.margins] of a pyproject.toml here or above: all "
            "margins are 0, and only identical predictions are equivalent"
        )
    yield from comparison.untold
    yield from _populations(comparison.findings)
    skewed = list(dict.fromkeys(finding.metric for finding in comparison.findings if finding.rests_on_few))
    if skewed:
        yield (
            f"A few test examples carry the uncertainty of {', '.join(skewed)}: such intervals cover less often than "
            "95 %, so take the verdicts with care (docs/statistics.md)."
        )


def _populations(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a line for each population that intervals are for; it names its metrics if there are several."""
    metrics: dict[Population, dict[str, None]] = {}
    for finding in findings:
        metrics.setdefault(finding.population, {})[finding.metric] = None
    for population, names in metrics.items():
        of = "" if len(metrics) == 1 else f" of {', '.join(names)}"
        yield f"Intervals{of} are for {population}."


def _rounded(value: float, error: float, scale: float) -> str:
    """Round to the decimals of the error. A value below a millionth of the scale is rounding, and becomes 0."""
    if abs(value) <= SHOWN_ROUNDING * scale:
        return "0"
    return tables.number(value, max(error, SHOWN_ROUNDING * scale) if error > 0 else math.nan).mean


def _signed(text: str) -> str:
    if text.startswith("-"):
        return "−" + text[1:]
    return f"+{text}" if text[:1].isdigit() and float(text) != 0 else text


def _short(value: float) -> str:
    return tables.ABSENT if math.isnan(value) else f"{value:.2g}"


def _share(part: float, total: float) -> str:
    if math.isnan(part) or math.isnan(total) or total == 0:
        return tables.ABSENT
    return f"{100 * part / total:.0f} %"


def _probability(p: float) -> str:
    if math.isnan(p):
        return tables.ABSENT
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _seeds(finding: Finding) -> str:
    if math.isnan(finding.seeds):
        return tables.ABSENT
    return "∞" if math.isinf(finding.seeds) else f"{finding.seeds:.0f}"


# rankings


def render_ranking(ranking: Ranking, style: Format = "terminal", width: int = 100, color: bool = False) -> str:
    """Return a ranking as text: mean ranks and values, and every pair."""
    if style == "csv":
        return text_table.csv_lines(_duel_rows(ranking), list(next(_duel_rows(ranking))))
    if style == "json":
        return _ranking_json(ranking)
    shown, summary = _ranking_sheets(ranking), _ranking_summary(ranking)
    if style == "latex":
        return "".join(text_table.latex(sheet, f"{sheet.title}. {summary}") for sheet in shown)
    if style == "markdown":
        notes = "".join(f"\n- {text_table.escape_markdown(note)}" for note in ranking.notes)
        return "".join(map(text_table.markdown, shown)) + f"{summary}\n{notes}\n"
    text = "".join(text_table.terminal(sheet, color, width) + "\n" for sheet in shown)
    return text + text_table.wrapped([*ranking.notes, summary], width, color)


def _ranking_summary(ranking: Ranking) -> str:
    friedman = "" if math.isnan(ranking.friedman_p) else f"Friedman's test: p = {ranking.friedman_p:.3g}. "
    pairs = "Pairs: Wilcoxon's signed ranks over data sets, Holm-corrected. "
    return (
        f"{friedman}{pairs}P(first better): that a run of the first beats one of the second, mean over data sets, with "
        "a 95 % interval (Newcombe 2006): it speaks of new seeds on these data sets, p of new data sets."
    )


def _ranking_sheets(ranking: Ranking) -> list[Sheet]:
    arrow = tables.ARROWS[ranking.better]
    columns = [tables.number(float(value)).mean for value in ranking.means.T.ravel()]
    wide = len(ranking.blocks)
    rows = [
        (Field(name), Field(f"{place:.2f}"), *map(Field, columns[i * wide : (i + 1) * wide]))
        for i, (name, place) in enumerate(zip(ranking.methods, ranking.mean_ranks, strict=True))
    ]
    duels = [
        (
            Field(f"{duel.first} – {duel.second}"),
            Field(_probability(duel.p_value)),
            Field(_probability(duel.corrected_p), duel.corrected_p <= LEVEL),
            Field(f"{duel.improvement:.2f}"),
            Field(f"[{duel.interval[0]:.2f}, {duel.interval[1]:.2f}]"),
        )
        for duel in ranking.duels
    ]
    title = f"{ranking.metric} {arrow} ({ranking.unit})"
    return [
        Sheet(title, ("method", "mean rank", *ranking.blocks), tuple(rows)),
        Sheet(f"{title}: pairs", ("pair", "p", "Holm", "P(first better)", "95 %"), tuple(duels)),
    ]


def _duel_rows(ranking: Ranking) -> Iterator[VerdictRow]:
    places: Mapping[str, float] = dict(zip(ranking.methods, ranking.mean_ranks, strict=True))
    for duel in ranking.duels:
        yield {
            "metric": ranking.metric,
            "first": duel.first,
            "second": duel.second,
            "mean_rank_first": places[duel.first],
            "mean_rank_second": places[duel.second],
            "p": duel.p_value,
            "corrected_p": duel.corrected_p,
            "improvement": duel.improvement,
            "low": duel.interval[0],
            "high": duel.interval[1],
        }


def _ranking_json(ranking: Ranking) -> str:
    body = {
        "metric": ranking.metric,
        "methods": dict(zip(ranking.methods, ranking.mean_ranks, strict=True)),
        "datasets": list(ranking.blocks),
        "friedman_p": ranking.friedman_p if math.isfinite(ranking.friedman_p) else None,
        "pairs": list(_duel_rows(ranking)),
        "notes": list(ranking.notes),
    }
    return json.dumps(body, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
