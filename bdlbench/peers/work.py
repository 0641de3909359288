"""The timing of contenders side by side: a work, the contenders that do it, and their seconds."""

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

    Attributes:
        library: The library's name.
        build: build(count) returns a call that does the work `count` times: epochs, or posterior samples.
        variant: One of several ways of the library, or a class of estimator that differs from the row's.
        in_class: Whether the estimator is of the row's class.
        differs: What the contender computes differently.
    """

    library: str
    build: Callable[[int], Run]
    variant: str = ""
    in_class: bool = True
    differs: str = ""

    @property
    def label(self) -> str:
        """The text `bayesian-torch (Flipout)`."""
        return f"{self.library} ({self.variant})" if self.variant else self.library


@dataclass(frozen=True)
class Work:
    """A row of the table.

    Attributes:
        name: The row's name.
        title: A description.
        plain: The deterministic counterpart as people write it; seconds are divided by its seconds.
        fastest: The same counterpart at its fastest in torch; it may be the same contender.
        contenders: Everyone but the baselines.
        count: The number of epochs, or of posterior samples.
        steps: Steps in an epoch, where the unit is a step. 0 where `count` are samples and the unit is a whole
            predictive.
        serial: Whether the baseline trains its networks one after the other. Then the rate over it is printed.
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
        """The unit of work that takes the seconds."""
        return "step" if self.steps else "predictive"


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender for one unit of work.

    Attributes:
        contender: The contender.
        seconds: One number for each round.
        failure: The reason why there are no seconds, "" otherwise.
    """

    contender: Contender
    seconds: tuple[float, ...] = ()
    failure: str = ""

    @property
    def spread(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile of the seconds."""
        return quartiles(self.seconds)

    def over(self, baseline: Timing) -> tuple[float, float, float]:
        """Return the quartiles of the ratio to another contender's time in the same round."""
        return quartiles([mine / other for mine, other in zip(self.seconds, baseline.seconds, strict=True)])


@dataclass(frozen=True)
class PeerRow:
    """A timed work, with a timing for each of `work.everyone`."""

    work: Work
    timings: tuple[Timing, ...]

    @property
    def plain(self) -> Timing:
        """The baseline as people write it."""
        return self.of(self.work.plain)

    @property
    def fastest(self) -> Timing:
        """The baseline at its fastest in torch."""
        return self.of(self.work.fastest)

    @property
    def complete(self) -> bool:
        """Whether everyone was timed."""
        return not any(timing.failure for timing in self.timings)

    def of(self, contender: Contender) -> Timing:
        """Return the timing of a contender."""
        return next(timing for timing in self.timings if timing.contender == contender)


def measure(work: Work, rounds: int, count: int = 0) -> PeerRow:
    """Time everyone in turn.

    Everyone is built and called once before. A contender that is not installed, or that fails then, is left out of the
    rounds, with the reason. A baseline that fails is an error.

    Args:
        work: The work.
        rounds: The number of rounds.
        count: Epochs or samples; 0 means the work's own number.

    Returns:
        The row.
    """
    count = count or work.count
    runs: dict[Contender, Run] = {}
    failures: dict[Contender, str] = {}
    for contender in work.everyone:
        try:
            runs[contender] = contender.build(count)
            runs[contender]()
        except Exception as error:  # whatever another library raises, the rest of the table is timed
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
    """Return lower quartile, median and upper quartile, the ends included; one value gives three equal ones."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _reason(error: Exception) -> str:
    """Return one line: the absent package, or the error."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({error.name})"
    return f"{type(error).__name__}: {error}".partition("\n")[0]
