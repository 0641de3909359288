"""The only training loop: it trains all rows at once, by an optimiser or a step rule, and resumes to the same bits.

A checkpoint holds what was given to the loop: the rows, the tensors of the step rule, those that are collected, and the
position of the noise. What a method gathers outside the loop would be lost without notice when a run resumes, so the
loop refuses such use. What a session watches, such as an accuracy by epoch, is in the checkpoint too.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from bdlbench.core.clock import now
from bdlbench.core.errors import BadInput, Diverged
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import sum_gradient
from bdlbench.data.task import Data, Examples
from bdlbench.protocols import Posterior
from bdlbench.training import best_epoch, checkpoints
from bdlbench.training.buffers import keep, remembering
from bdlbench.training.optimisers import Tensors, Update, clipped, optimiser_of
from bdlbench.training.plan import Moment, Plan
from bdlbench.training.purity import Held, held, place


class Objective(Protocol):
    """What is minimised."""

    def __call__(self, flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
        """Return nats per example (R,) of rows `flat` (R, Q) on a batch (R, B, …). No operation may mix rows."""
        ...


@dataclass(frozen=True)
class State:
    """Rows after some steps.

    The next step may change the tensors in place, so clone a state to keep it.

    Attributes:
        flat: Parameters (R, Q).
        kept: The tensors of the step rule (of Adam: its moments `mean` and `square`, (R, Q)).
        step: Steps done.
        loss: The last loss in nats per example, (R,). It is complete after the last step of an epoch, where states are
            yielded, and at the fingerprint.
        epoch: Epochs done, without the current one.
        collected: What `Collect` has gathered.
        best: What is remembered of each row's best epoch, where the plan has validation rows. The final state has the
            parameters of that epoch as `flat`.
    """

    flat: Tensor
    kept: Tensors
    step: int
    loss: Tensor
    epoch: int = 0
    collected: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Collect:
    """What is gathered from the states of training, such as the sums of an average.

    Attributes:
        start: start(flat) returns the tensors before training, (R, …) each.
        add: add(state, collected) returns them after an epoch, with the same names, shapes and types. The last state
            has them in `State.collected`.
    """

    start: Callable[[Tensor], Tensors]
    add: Callable[[State, Tensors], Tensors]


NOTHING = Collect(lambda flat: {}, lambda state, collected: collected)
"""Collects nothing."""


T = TypeVar("T")

PosteriorAt = Callable[[State], Posterior | None]
"""Returns the posterior that training would give if it ended with a state; None where there is none yet."""


@dataclass(frozen=True)
class Watch:
    """What is measured while training goes on. It must draw from streams of its own.

    Attributes:
        due: due(epoch, epochs) tells whether to measure after an epoch, counted from 1, of so many.
        measure: measure(posterior, epoch) returns numbers by name, (R,) each. A name may come and go.
    """

    due: Callable[[int, int], bool]
    measure: Callable[[Posterior, int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Watched:
    """What was measured so far in one call of `minimise`.

    Attributes:
        epochs: After which epochs, T of them.
        series: By name, (R, T) float64; NaN where a name was not measured.
    """

    epochs: tuple[int, ...] = ()
    series: Tensors = field(default_factory=dict)

    def after(self, epoch: int, measured: Mapping[str, Tensor]) -> Watched:
        """Return the series with the numbers of another epoch, (R,) each, at their ends."""
        series: dict[str, Tensor] = {}
        for name in [*self.series, *(name for name in measured if name not in self.series)]:
            some = measured[name] if name in measured else self.series[name][:, -1]
            unknown = some.new_full((len(some),), torch.nan, dtype=torch.float64)
            before = self.series.get(name, unknown.unsqueeze(1).expand(-1, len(self.epochs)))
            value = measured[name].detach().double() if name in measured else unknown
            series[name] = torch.cat([before, value.unsqueeze(1)], 1)
        return Watched((*self.epochs, epoch), series)


Nudge = Callable[[Tensor, int], Tensor]
"""(rows (R, Q), steps done) -> the rows at which the next gradient is taken."""


def unchanged(flat: Tensor, step: int) -> Tensor:
    """Return the rows themselves: no nudge."""
    return flat


KEPT, COLLECTED, BEST, WATCHED = "kept.", "collected.", "best.", "watched."
"""How the names of kept, collected, best and watched tensors begin in a checkpoint."""

ALIGNED_BYTES = 64
"""New tensors start at a multiple of this many bytes."""

FIRST_STEPS = 20
"""The steps after which a fit leaves a fingerprint of its rows, so that a cheap re-run can be compared with it."""


@dataclass(frozen=True)
class Fingerprint:
    """Rows (R, Q) after `steps` steps: SHA-256, norm, and the last loss in nats per example, one for each row."""

    steps: int
    sha256: list[str]
    norm: list[float]
    loss: list[float]


@dataclass
class Fit:
    """One call of `minimise`, for verification and audit: its arguments, the fingerprint, and the latest state.

    `mark` is the number of steps to the fingerprint; a shorter fit takes it at its end. `update` is None for the plan's
    optimiser.
    `watched` is what the session's `Watch` has measured.
    """

    objective: Objective
    initial: Tensor
    data: Data
    rng: Streams
    plan: Plan
    steps: int
    mark: int = FIRST_STEPS
    first: Fingerprint | None = None
    state: State | None = None
    update: Update | None = None
    watched: Watched = Watched()

    @property
    def marked(self) -> int:
        """The steps after which the fingerprint is taken."""
        return min(self.mark, self.steps)

    def reached(self, state: State) -> None:
        """Take note of the state after a step."""
        self.state = state
        if state.step == self.marked:
            self.first = _fingerprint(state)

    def ended(self, state: State) -> bool:
        """Tell whether all steps are done, or every row is; not before the fingerprint, which all rows have."""
        done = bool(state.best) and bool(state.best["done"].all()) and state.step >= self.marked
        return done or state.step == self.steps

    def final(self, state: State) -> State:
        """Return the last state with the parameters of each row's best epoch, and take note of it."""
        self.state = replace(state, flat=state.best["flat"].clone()) if state.best else state
        return self.state


@dataclass
class Session:
    """What one fit shares with its surroundings: a checkpoint to resume from, a listener, and its costs.

    Attributes:
        checkpoint: A path without ending, or None.
        every: Seconds between checkpoints.
        listen: listen(done, total) hears of steps.
        nudge: Where each step takes its gradient, to see how far rounding errors carry.
        mark: Steps to the fingerprint.
        depends: What decides the bits of this fit, by name; a checkpoint made from anything else is set aside.
        note: note(line) hears what happened to checkpoints, in words for people.
        predicting: predicting(fraction) hears how much is predicted.
        watch: What is measured while training goes on, or None.
        whole: whole(posterior) returns the posterior of R replicates that one of the rows of `minimise` is part of.
        fits: One for each call of `minimise`.
        keeping: Seconds spent on writing the last state of each fit.
        watching: Seconds spent on `watch`; they are no part of `seconds`.
        calls: Calls of `minimise` so far.
        examples: Training examples processed.
        seconds_before: Seconds of an interrupted run before its last checkpoint.
        started: When the session began.
        stop_after: The steps of a call of `minimise` after which the fit is left; None trains to the end.
    """

    checkpoint: Path | None = None
    every: float = 60.0
    listen: Callable[[int, int], None] = lambda done, total: None
    nudge: Nudge = unchanged
    mark: int = FIRST_STEPS
    stop_after: int | None = None
    depends: Mapping[str, str] = field(default_factory=dict)
    note: Callable[[str], None] = lambda line: None
    predicting: Callable[[float], None] = lambda fraction: None
    watch: Watch | None = None
    whole: Callable[[Posterior], Posterior] = lambda posterior: posterior
    fits: list[Fit] = field(default_factory=list, init=False)
    keeping: float = field(default=0.0, init=False)
    watching: float = field(default=0.0, init=False)
    calls: int = field(default=0, init=False)
    examples: int = field(default=0, init=False)
    seconds_before: float = field(default=0.0, init=False)
    started: float = field(default_factory=now, init=False)

    @property
    def seconds(self) -> float:
        """Seconds since the start, including those before the last checkpoint of an interrupted run."""
        return self.seconds_before + now() - self.started - self.watching

    def files(self) -> list[Path]:
        """List where the checkpoints of this fit lie, if they were written."""
        first = self.checkpoint
        return [first.with_name(f"{first.name}.{k + 1}.safetensors") for k in range(self.calls)] if first else []

    def next_file(self) -> Path | None:
        """Return the checkpoint of the next call of `minimise` in this fit."""
        self.calls += 1
        return self.files()[-1] if self.checkpoint else None


_session: ContextVar[Session | None] = ContextVar("session", default=None)


@contextmanager
def session(current: Session) -> Iterator[Session]:
    """Let `minimise` write checkpoints for, and report to, `current` within the block."""
    token = _session.set(current)
    try:
        yield current
    finally:
        _session.reset(token)


def predicted(fraction: float) -> None:
    """Tell the listener how much of the current `predict` is done, from 0 to 1.

    It goes through the session and not through a parameter, because a plugin's own posterior has no such parameter.

    Args:
        fraction: How much is done, from 0 to 1.
    """
    if (current := _session.get()) is not None:
        current.predicting(fraction)


@contextmanager
def watched_as(whole: Callable[[Posterior], Posterior]) -> Iterator[None]:
    """Let the session watch `whole` of a posterior within the block, such as the ensemble that its rows belong to."""
    current = _session.get()
    if current is None:
        yield
        return
    before = current.whole
    current.whole = lambda posterior: before(whole(posterior))
    try:
        yield
    finally:
        current.whole = before


class StepsDone(BaseException):
    """As many steps as the session asked for are done: leave `fit`, which is an author's function, where it is.

    Nothing but an exception leaves it, and what follows `minimise` there, such as a bound or a curvature, may take
    longer than the steps. It is no `Exception`, so that an author's `except Exception` does not train on.
    """


def begin(fit: Callable[[], T], steps: int, nudge: Nudge = unchanged) -> tuple[list[Fit], T | None]:
    """Run `fit` for its first `steps` steps, or all of its first call of `minimise` where that has fewer.

    Returns its fits so far, and what it returned if it never came to so many steps.
    """
    with session(Session(nudge=nudge, mark=steps, stop_after=steps)) as current:
        try:
            return current.fits, fit()
        except StepsDone:
            return current.fits, None


class States(Iterator[State]):
    """The states of one call of `minimise`, after every epoch.

    In a run, which may be resumed, only `last` takes them: a resumed run does not repeat the states before its
    checkpoint.
    """

    def __init__(self, made: Iterator[State]) -> None:
        self._made = made

    def __next__(self) -> State:
        """Return the state after the next epoch. Raises BadInput in a run, naming the line that asks."""
        current = _session.get()
        if current is not None and current.checkpoint is not None:
            asking = sys._getframe(1)
            while asking.f_code.co_filename == __file__ and asking.f_back:  # `last` of an iterator made from the states
                asking = asking.f_back
            raise BadInput(
                f"{asking.f_code.co_filename}:{asking.f_lineno} takes the states of training one by one, and those "
                "from before a checkpoint do not come again when a run resumes: take last(…) of them, and let "
                "minimise(…, collect=…) gather what is needed of the others"
            )
        return next(self._made)

    def last(self) -> State:
        """Return the final state."""
        *_, final = self._made
        return final


def last(states: Iterator[State]) -> State:
    """Return the final state of training.

    Args:
        states: The states that `minimise` or `fit_network` returned.

    Returns:
        The state after the last epoch.
    """
    if isinstance(states, States):
        return states.last()
    *_, final = states
    return final


def minimise(
    objective: Objective,
    initial: Tensor,
    data: Data,
    rng: Streams,
    plan: Plan,
    update: Update | None = None,
    collect: Collect = NOTHING,
    posterior: PosteriorAt | None = None,
) -> States:
    """Minimise each row's objective, or sample by it.

    It resumes from the session's checkpoint where there is one. States of earlier epochs do not come again, so take
    `last`.

    Args:
        objective: objective(flat, batch, noise, moment) returns nats per example (R,); no operation may mix rows.
        initial: Rows (R, Q) to start from.
        data: The training data.
        rng: Streams (R,).
        plan: Epochs, batch size, optimiser, learning rate and the rest of the recipe.
        update: The step rule; None for the plan's optimiser.
        collect: What is gathered after every epoch.
        posterior: What `fit` would return if training ended with a state; a session may watch it while training goes
            on. Without it nothing is watched. Its predictions of the plan's validation rows choose each row's best
            epoch.

    Returns:
        The states after every epoch. The last one has each row's best epoch where the plan has validation rows.

    Raises:
        Diverged: The loss of every row has stopped being finite.
        BadInput: `update` or `collect` changes the names, shapes or types of what it keeps; or there are validation
            rows, and no posterior that could predict them.
    """
    if plan.validation is not None and posterior is None:
        raise BadInput("validation: the method has no posterior before training ends, so no epoch can be chosen by one")
    return States(_states(objective, initial, data, rng, plan, update, collect, posterior))


def _states(
    objective: Objective,
    initial: Tensor,
    data: Data,
    rng: Streams,
    plan: Plan,
    update: Update | None,
    collect: Collect,
    posterior: PosteriorAt | None,
) -> Iterator[State]:
    current = _session.get() or Session()
    steps, total, epochs = (
        count(data.num_data) for count in (plan.steps_per_epoch, plan.total_steps, plan.total_epochs)
    )
    fit = Fit(objective, initial, data, rng, plan, total, current.mark, update=update)
    current.fits.append(fit)
    saver = _Saver(current, fit, collect)
    noise, own = rng.child("noise"), optimiser_of(plan)
    kept, collected = (_own(start, initial) for start in ((update or own).start, collect.start))
    best = {} if plan.validation is None else best_epoch.before_the_first(initial)
    state = State(initial.clone(), kept, 0, initial.new_zeros(len(initial)), 0, collected, best)
    state = saver.load(state, noise, steps)
    if fit.ended(state):
        yield fit.final(replace(state, epoch=min(epochs, -(-state.step // steps))))
        return
    for epoch in range(state.step // steps, epochs):
        order = _order(data, rng.child(f"batches {epoch}"), steps, min(plan.batch_size, data.num_data))
        end = min((epoch + 1) * steps, total)
        for index in order[state.step - epoch * steps : end - epoch * steps]:
            done = state.step + 1 == end
            moment = Moment(state.step, total, reported=done or state.step + 1 == fit.marked)
            batch = data.batch(index)
            if plan.augment is not None:
                batch = Examples(plan.augment(batch.x, rng.child(f"augmentation {state.step}")), batch.y)
            state = _step(objective, state, batch, noise, plan, moment, current.nudge, update, own)
            current.examples += index.shape[1]
            fit.reached(state)
            if done:
                if not torch.isfinite(state.loss).any():
                    raise Diverged(f"the loss is not finite in any replicate after {epoch + 1} epochs")
                state = _validated(_gathered(replace(state, epoch=epoch + 1), collect), plan, posterior, rng)
                saver.refuse_what_it_would_lose()
                if posterior is not None:
                    _watch(current, fit, state, posterior)
            current.listen(state.step, total)
            if current.stop_after is not None and state.step >= min(current.stop_after, total):
                raise StepsDone
            saver.save_when_due(state, noise)
        if fit.ended(state):
            yield fit.final(state)
            return
        yield state


def _fingerprint(state: State) -> Fingerprint:
    """Take the fingerprint row by row, so that it does not depend on R."""
    rows = [row.contiguous().cpu() for row in state.flat.detach()]
    return Fingerprint(
        state.step,
        [hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in rows],
        [float(row.double().norm()) for row in rows],
        state.loss.double().tolist(),
    )


def _order(data: Data, rng: Streams, steps: int, batch_size: int) -> list[Tensor]:
    """Return the indices (R, B) of each batch of an epoch, of which the last may be smaller: each row's own shuffle."""
    shuffled = rng.permutation(data.num_data)[:, : steps * batch_size].to(data.x.device)
    return [batch.contiguous() for batch in shuffled.split(batch_size, dim=1)]


def _step(
    objective: Objective,
    state: State,
    batch: Examples,
    noise: Streams,
    plan: Plan,
    moment: Moment,
    nudge: Nudge,
    update: Update | None,
    own: Update,
) -> State:
    """Return the state after one step, by the rule `update`, or without one by the plan's own."""
    point = nudge(state.flat, state.step).requires_grad_()
    with remembering() as buffers:
        if plan.mixed_precision:
            with torch.autocast(point.device.type, torch.bfloat16):  # our own backwards need it as well
                loss = objective(point, batch, noise, moment).to(point.dtype)
                gradient = sum_gradient(loss, point)
        else:
            loss = objective(point, batch, noise, moment)
            gradient = sum_gradient(loss, point)
    gradient = clipped(gradient, plan.clip_norm)
    flat, rate = state.flat.detach(), plan.rate(moment)
    with torch.no_grad():
        if update is None:  # our own rules need no check, which takes as long as a small layer
            flat, kept = own.step(flat, gradient, state.kept, rate, moment, noise)
            keep(buffers, flat)
            return State(flat, kept, state.step + 1, loss.detach(), state.epoch, state.collected, state.best)
        found: Any = update.step(flat, gradient, state.kept, rate, moment, noise)
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], Mapping):
        raise BadInput(f"{place(update.step)} does not return (rows, what it keeps by name)")
    before, after = {"the rows": flat, **state.kept}, {"the rows": found[0], **found[1]}
    (_, rows), *kept_rows = _alike(before, after, update.step).items()
    keep(buffers, rows)
    return State(rows, dict(kept_rows), state.step + 1, loss.detach(), state.epoch, state.collected, state.best)


def _validated(state: State, plan: Plan, posterior: PosteriorAt | None, rng: Streams) -> State:
    """Return the state with each row's best epoch so far, by predictions of the plan's validation rows."""
    if plan.validation is None or posterior is None:
        return state
    with session(Session()):  # predictions within are not those that the run's listener waits for
        found = posterior(replace(state, flat=state.flat.detach().clone()))
        if found is None:
            raise BadInput("validation: the method has no posterior before training ends, so no epoch can be chosen")
        scores = best_epoch.score(found, plan.validation, rng.child(f"validation {state.epoch}"))
    flat = state.flat.detach()
    return replace(state, best=best_epoch.after_epoch(state.best, flat, scores, state.epoch, plan.patience))


def _gathered(state: State, collect: Collect) -> State:
    """Return the state with what is collected after it. `add` sees copies: the next step may change rows in place."""
    if collect is NOTHING:
        return state
    own = {name: value.clone() for name, value in state.kept.items()}
    with torch.no_grad():
        found = collect.add(replace(state, flat=state.flat.detach().clone(), kept=own), state.collected)
    return replace(state, collected=_alike(state.collected, found, collect.add))


def _watch(current: Session, fit: Fit, state: State, posterior: PosteriorAt) -> None:
    """Measure the posterior after an epoch, if the session asks for it. It sees a copy: training goes on in place.

    An error ends the curves, and is told; it is no reason to lose the fit.
    """
    if current.watch is None or not current.watch.due(state.epoch, fit.plan.total_epochs(fit.data.num_data)):
        return
    began = now()
    try:
        flat = state.flat.detach().clone()
        if state.best:  # a row that is done stays where it was best
            flat = torch.where(state.best["done"].unsqueeze(1), state.best["flat"], flat)
        with session(Session()):  # predictions within are not those that the run's listener waits for
            found = posterior(replace(state, flat=flat))
            measured = {} if found is None else current.watch.measure(current.whole(found), state.epoch)
        if measured:
            fit.watched = fit.watched.after(state.epoch, measured)
    except (Exception, SystemExit) as error:
        current.note(f"the curves end before epoch {state.epoch}: {type(error).__name__}: {error}")
        current.watch = None
    current.watching += now() - began


def _own(start: Callable[[Tensor], Tensors], initial: Tensor) -> Tensors:
    """Copy the tensors that a function starts with. Raises BadInput where they are not rows by name."""
    found: Any = start(initial.clone())
    if not isinstance(found, Mapping):
        raise BadInput(f"{place(start)} gives a {type(found).__name__}, not tensors by name")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.shape[:1] != initial.shape[:1]:
            raise BadInput(f"{place(start)}: {name} is {_form(value)}, not of {len(initial)} rows: ({len(initial)}, …)")
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in found.items()}


def _alike(before: Tensors, after: Any, by: Callable[..., object]) -> Tensors:
    """Return `after` in the order of `before`, as a checkpoint would restore it.

    Each tensor is contiguous, on a boundary and in memory of its own: the bits of a product or a sum depend on where a
    tensor lies, and an in-place change must not reach another tensor in some runs only (memory is not shared after a
    resume). Raises BadInput where names, shapes or types differ.
    """
    if not isinstance(after, Mapping) or after.keys() != before.keys():
        names = ", ".join(after) or "nothing" if isinstance(after, Mapping) else f"a {type(after).__name__}"
        raise BadInput(f"{place(by)} returns {names}, not {', '.join(before) or 'an empty dict'}")
    found: dict[str, Tensor] = {}
    taken = set()
    for name, old in before.items():
        new = after[name]
        if not isinstance(new, Tensor) or (new.shape, new.dtype) != (old.shape, old.dtype):
            raise BadInput(f"{place(by)} makes {name} {_form(new)}, which was {_form(old)}")
        memory = new.untyped_storage().data_ptr()
        if memory in taken or new.data_ptr() % ALIGNED_BYTES or not new.is_contiguous():
            new = new.clone(memory_format=torch.contiguous_format)
        taken.add(memory)
        found[name] = new.detach()
    return found


def _form(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _state_in(saved: Tensors, fresh: State, steps: int) -> State:
    """Return the state that a checkpoint holds.

    Raises:
        Unusable: It has other tensors than `fresh`, the state that this method starts with.
    """
    kept, collected, best = (
        {k.removeprefix(part): v for k, v in saved.items() if k.startswith(part)} for part in (KEPT, COLLECTED, BEST)
    )
    step, rows = int(saved["spent"][2]), ({"": fresh.flat}, {"": saved["flat"]})
    for mine, theirs in ((fresh.kept, kept), (fresh.collected, collected), (fresh.best, best), rows):
        if {k: _form(v) for k, v in mine.items()} != {k: _form(v) for k, v in theirs.items()}:
            raise checkpoints.Unusable("it was left by a method that kept other tensors than this one does")
    return State(saved["flat"], kept, step, saved["loss"], step // steps, collected, best)


class _Saver:
    """Writes and reads the checkpoint of one call of `minimise`."""

    def __init__(self, current: Session, fit: Fit, collect: Collect) -> None:
        self.current, self.fit, self.path, self.due = current, fit, current.next_file(), now() + current.every
        self.collect, self.refused = collect, False
        self.beside = self._beside()

    def refuse_what_it_would_lose(self) -> None:
        """Raise BadInput where the method remembers something from step to step that a checkpoint would not hold."""
        for key, after in self._beside().items():
            if not self.beside.get(key, after).same(after):
                raise BadInput(
                    f"{after.where} changes {after.name} from step to step, and no checkpoint has that, so a resumed "
                    "run would go on without it: keep it in the tensors of Update or Collect, and draw from the noise "
                    "that is given"
                )

    def _beside(self) -> dict[tuple[str, str], Held]:
        """Return what the method's functions hold outside them, by function and name."""
        if self.path is None:
            return {}
        found = [*held(self.fit.objective, caches=True), *held(self.collect.add, caches=False)]
        found += held(self.fit.update.step, caches=False) if self.fit.update else []
        return {(one.where, one.name): one for one in found}

    def load(self, fresh: State, noise: Streams, steps: int) -> State:
        """Return the state of the checkpoint, with `noise` put where it stood then.

        `fresh` where there is nothing to resume.

        `steps` are those of an epoch. A checkpoint that is damaged, or of another fit, is set aside.
        """
        if self.path is None or not self.path.exists():
            return fresh
        device = fresh.flat.device
        try:
            saved = checkpoints.read(self.path, self._depends())
            found = _state_in({name: value.to(device) for name, value in saved.items()}, fresh, steps)
            seconds, examples, _ = saved["spent"].tolist()
            series = {k.removeprefix(WATCHED): v.to(device) for k, v in saved.items() if k.startswith(WATCHED)}
            watched = Watched(tuple(saved.get("epochs watched", torch.empty(0)).int().tolist()), series)
            first = self.fit.first
            if "first.sha256" in saved:
                hashes = [bytes(row).hex() for row in saved["first.sha256"].tolist()]
                norm, first_loss = saved["first.numbers"].tolist()
                first = Fingerprint(self.fit.marked, hashes, norm, first_loss)
        except (checkpoints.Unusable, KeyError, TypeError, ValueError, IndexError, RuntimeError) as reason:
            told = str(reason) if isinstance(reason, checkpoints.Unusable) else "it does not hold what a fit keeps"
            if aside := checkpoints.set_aside(self.path):
                self.current.note(f"a checkpoint is set aside as {aside}: {told}; the fit begins again")
            return fresh
        position = {k.removeprefix("noise."): v for k, v in saved.items() if k.startswith("noise.")}
        try:
            noise.resume(position, device)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError):  # some streams may have moved already
            raise BadInput(f"{self.path} does not hold the streams of this fit: move it elsewhere") from None
        self.current.seconds_before, self.current.examples = seconds, int(examples)
        self.fit.state, self.fit.watched, self.fit.first = found, watched, first
        return self.fit.state

    def save_when_due(self, state: State, noise: Streams) -> None:
        """Write the checkpoint if `every` seconds have passed since the last one, and when all steps are done.

        The last state is written so that a later failure, in a prediction or a metric, does not cost the fit. If the
        disk refuses the file, that is said once; the older checkpoint stays, and training continues.
        """
        began, finished = now(), self.fit.ended(state)
        if self.path is None or (began < self.due and not finished):
            return
        self.refuse_what_it_would_lose()
        spent = torch.tensor([self.current.seconds, self.current.examples, state.step], dtype=torch.float64)
        tensors = {"flat": state.flat, "loss": state.loss, "spent": spent}
        watched = self.fit.watched
        parts = ((KEPT, state.kept), (COLLECTED, state.collected), (BEST, state.best), (WATCHED, watched.series))
        for part, named in parts:
            tensors |= {f"{part}{name}": value for name, value in named.items()}
        if watched.epochs:
            tensors["epochs watched"] = torch.tensor(watched.epochs)
        tensors |= {f"noise.{name}": value for name, value in noise.position().items()}
        if first := self.fit.first:
            hashes = [list(bytes.fromhex(sha256)) for sha256 in first.sha256]
            tensors["first.sha256"] = torch.tensor(hashes, dtype=torch.uint8)
            tensors["first.numbers"] = torch.tensor([first.norm, first.loss], dtype=torch.float64)
        try:
            checkpoints.write(self.path, tensors, self._depends())
        except OSError as error:
            if not self.refused:
                older = "; the one before it stays" if self.path.exists() else ""
                self.current.note(f"{self.path} cannot be written: {error.strerror}{older}, and training goes on")
            self.refused = True
        self.due = now() + self.current.every
        if finished:
            self.current.keeping += now() - began

    def _depends(self) -> dict[str, str]:
        """Return what decides the bits of this call: what the session says, and the initial rows."""
        rows = hashlib.sha256(self.fit.initial.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        return {**self.current.depends, "the initial rows": rows, "the number of steps": str(self.fit.steps)}
