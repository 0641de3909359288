"""What is timed side by side: a work, those who do it, and the seconds that each takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

from bdlbench.core.clock import timed_in_turn

OURS = "bdlbench"
PLAIN_NAME = "plain torch"
AUTOGRAD = "plain autograd"

Run = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One way to do a work.

    build(count) -> a call that does it `count` times: epochs, or posterior samples. variant: which of
    several ways, or a class of estimator that is not the row's (in_class False). differs: what else it computes.
    """

    library: str
    build: Callable[[int], Run]
    variant: str = ""
    in_class: bool = True
    differs: str = ""

    @property
    def label(self) -> str:
        """bayesian-torch (Flipout)"""
        return f"{self.library} ({self.variant})" if self.variant else self.library


@dataclass(frozen=True)
class Work:
    """A row of the table.

    plain, fastest: what seconds are divided by, the deterministic counterpart as people write it and as fast as torch
    has it; the same contender where there is one. steps: of an epoch, `count` are epochs, and the unit is one step; 0
    where `count` are samples, and the unit is the whole predictive. serial: the baseline trains its networks one after
    the other, and what is printed is the rate over it.
    """

    name: str
    title: str
    plain: Contender
    fastest: Contender
    contenders: tuple[Contender, ...]
    count: int
    steps: int = 0
    serial: bool = False

    @property
    def everyone(self) -> tuple[Contender, ...]:
        """The baselines, then the contenders, each once."""
        return tuple(dict.fromkeys([self.plain, self.fastest, *self.contenders]))

    @property
    def unit(self) -> str:
        """What one number of seconds is of."""
        return "step" if self.steps else "predictive"


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender for one unit of work, a round each; or the reason why there are none."""

    contender: Contender
    seconds: tuple[float, ...] = ()
    failure: str = ""

    @property
    def spread(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile of the seconds."""
        return quartiles(self.seconds)

    def over(self, baseline: Timing) -> tuple[float, float, float]:
        """The same of the ratio to another contender's time in the same round."""
        return quartiles([mine / other for mine, other in zip(self.seconds, baseline.seconds, strict=True)])


@dataclass(frozen=True)
class PeerRow:
    """A work, timed: a timing for each of `work.everyone`."""

    work: Work
    timings: tuple[Timing, ...]

    @property
    def plain(self) -> Timing:
        """The baseline as people write it."""
        return self.of(self.work.plain)

    @property
    def fastest(self) -> Timing:
        """The baseline as fast as torch has it."""
        return self.of(self.work.fastest)

    @property
    def complete(self) -> bool:
        """Whether everyone was timed."""
        return not any(timing.failure for timing in self.timings)

    def of(self, contender: Contender) -> Timing:
        """The timing of one."""
        return next(timing for timing in self.timings if timing.contender == contender)


def measure(work: Work, rounds: int, count: int = 0) -> PeerRow:
    """Time everyone in turn. count: instead of the work's own.

    Everyone is built and called once before; who is not installed or fails there is left out of the rounds, with the
    reason. A baseline that fails is an error.
    """
    count = count or work.count
    runs: dict[Contender, Run] = {}
    failures: dict[Contender, str] = {}
    for contender in work.everyone:
        try:
            runs[contender] = contender.build(count)
            runs[contender]()
        except Exception as error:  # another library's: whatever it is, the rest of the table stands
            runs.pop(contender, None)
            if contender in (work.plain, work.fastest):
                raise
            failures[contender] = _reason(error)
    keyed = {str(i): run for i, run in enumerate(runs.values())}
    spent = dict(zip(runs, timed_in_turn(keyed, rounds, warmup=0).values(), strict=True))
    units = count * work.steps or 1
    timings = [
        Timing(c, tuple(s / units for s in spent[c])) if c in spent else Timing(c, failure=failures[c])
        for c in work.everyone
    ]
    return PeerRow(work, tuple(timings))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile, the ends included; of one value, three times the same."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _reason(error: Exception) -> str:
    """One line: a package that is absent, or what went wrong."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({error.name})"
    return f"{type(error).__name__}: {error}".partition("\n")[0]
