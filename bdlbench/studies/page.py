"""Studies for people: lines in a terminal, and one page as Markdown and as HTML with every figure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from bdlbench.core import files
from bdlbench.report.page import drawing, template
from bdlbench.report.plots import Panel
from bdlbench.report.text_table import Field, Sheet, escape_markdown, markdown, terminal
from bdlbench.stats.hypotheses import Statement
from bdlbench.studies.verdicts import STUDY_VERDICTS, Study, state

FILLED: dict[str, Any] = {"width": 120, "break_long_words": False, "break_on_hyphens": False}

HEADINGS = ("statement", "must be", "measured", "95 % interval", "state")

HEAD = (
    "Each claim of the lecture is an experiment that could refute it: a hypothesis with its bounds, replicates, an "
    "interval for each statement, and a verdict. Bounds are written before any number is seen; what was changed "
    "afterwards is said. A claim holds where every statement is shown at 5 %; it does not hold where one is refuted at "
    "5 % after Holm's correction; else it is inconclusive."
)


def text(study: Study, color: bool = False) -> str:
    """Return a study for a terminal: its title, its statements, and the verdict.

    Args:
        study: The study.
        color: Whether the terminal has colour.
    """
    if study.judged is None:
        return f"{study.name}: {study.claim.title}\nnot run: {study.missing}\n"
    return terminal(_sheet(study), color) + f"{verdict(study)}\n"


def write(studies: Sequence[Study], folder: Path) -> Path:
    """Write the page of all studies to folder/README.md and folder/index.html, and figures to folder/figures.

    Args:
        studies: The studies, in the page's order.
        folder: The folder.

    Returns:
        The path of the HTML page.
    """
    drawn = {
        study.name: drawing(Panel(study.name, study.claim.alt, study.figure), "", folder / "figures")
        for study in studies
        if study.figure is not None
    }
    stems = {name: f"figures/{found.stem}.png" for name, found in drawn.items()}
    title = "The lecture's claims, measured" + " at paper size" * all(study.full for study in studies)
    larger = "full/" if (folder / "full" / "README.md").is_file() else ""
    files.write_atomic(folder / "README.md", _markdown(title, studies, stems, larger).encode())
    told = [
        {
            "study": study,
            "claim": study.claim,
            "protocol": study.claim.protocol(study.full).words,
            "sheet": _sheet(study) if study.judged else None,
            "verdict": verdict(study),
            "svg": drawn[study.name].svg if study.name in drawn else "",
        }
        for study in studies
    ]
    html = template("claims.html.j2", "bdlbench.studies").render(
        title=title, head=HEAD, counts=counted(studies), larger=larger and f"{larger}index.html", told=told
    )
    files.write_atomic(folder / "index.html", html.encode())
    return folder / "index.html"


def counted(studies: Sequence[Study]) -> str:
    """Return the counts of each verdict, such as "9 hold, 2 inconclusive".

    Args:
        studies: The studies.
    """
    counts = Counter(study.verdict for study in studies)
    plural = {"holds": "hold", "does not hold": "do not hold"}
    words = {word: plural.get(word, word) if counts[word] > 1 else word for word in STUDY_VERDICTS}
    told = ", ".join(f"{counts[word]} {words[word]}" for word in STUDY_VERDICTS if counts[word])
    return f"{len(studies)} claim{'s' * (len(studies) != 1)}: {told}"


def verdict(study: Study) -> str:
    """Return the verdict in a sentence, with the statement that decided it.

    Args:
        study: The study.
    """
    if study.judged is None:
        return f"Not run: {study.missing}."
    deciding = study.statements[study.judged.deciding]
    if not deciding.estimate.known:
        return f"Inconclusive: nothing says how much this varies: {deciding.words}."
    low, high = deciding.interval()
    told = f"{deciding.words} is {_number(deciding.estimate.value)} [{_number(low)}, {_number(high)}]"
    told += f"{deciding.unit and ' '}{deciding.unit}, and must be {bounds(deciding)}"
    closest = "the statement that refutes it: " if study.verdict == "does not hold" else "the weakest statement: "
    return f"{study.verdict.capitalize()}; {closest if len(study.statements) > 1 else ''}{told}."


def bounds(statement: Statement) -> str:
    """Return the bounds of a statement in words, such as "above 0".

    Args:
        statement: The statement.
    """
    if statement.low == -math.inf:
        return f"below {_number(statement.high)}"
    if statement.high == math.inf:
        return f"above {_number(statement.low)}"
    return f"{_number(statement.low)} to {_number(statement.high)}"


def _sheet(study: Study) -> Sheet:
    rows = []
    for place, statement in enumerate(study.statements):
        low, high = statement.interval()
        unit = f"{statement.unit and ' '}{statement.unit}"
        told = (statement.words, bounds(statement), f"{_number(statement.estimate.value)}{unit}")
        interval = f"{_number(low)} … {_number(high)}" if math.isfinite(low) else ""
        rows.append(tuple(map(Field, (*told, interval, state(study, place)))))
    return Sheet(f"{study.name}: {study.claim.title}", HEADINGS, tuple(rows), left=2)


def _markdown(title: str, studies: Sequence[Study], stems: dict[str, str], larger: str) -> str:
    rows = [
        tuple(map(Field, (study.claim.title, study.verdict, _time(study.seconds), study.claim.slide)))
        for study in studies
    ]
    parts = [f"# {title}\n\n", fill(HEAD, **FILLED), f"\n\n{counted(studies)}.\n\n"]
    if larger:
        parts.append(f"Some have a paper size too: [the lecture's claims at paper size]({larger}README.md).\n\n")
    parts.append(markdown(Sheet("Verdicts", ("claim", "verdict", "time", "slide"), tuple(rows), left=4)))
    for study in studies:
        claim = study.claim
        parts.append(f"## {escape_markdown(claim.title)}\n\n")
        for name, told in (
            ("Slide", claim.slide),
            ("Hypothesis", claim.hypothesis),
            ("Protocol", claim.protocol(study.full).words),
            ("Changed after numbers were seen", claim.changes),
            ("Verdict", verdict(study)),
        ):
            if not told:
                continue
            parts.append(fill(f"**{name}.** {escape_markdown(told)}", **FILLED) + "\n\n")
        if study.name in stems:
            parts.append(f"![{escape_markdown(claim.alt)}]({stems[study.name]})\n\n")
        parts.append(fill(escape_markdown(claim.paragraph), **FILLED) + "\n\n")
        if study.judged is not None:
            parts.append(markdown(_sheet(study)))
        parts.append(f"Run it: `{study.command}`\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _number(value: float) -> str:
    """Return three digits."""
    return f"{value:{'#' * (0.01 < abs(value) < 100)}.3g}".replace("-", "−")
