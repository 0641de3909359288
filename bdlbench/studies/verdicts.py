"""A claim's statements against its records, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from bdlbench.core import foreign
from bdlbench.core.errors import INCOMPLETE, NEGATIVE
from bdlbench.stats.hypotheses import ERROR_RATE, ClaimVerdict, Judged, Statement, judge
from bdlbench.studies.experiment import Experiment, NotMeasured, Readings

StudyVerdict = ClaimVerdict | Literal["not run"]
STUDY_VERDICTS: tuple[StudyVerdict, ...] = ("holds", "does not hold", "inconclusive", "not run")


@dataclass(frozen=True)
class Study:
    """A claim with what its experiment found.

    Attributes:
        name: The claim's name.
        claim: The claim.
        full: Whether this is the paper's size.
        measured: The numbers; None where cells are missing.
        statements: The hypothesis about them.
        judged: The verdict on all statements; None where cells are missing.
        missing: What is missing, "" where nothing is.
        seconds: Training and prediction of all cells.
        figure: The numbers, drawn; None where cells are missing.
    """

    name: str
    claim: Experiment
    full: bool = False
    measured: Readings | None = None
    statements: tuple[Statement, ...] = ()
    judged: Judged | None = None
    missing: str = ""
    seconds: float = math.nan
    figure: Figure | None = None

    @property
    def verdict(self) -> StudyVerdict:
        """The verdict."""
        return self.judged.verdict if self.judged else "not run"

    @property
    def command(self) -> str:
        """The command that makes it again."""
        return f"python -m bdlbench claims {self.name}" + " --full" * self.full


def study(name: str, claim: Experiment, measured: Readings, full: bool = False, seconds: float = math.nan) -> Study:
    """Judge a claim by the numbers of all its cells, and draw them.

    Args:
        name: The claim's name.
        claim: The claim.
        measured: Its numbers.
        full: Whether they are of the paper's size.
        seconds: Training and prediction.

    Returns:
        The study, with its verdict; without one where a metric that the claim reads failed.

    Raises:
        BadInput: A claim of somebody else's file raises, states nothing or draws no figure; with file and line.
    """
    try:
        with foreign.calling(f"claim {name}", claim.statements):
            statements = tuple(claim.statements(measured))
            if not statements or not all(isinstance(one, Statement) for one in statements):
                raise foreign.Broken("statements(readings) returns a list of Statement, at least one")
        with foreign.calling(f"claim {name}", claim.draw):
            figure = claim.draw(measured)
            if not isinstance(figure, Figure):
                raise foreign.Broken(f"draw(readings) returned a {type(figure).__name__}: return a Figure")
    except NotMeasured as error:
        return Study(name, claim, full, missing=str(error), seconds=seconds)
    return Study(name, claim, full, measured, statements, judge(statements), "", seconds, figure)


def state(study: Study, index: int) -> str:
    """Say of one statement whether it is shown, refuted or open.

    Args:
        study: The study, with a verdict.
        index: The statement's place.
    """
    assert study.judged is not None
    if study.judged.refuted[index] <= ERROR_RATE:
        return "refuted"
    return "shown" if study.statements[index].p_outside <= ERROR_RATE else "open"


def exit_code(studies: Sequence[Study]) -> int:
    """Return the exit code of a command: 4 where anything is missing, 1 where a claim does not hold, else 0.

    Args:
        studies: All that were asked for.
    """
    verdicts = {study.verdict for study in studies}
    return INCOMPLETE if "not run" in verdicts else NEGATIVE if "does not hold" in verdicts else 0
