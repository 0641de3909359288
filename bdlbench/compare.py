"""Records side by side: replicates of a cell brought together, and differences that know their own uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from bdlbench import files
from bdlbench.errors import NotComparable
from bdlbench.records import Record
from bdlbench.spec import Replicate

LEVEL = 0.05
"""How often a test may call equal things different."""


@dataclass(frozen=True)
class Scores:
    """One metric of one cell. values: by replicate; NaN for what was not finite."""

    unit: str
    better: Literal["higher", "lower"]
    definition: str
    values: dict[Replicate, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Over replicates; NaN where one is."""
        return _mean(list(self.values.values()))

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN for fewer than two replicates."""
        return _standard_error(list(self.values.values()))


@dataclass(frozen=True)
class Result:
    """All that is known of one cell. costs: one for each batch that trained replicates of it."""

    key: str
    cell: dict[str, Any]
    scores: dict[str, Scores]
    replicates: tuple[Replicate, ...]
    failed: dict[Replicate, str]
    costs: tuple[dict[str, float], ...]
    sources: dict[str, str]

    @property
    def title(self) -> str:
        """For people: mle · mlp · digits."""
        protocol = self.cell["protocol"]
        return " · ".join([self.cell["treatment"]["name"], protocol["model"]["name"], protocol["dataset"]["name"]])


class Difference(NamedTuple):
    """Mean of b − a over the n replicates that both have, its standard error, the p of a two-sided paired t-test."""

    mean: float
    standard_error: float
    n: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Cells that both sides have, and those that one side lacks."""

    pairs: tuple[tuple[Result, Result], ...]
    only_a: tuple[Result, ...]
    only_b: tuple[Result, ...]


def merge(records: Iterable[Record]) -> list[Result]:
    """One result for each cell, in the order of first appearance.

    Raises NotComparable where records of a cell were made from differing data or with differing metrics.
    """
    cells: dict[str, list[Record]] = {}
    for record in records:
        cells.setdefault(record.key, []).append(record)
    return [_merge_cell(key, parts) for key, parts in cells.items()]


def select(results: Iterable[Result], keys: Sequence[str], replicates: Iterable[Replicate]) -> list[Result]:
    """The results of these cells, in this order, with these replicates only."""
    wanted, known = set(replicates), {result.key: result for result in results}
    return [_only(known[key], wanted) for key in keys if key in known]


def paired_difference(a: Mapping[Replicate, float], b: Mapping[Replicate, float]) -> Difference:
    """b − a over shared replicates: mean, standard error, and p of t = mean / error with n − 1 degrees of freedom.

    NaN where it is undefined: n = 0 for the mean, n < 2 or a value that is not finite for error and p. Where all
    differences agree to rounding, p is 1 for no difference and 0 for any. Student 1908.
    """
    gaps = [b[replicate] - value for replicate, value in sorted(a.items()) if replicate in b]
    mean, error = _mean(gaps), _standard_error(gaps)
    if math.isnan(error):
        return Difference(mean, error, len(gaps), math.nan)
    if error <= 1e-12 * abs(mean):
        return Difference(mean, error, len(gaps), float(mean == 0))
    from scipy.special import stdtr  # the t distribution without the weight of scipy.stats

    return Difference(mean, error, len(gaps), 2 * float(stdtr(len(gaps) - 1, -abs(mean / error))))


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which hypotheses are rejected so that the chance of any false rejection is at most `level`. Holm 1979."""
    rejected = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def leaders(scores: Mapping[str, Scores]) -> set[str]:
    """Who has the best mean, and who cannot be told from it: paired t-tests against the best, Holm-corrected.

    scores: one metric, by the name of who reached it. Those that share fewer than two replicates with the best, or
    have a value that is not finite, are not tested and do not lead, unless their mean is the same.
    """
    means = {name: _signed(score) for name, score in scores.items() if math.isfinite(score.mean)}
    if not means:
        return set()
    top = max(means.values())
    first = next(name for name, value in means.items() if value == top)
    tests = {name: paired_difference(scores[first].values, scores[name].values).p_value for name in means}
    tested = [name for name, p in tests.items() if name != first and not math.isnan(p)]
    apart = holm([tests[name] for name in tested])
    level_with = {name for name, far in zip(tested, apart, strict=True) if not far}
    return {name for name, value in means.items() if value == top} | level_with


def compare(a: Sequence[Record], b: Sequence[Record]) -> Comparison:
    """Cells of the same protocol and treatment side by side; device and threads may differ.

    Raises NotComparable, naming the field, where the sides share no protocol, or where a shared cell was scored on
    differing data or by differing metrics.
    """
    ours, theirs = merge(a), merge(b)
    pairs = tuple(_pairs(ours, theirs))
    if not pairs:
        _refuse_other_protocol(ours, theirs)
    for left, right in pairs:
        _refuse_other_measure(left, right)
    used = {id(result) for pair in pairs for result in pair}
    only_a, only_b = (tuple(r for r in side if id(r) not in used) for side in (ours, theirs))
    return Comparison(pairs, only_a, only_b)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; an entry's name goes by the path alone: {"a": {"name": "x"}} as {"a": "x"}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = prefix if key == "name" and prefix else f"{prefix}.{key}".lstrip(".")
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


def _merge_cell(key: str, parts: Sequence[Record]) -> Result:
    scores: dict[str, Scores] = {}
    sources: dict[str, str] = {}
    for record in parts:
        _agree(record, "data", sources, record.environment.get("sources", {}))
        sources |= record.environment.get("sources", {})
        for name, entry in record.values["metrics"].items():
            fresh = Scores(entry["unit"], entry["better"], entry["definition"])
            known = scores.setdefault(name, fresh)
            _agree(record, f"metric {name}", {"": known.definition}, {"": fresh.definition})
            numbers = [math.nan if value is None else float(value) for value in entry["values"]]
            known.values.update(zip(record.replicates, numbers, strict=True))
    done = sorted({replicate for record in parts for replicate in record.replicates})
    failed = {r: why for record in parts for r, why in record.failed.items() if r not in done}
    costs = tuple(record.cost for record in parts if record.cost)
    return Result(key, parts[0].cell, scores, tuple(done), failed, costs, sources)


def _agree(record: Record, what: str, known: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name in known.keys() & found.keys():
        if known[name] != found[name]:
            raise NotComparable(f"{record.name} differs from other records of its cell in {what} {name}".rstrip())


def _only(result: Result, wanted: set[Replicate]) -> Result:
    scores = {
        name: Scores(s.unit, s.better, s.definition, {r: v for r, v in s.values.items() if r in wanted})
        for name, s in result.scores.items()
    }
    replicates = tuple(r for r in result.replicates if r in wanted)
    failed = {r: why for r, why in result.failed.items() if r in wanted}
    return Result(result.key, result.cell, scores, replicates, failed, result.costs, result.sources)


def _pairs(ours: Sequence[Result], theirs: Sequence[Result]) -> Iterator[tuple[Result, Result]]:
    """Partners on the same device with the same threads where there are such, else on any."""
    left = list(theirs)
    for result in sorted(ours, key=lambda r: r.key not in {t.key for t in theirs}):
        partners = [t for t in left if _question(t) == _question(result)]
        if partners:
            partner = next((t for t in partners if t.key == result.key), partners[0])
            left.remove(partner)
            yield result, partner


def _question(result: Result) -> str:
    return files.digest([result.cell["protocol"], result.cell["treatment"]])


def _refuse_other_protocol(ours: Sequence[Result], theirs: Sequence[Result]) -> None:
    """Nothing pairs: say which field of the protocol is to blame, if it is the protocol."""
    known = {files.digest(t.cell["protocol"]) for t in theirs}
    if any(files.digest(r.cell["protocol"]) in known for r in ours):
        return
    gaps = [_protocol_gap(r, t) for r in ours for t in theirs]
    nearest = min((gap for gap in gaps if gap), key=len, default=[])
    raise NotComparable(f"the protocols differ: {'; '.join(nearest) or 'one side has no cell'}")


def _protocol_gap(a: Result, b: Result) -> list[str]:
    """The fields of the protocols that differ, in words; only the names where data set or model is another one."""
    left, right = flatten(a.cell["protocol"]), flatten(b.cell["protocol"])
    fields = [name for name in left | right if left.get(name) != right.get(name)]
    whole = [name for name in fields if name in ("dataset", "model")]
    named = [name for name in fields if name in whole or name.split(".")[0] not in whole]
    return [f"{name} is {left.get(name, 'absent')} in A and {right.get(name, 'absent')} in B" for name in named]


def _refuse_other_measure(a: Result, b: Result) -> None:
    for name in a.sources.keys() & b.sources.keys():
        if a.sources[name] != b.sources[name]:
            raise NotComparable(f"{a.title}: the data differ: SHA-256 of {name}")
    for name in a.scores.keys() & b.scores.keys():
        definitions = (a.scores[name].definition, b.scores[name].definition)
        if definitions[0] != definitions[1]:
            raise NotComparable(f"{a.title}: metric {name} is {definitions[0]} in A and {definitions[1]} in B")


def _signed(score: Scores) -> float:
    return score.mean if score.better == "higher" else -score.mean


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _standard_error(values: Sequence[float]) -> float:
    """sd / √n with n − 1 in the variance."""
    n = len(values)
    if n < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
