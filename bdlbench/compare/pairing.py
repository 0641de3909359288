"""Partners: the cells of two sides that are compared with each other, and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from bdlbench.core import files
from bdlbench.core.errors import BadInput, NotComparable, unknown
from bdlbench.core.options import spell
from bdlbench.core.spec import Choice, flatten
from bdlbench.records.cells import Result


@dataclass(frozen=True)
class Pairing:
    """The rule that says which treatments are partners.

    Attributes:
        treatment: (method in A, method in B), with any options, or with the named ones: "mc_dropout(rate=0.1)".
        ignore_options: Whether methods are paired by name although their options differ.
    """

    treatment: tuple[str, str] | None = None
    ignore_options: bool = False

    def question(self, result: Result, side: int) -> str | None:
        """Return a key that is equal for partners; None for a cell that is not compared."""
        method = result.cell.method
        if self.treatment and not _is_asked(method, self.treatment[side]):
            return None
        asked: Any = "treatment" if self.treatment else method.name if self.ignore_options else method.as_dict()
        return files.digest([result.cell.protocol(), asked])


SAME_TREATMENT = Pairing()
"""The rule unless another is asked for: partners have the same method with the same options."""


@dataclass(frozen=True)
class Partners:
    """The cells of two sides.

    Attributes:
        couples: Cells of A, each with its partner in B.
        only_a: Cells that B lacks.
        only_b: Cells that A lacks.
        apart: Similar cells whose protocols differ, one line each.
        options: Cells that differ only in the options of their method, one line each.
    """

    couples: tuple[tuple[Result, Result], ...]
    only_a: tuple[Result, ...]
    only_b: tuple[Result, ...]
    apart: tuple[str, ...]
    options: tuple[str, ...]


def partners(a: Sequence[Result], b: Sequence[Result], pairing: Pairing) -> Partners:
    """Find the partners among the cells of two sides.

    Args:
        a: The cells of the first side.
        b: The cells of the second side.
        pairing: Which treatments are partners.

    Returns:
        The couples, and the cells without a partner.

    Raises:
        NotComparable: The sides share no protocol, or partners were scored on other data or by another metric.
        BadInput: A side lacks the treatment that is asked for, or partners are ambiguous.
    """
    ours, theirs = ([r for r in side if pairing.question(r, i)] for i, side in enumerate((a, b)))
    for i, asked in enumerate((ours, theirs)):
        if pairing.treatment and not asked:
            _refuse_absent((a, b)[i], "AB"[i], pairing.treatment[i])
    couples = tuple(_couples(ours, theirs, pairing))
    if not couples:
        _refuse_other_protocol(ours, theirs)
    for couple in couples:
        _refuse_other_measure(*couple)
    used = {id(result) for couple in couples for result in couple}
    only_a, only_b = (tuple(r for r in side if id(r) not in used) for side in (ours, theirs))
    return Partners(couples, only_a, only_b, tuple(_lookalikes(only_a, only_b)), tuple(_other_options(only_a, only_b)))


def _refuse_absent(results: Sequence[Result], side: str, asked: str) -> NoReturn:
    """Raise BadInput where no cell of a side has the method in question, and say which the side has."""
    name = asked.partition("(")[0].strip()
    treatments = {files.digest(r.cell.method.as_dict()): r.cell.method for r in results if r.cell.method.name == name}
    if not treatments:
        raise BadInput(
            f"--treatment {asked}: {unknown('method', name, {r.cell.method.name for r in results})} (in {side})"
        )
    options = [method.flat for method in treatments.values()]
    differing = [key for key in options[0] if len({spell(one.get(key)) for one in options}) > 1] or [*options[0]][1:]
    words = [f"{name}({', '.join(f'{key}={spell(one[key])}' for key in differing if key in one)})" for one in options]
    raise BadInput(f"--treatment {asked}: {side} has no such cell; it has {', '.join(words)}")


def _couples(ours: Sequence[Result], theirs: Sequence[Result], pairing: Pairing) -> Iterator[tuple[Result, Result]]:
    """Yield pairs: first the same cell, then the same options on another machine, then partners by `pairing`."""
    left, rest = list(theirs), list(ours)
    rules = [lambda r, side: r.key, SAME_TREATMENT.question, pairing.question]
    for rule in rules[2:] if pairing.treatment else rules:
        known: dict[str | None, list[Result]] = {}
        asking: dict[str | None, list[Result]] = {}
        for result in left:
            known.setdefault(rule(result, 1), []).append(result)
        for result in rest:
            asking.setdefault(rule(result, 0), []).append(result)
        used: set[int] = set()
        for result in rest:
            answer = rule(result, 0)
            if partners := known.get(answer):
                if rule == pairing.question:
                    _refuse_ambiguous(asking[answer], "A", pairing)
                    _refuse_ambiguous(partners, "B", pairing)
                partner = partners.pop(0)
                asking[answer].remove(result)
                used |= {id(result), id(partner)}
                yield result, partner
        left, rest = ([r for r in results if id(r) not in used] for results in (left, rest))


def _refuse_ambiguous(candidates: Sequence[Result], side: str, pairing: Pairing) -> None:
    """Raise BadInput unless the candidates differ in device or threads only."""
    treatments = [r.cell.method.flat for r in candidates]
    names = sorted({k for t in treatments for k in t if any(t.get(k) != other.get(k) for other in treatments)})
    if names:
        which = "--treatment" if pairing.treatment else "--ignore-options"
        one = candidates[0].cell.method.name, names[0], spell(treatments[0].get(names[0]))
        mend = "name one, such as {}({}={})".format(*one) if pairing.treatment else "keep one"
        count, title = len(candidates), candidates[0].title
        raise BadInput(f"{which}: {side} has {count} cells of {title}, which differ in {', '.join(names)}: {mend}")


def _refuse_other_protocol(ours: Sequence[Result], theirs: Sequence[Result]) -> None:
    """Raise NotComparable where no cells pair because of their protocols, and name the field."""
    known = {files.digest(t.cell.protocol()) for t in theirs}
    if any(files.digest(r.cell.protocol()) in known for r in ours):
        return
    gaps = [_protocol_gap(r, t) for r in ours for t in theirs]
    nearest = min((gap for gap in gaps if gap), key=len, default=[])
    raise NotComparable(f"the protocols differ: {'; '.join(nearest) or 'one side has no such cell'}")


def _refuse_other_measure(a: Result, b: Result) -> None:
    for name in a.sources.keys() & b.sources.keys():
        if a.sources[name] != b.sources[name]:
            raise NotComparable(f"{a.title}: the data differ: SHA-256 of {name}")
    for name in a.scores.keys() & b.scores.keys():
        ours, theirs = a.scores[name].meaning, b.scores[name].meaning
        if ours != theirs:
            raise NotComparable(f"{a.title}: metric {name} is {ours!r} in A and {theirs!r} in B")


def _lookalikes(only_a: Iterable[Result], only_b: Sequence[Result]) -> Iterator[str]:
    """Yield cells of one method, model and data set without a partner because their protocols differ."""
    for a in only_a:
        gaps = sorted((_protocol_gap(a, b) for b in only_b if b.title == a.title), key=len)
        if gaps and gaps[0]:
            yield f"{a.title}: {'; '.join(gaps[0])}"


def _other_options(only_a: Iterable[Result], only_b: Sequence[Result]) -> Iterator[str]:
    """Yield cells that differ only in options of their method, with these options."""
    for a in only_a:
        alike = [b for b in only_b if (b.title, b.cell.protocol()) == (a.title, a.cell.protocol())]
        gaps = sorted((gap_lines(*(r.cell.method.flat for r in (a, b))) for b in alike), key=len)
        if gaps:
            yield f"{a.title}: {', '.join(gaps[0])}"


def _protocol_gap(a: Result, b: Result) -> list[str]:
    """Return the differing fields of two protocols in words; of another data set or model only the name."""
    left, right = flatten(a.cell.protocol()), flatten(b.cell.protocol())
    whole = [name for name in ("dataset", "model") if left[name] != right[name]]
    return gap_lines(
        *({k: v for k, v in t.items() if k in whole or k.split(".")[0] not in whole} for t in (left, right))
    )


def gap_lines(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return lines such as "samples is 50 in A and 100 in B"."""
    differing = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return [f"{name} is {a.get(name, 'absent')} in A and {b.get(name, 'absent')} in B" for name in differing]


def _is_asked(method: Choice, text: str) -> bool:
    """Tell whether a method is the one of "NAME" or "NAME(OPTION=VALUE, …)"; values as tables print them."""
    name, bracket, rest = text.partition("(")
    if method.name == text or not bracket or not rest.endswith(")"):
        return method.name == text
    options = method.flat
    pairs = [part.partition("=") for part in rest[:-1].split(",")]
    return method.name == name.strip() and all(
        option.strip() in options and _same(options[option.strip()], value.strip()) for option, _, value in pairs
    )


def _same(value: Any, text: str) -> bool:
    try:
        return float(text) == float(value) and not isinstance(value, bool)
    except (TypeError, ValueError):
        return spell(value) == text
