"""The only optimisation loop: it trains all rows at once, yields its states, and resumes to the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from bdlbench import files
from bdlbench.clock import now
from bdlbench.data import Data, Examples
from bdlbench.errors import Diverged
from bdlbench.rng import Streams
from bdlbench.types import PerRow

Decay = Literal["constant", "linear", "second_half"]
DECAYS: dict[Decay, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "second_half": lambda progress: min(1.0, 2.0 - 2.0 * progress),
}
"""Factor of the learning rate at a fraction `progress` of the steps."""


@dataclass(frozen=True)
class Plan:
    """How to optimise: Adam (Kingma & Ba 2015) over shuffled batches, an epoch's last incomplete one left out."""

    epochs: int
    batch_size: int
    learning_rate: PerRow
    decay: Decay = "constant"


@dataclass(frozen=True)
class Moment:
    """Where training stands: steps done, of how many, and whether the value of the loss is read after this one.

    Where it is not, an objective may leave out terms whose gradient is known without their value.
    """

    step: int
    steps: int
    reported: bool = True

    @property
    def progress(self) -> float:
        """The fraction of training that is done."""
        return self.step / self.steps


class Objective(Protocol):
    """What is minimised."""

    def __call__(self, flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
        """flat (R, Q), batch (R, B, …) -> nats per example (R,). No operation may mix rows."""
        ...


@dataclass(frozen=True)
class State:
    """Rows after some steps: parameters and Adam's moments (R, Q), and the last loss (R,) in nats per example.

    The loss is whole after the last step of an epoch, which is when states are yielded, and at the fingerprint.

    The next step changes the tensors in place: who keeps a state clones it.
    """

    flat: Tensor
    mean: Tensor
    square: Tensor
    step: int
    loss: Tensor


T = TypeVar("T")

Nudge = Callable[[Tensor, int], Tensor]
"""(rows (R, Q), steps done) -> the rows at which the next gradient is taken."""


def unchanged(flat: Tensor, step: int) -> Tensor:
    """No nudge."""
    return flat


FIRST_STEPS = 20
"""After so many steps a fit leaves a fingerprint of its rows, so that a cheap re-run can be held against it."""


@dataclass(frozen=True)
class Fingerprint:
    """Rows (R, Q) after `steps` steps: SHA-256, norm, and the last loss in nats per example, one for each row."""

    steps: int
    sha256: list[str]
    norm: list[float]
    loss: list[float]


@dataclass
class Fit:
    """One call of `minimise`, for whoever verifies or audits it: what was asked, the fingerprint, the latest state.

    mark: after how many steps the fingerprint is taken, or after all of them if there are fewer.
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

    @property
    def marked(self) -> int:
        """The steps after which the fingerprint is taken."""
        return min(self.mark, self.steps)

    def reached(self, state: State) -> None:
        """Take note of the state after a step."""
        self.state = state
        if state.step == self.marked:
            self.first = _fingerprint(state)


@dataclass
class Session:
    """What one fit shares with its surroundings: a checkpoint to resume from, a listener, and what was spent.

    checkpoint: a path without ending, or None; every: seconds between checkpoints; listen(done, total) hears of steps.
    nudge: where each step takes its gradient, to see how far rounding errors carry; mark: steps to the fingerprint.
    fits: one for each call of `minimise`.
    """

    checkpoint: Path | None = None
    every: float = 60.0
    listen: Callable[[int, int], None] = lambda done, total: None
    nudge: Nudge = unchanged
    mark: int = FIRST_STEPS
    fits: list[Fit] = field(default_factory=list, init=False)
    calls: int = field(default=0, init=False)
    examples: int = field(default=0, init=False)
    seconds_before: float = field(default=0.0, init=False)
    started: float = field(default_factory=now, init=False)

    @property
    def seconds(self) -> float:
        """Seconds since the start, those before the last checkpoint of an interrupted run included."""
        return self.seconds_before + now() - self.started

    def files(self) -> list[Path]:
        """Where the checkpoints of this fit lie, if they were written."""
        first = self.checkpoint
        return [first.with_name(f"{first.name}.{k + 1}.safetensors") for k in range(self.calls)] if first else []

    def next_file(self) -> Path | None:
        """The checkpoint of the next call of `minimise` in this fit."""
        self.calls += 1
        return self.files()[-1] if self.checkpoint else None


_session: ContextVar[Session | None] = ContextVar("session", default=None)


@contextmanager
def session(current: Session) -> Iterator[Session]:
    """Within the block, `minimise` checkpoints and reports to `current`."""
    token = _session.set(current)
    try:
        yield current
    finally:
        _session.reset(token)


class _Enough(Exception):
    """As many steps as were asked for are done."""


def begin(fit: Callable[[], T], steps: int, nudge: Nudge = unchanged) -> tuple[list[Fit], T | None]:
    """Run `fit` for its first `steps` steps: its fits so far, and what it returned if it was done before."""

    def listen(done: int, total: int) -> None:
        if done >= min(steps, total):
            raise _Enough

    with session(Session(listen=listen, nudge=nudge, mark=steps)) as current:
        try:
            return current.fits, fit()
        except _Enough:
            return current.fits, None


def minimise(objective: Objective, initial: Tensor, data: Data, rng: Streams, plan: Plan) -> Iterator[State]:
    """Minimise each row's objective from `initial` (R, Q) by Adam, yielding the state after every epoch.

    Resumes from the session's checkpoint where there is one; states of epochs before it are not yielded again.
    Raises Diverged when the loss of every row has left the finite numbers.
    """
    current = _session.get() or Session()
    batch_size = min(plan.batch_size, data.num_data)
    steps = data.num_data // batch_size
    total = plan.epochs * steps
    fit = Fit(objective, initial, data, rng, plan, total, current.mark)
    current.fits.append(fit)
    saver = _Saver(current, fit)
    noise = rng.child("noise")
    state = saver.load(_start(initial), noise)
    if state.step == total:
        yield state
    for epoch in range(state.step // steps, plan.epochs):
        order = _order(data, rng.child(f"batches {epoch}"), steps, batch_size)
        for index in order[state.step - epoch * steps :]:
            after = state.step + 1
            moment = Moment(state.step, total, reported=after in ((epoch + 1) * steps, fit.marked))
            state = _step(objective, state, data.batch(index), noise, plan, moment, current.nudge)
            current.examples += batch_size
            fit.reached(state)
            current.listen(state.step, total)
            saver.save_when_due(state, noise)
        if not torch.isfinite(state.loss).any():
            raise Diverged(f"the loss is not finite in any replicate after {epoch + 1} epochs")
        yield state


def last(states: Iterator[State]) -> State:
    """The final state."""
    *_, final = states
    return final


def _start(initial: Tensor) -> State:
    zeros = torch.zeros_like(initial)
    return State(initial.clone(), zeros, zeros.clone(), 0, initial.new_zeros(len(initial)))


def _fingerprint(state: State) -> Fingerprint:
    """Row by row, so that it does not depend on R."""
    rows = [row.contiguous().cpu() for row in state.flat.detach()]
    return Fingerprint(
        state.step,
        [hashlib.sha256(row.numpy().tobytes()).hexdigest() for row in rows],
        [float(row.double().norm()) for row in rows],
        state.loss.double().tolist(),
    )


def _order(data: Data, rng: Streams, steps: int, batch_size: int) -> Tensor:
    """Indices of each batch of an epoch, (steps, R, B): each row's own shuffle."""
    shuffled = rng.permutation(data.num_data)[:, : steps * batch_size]
    return shuffled.reshape(data.rows, steps, batch_size).transpose(0, 1).contiguous().to(data.x.device)


def _step(
    objective: Objective, state: State, batch: Examples, noise: Streams, plan: Plan, moment: Moment, nudge: Nudge
) -> State:
    point = nudge(state.flat, state.step).requires_grad_()
    loss = objective(point, batch, noise, moment)
    gradient = _gradient(loss, point)
    flat = state.flat.detach()
    factor = DECAYS[plan.decay](moment.progress)
    adam_step(flat, gradient, state.mean, state.square, state.step + 1, plan.learning_rate, factor)
    return State(flat, state.mean, state.square, state.step + 1, loss.detach())


def _gradient(loss: Tensor, flat: Tensor) -> Tensor:
    """`torch.autograd.grad(loss.sum(), flat)`, without its checks, which take longer than a small layer's backward."""
    keep_graph = create_graph = accumulate_grad = allow_unreachable = False
    found = torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), keep_graph, create_graph, (flat,), allow_unreachable, accumulate_grad
    )
    return found[0]


def adam_step(
    flat: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, rate: PerRow, factor: float = 1.0
) -> None:
    """One step of Adam in place on rows (R, Q), β = (0.9, 0.999), ε = 1e-8. rate: a number or (R,). step: from 1.

    The fused kernel rounds its vector body and its tail differently: rows are padded to the vector's width, so a row's
    bits do not depend on where it lies.
    """
    if isinstance(rate, Tensor):
        for row, value in enumerate(rate.tolist()):
            adam_step(flat[row], gradient[row], mean[row], square[row], step, value, factor)
        return
    count = torch.full((), float(step), device=flat.device)
    # What torch.optim.Adam(fused=True) calls, without its checks, which take longer than a small step.
    torch._fused_adam_(
        [flat],
        [gradient],
        [mean],
        [square],
        [],
        [count],
        lr=rate * factor,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.0,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
    )


class _Saver:
    """Writes and reads the checkpoint of one call of `minimise`."""

    def __init__(self, current: Session, fit: Fit) -> None:
        self.current, self.fit, self.path, self.due = current, fit, current.next_file(), now() + current.every

    def load(self, fresh: State, noise: Streams) -> State:
        """The state of the checkpoint, with `noise` put where it stood; `fresh` where there is none."""
        if self.path is None or not self.path.exists():
            return fresh
        saved = safetensors.torch.load_file(self.path, device=str(fresh.flat.device))
        saved = {name: value.clone() for name, value in saved.items()}  # aligned: a product's bits depend on it
        position = {k.removeprefix("noise."): v.cpu() for k, v in saved.items() if k.startswith("noise.")}
        noise.resume(position, fresh.flat.device)
        seconds, examples, step = saved["spent"].tolist()
        self.current.seconds_before, self.current.examples = seconds, int(examples)
        self.fit.state = State(saved["flat"], saved["mean"], saved["square"], int(step), saved["loss"])
        if "first.sha256" in saved:
            hashes = [bytes(row).hex() for row in saved["first.sha256"].tolist()]
            norm, loss = saved["first.numbers"].tolist()
            self.fit.first = Fingerprint(self.fit.marked, hashes, norm, loss)
        return self.fit.state

    def save_when_due(self, state: State, noise: Streams) -> None:
        """Write the checkpoint if `every` seconds have passed since the last."""
        if self.path is None or now() < self.due:
            return
        spent = torch.tensor([self.current.seconds, self.current.examples, state.step], dtype=torch.float64)
        tensors = {"flat": state.flat, "mean": state.mean, "square": state.square, "loss": state.loss, "spent": spent}
        tensors |= {f"noise.{name}": value for name, value in noise.position().items()}
        if first := self.fit.first:
            hashes = [list(bytes.fromhex(sha256)) for sha256 in first.sha256]
            tensors["first.sha256"] = torch.tensor(hashes, dtype=torch.uint8)
            tensors["first.numbers"] = torch.tensor([first.norm, first.loss], dtype=torch.float64)
        files.write_atomic(self.path, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}))
        self.due = now() + self.current.every
