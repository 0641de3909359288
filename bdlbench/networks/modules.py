"""Any `nn.Module` under a layer rule, its forward unchanged.

The L = M·R rows are folded into the batch, and the module runs once on (L·B, …); where its forward would notice that,
it runs once for each row on (B, …). Each of its parameters is a `RowLeaf`,
which stands for one value of each row, and a function mode sees every torch function that the forward calls. Linear
maps and convolutions act by the layer rule. A few functions are handled by hand, because rows mix in them: attention,
recurrent layers, BatchNorm, and all that draws. Any other function of a parameter (a norm, an embedding, a sum with a
bare parameter) is called once for each row, on its part of the batch. What has no parameter never notices the rows.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bdlbench.core import torch_state
from bdlbench.core.foreign import Broken, told
from bdlbench.core.layout import Layout, Leaf, Role
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import unsafe_view
from bdlbench.kernels import sampling
from bdlbench.kernels.convolution import Convolution, Geometry
from bdlbench.kernels.linear import dense
from bdlbench.networks.layers import Point
from bdlbench.networks.layers import apart as rules_apart
from bdlbench.protocols import Layer
from bdlbench.training.buffers import remember, remembering

Axis = int | None
"""Where a tensor has the batch into which rows are folded: its first axis, its second, or nowhere."""

TRIALS = (11, 13, 17)
"""Examples of a trial, each tried where a size of the module is mistaken for that of the folded batch."""

TRIAL_ERROR = 1e-3
"""How far rows together may be from each alone in a trial, in units of the largest output: rounding is far below."""

MOST_NUMBERS, MOST_EXAMPLES = 1 << 18, 500
"""Of the larger batch of a trial, which is to show whether a forward treats many examples in another way than few."""


class RowLeaf(Tensor):
    """A parameter or buffer in the forward of a module: its shape is that of one row, its values are one for each row.

    Attributes:
        leaf: Its name.
        fixed: Whether it is no parameter, or one that the module's author froze.
        value: Its values (L, *S), where it was computed of leaves.
    """

    __torch_function__ = nn.Parameter.__torch_function__  # what is computed of one is a plain tensor

    leaf: str
    fixed: bool
    value: Tensor | None

    @classmethod
    def of(cls, like: Tensor, leaf: str = "", fixed: bool = False, value: Tensor | None = None) -> RowLeaf:
        """Return a leaf, or what was computed of leaves, that looks like the tensor `like` of one row."""
        found: RowLeaf = like.detach().as_subclass(cls)
        found.leaf, found.fixed, found.value = leaf, fixed, value
        return found


@dataclass
class Seen:
    """What a forward did with its parameters, as the trial saw it.

    Attributes:
        roles: What each leaf does.
        fan_in: How many inputs feed one output unit of a linear map, or of the map that a bias belongs to.
        axes: Where each tensor that meets a parameter has its batch, in the order of the calls.
        drawn: Where each tensor has it of which numbers are dropped or drawn.
        drops: Whether a dropout of the module's own was called.
        sums_to_one: Whether what it returned for each example is no less than 0 and sums to 1, as probabilities do.
        output_shape: What it returned for one example.
    """

    roles: dict[str, Role] = field(default_factory=dict)
    fan_in: dict[str, int] = field(default_factory=dict)
    axes: list[Any] = field(default_factory=list)
    drawn: list[Any] = field(default_factory=list)
    drops: bool = False
    sums_to_one: bool = False
    output_shape: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A module whose parameters are `RowLeaf`s, and what is known of them.

    Attributes:
        module: The module.
        leaves: Its parameters and the buffers that belong to rows, of one replicate.
        places: Where each of these buffers begins in a row.
        seen: What its forward does in training (True) and in prediction (False).
        frozen: Those of the buffers that never change.
        apart: Whether its rows run one after the other, since its forward would notice others in the batch.
        ways: Whether its forward takes another way for some number of examples.
    """

    module: nn.Module
    leaves: dict[str, Leaf]
    places: Mapping[str, int]
    seen: Mapping[bool, Seen]
    frozen: tuple[str, ...] = ()
    apart: bool = False
    ways: Ways | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """What the module returns for one example."""
        return self.seen[False].output_shape

    @property
    def returns_probabilities(self) -> bool:
        """Whether the module returns probabilities of several classes, where logits are expected."""
        return self.seen[False].sums_to_one and self.output_shape[-1:] > (1,)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each leaf in one row."""
        return {name: leaf.shape for name, leaf in self.leaves.items()}

    def runs_together(self, training: bool, batch: Tensor, rows: int) -> bool:
        """Tell whether the rows of a batch (L·B, *S) run together: they do where that takes the way of each alone."""
        if self.apart or self.ways is None:
            return not self.apart
        return all(self.ways.usual(training, some) for some in (batch, batch[: len(batch) // rows]))

    @property
    def drops(self) -> bool:
        """Whether the module has dropout layers of its own."""
        return self.seen[True].drops


def run(skeleton: Skeleton, layer: Layer, x: Tensor, rng: Streams, keeps_dropping: bool = False) -> Tensor:
    """Return what the module makes of x under a layer rule.

    Args:
        skeleton: The module.
        layer: How its linear maps act.
        x: Inputs ([M,] R, B, *S).
        rng: Streams for its own dropout: (R,) in training, (M, R) where posterior samples predict.
        keeps_dropping: Whether its own dropout layers stay on in prediction.

    Returns:
        ([M,] R, B, …), without M where M = 1.

    Raises:
        Broken: The module returns something else than a tensor with one row for each example.
    """
    training = len(rng.lead) == 1
    lead = rng.lead[1:] if rng.lead[0] == 1 and not training else rng.lead
    if isinstance(layer, Point):  # several samples may share the streams of a step of training
        name, leaf = next(iter(skeleton.leaves.items()))
        drawn = layer.leaves[name].shape[: layer.leaves[name].ndim - len(leaf.shape)]
        lead = drawn if len(drawn) > len(lead) and drawn[0] > 1 else lead
    axes = x.ndim - len(lead) if x.shape[: len(lead)] == lead else x.ndim - 1
    x = x.expand(*lead, *x.shape[-axes:]) if x.ndim - axes < len(lead) else x.reshape(*lead, *x.shape[-axes:])
    batch = x.flatten(0, len(lead))  # (L·B, *S)
    seen = skeleton.seen[training]
    count, outs, heard = math.prod(lead), [], []
    if skeleton.runs_together(training, batch, count):
        rows = _Rows(skeleton, layer, lead, len(batch), rng, training, keeps_dropping, seen)
        found: Tensor = rows.forward(batch).unflatten(0, (*lead, -1))
        return found
    rules = rules_apart(layer, lead, skeleton.shapes)
    streams = rng.apart() * (count // len(rng.keys))
    for rule, own, part in zip(rules, streams, batch.chunk(count), strict=True):
        with remembering() as told_of_buffers:
            rows = _Rows(skeleton, rule, (1,), len(part), own, training, keeps_dropping, seen)
            outs.append(rows.forward(part))
        heard.append(told_of_buffers)
    fixed = {skeleton.places[name] for name in skeleton.frozen}
    for place in heard[0]:
        value = torch.cat([one[place] for one in heard]).unflatten(0, (-1, lead[-1]))  # (M, R, n)
        remember(place, value[0] if place in fixed else value.mean(0))
    apart: Tensor = torch.stack(outs).unflatten(0, lead)
    return apart


def made(make: Callable[[], Any], seed: int, shape: Sequence[int]) -> nn.Module:
    """Make a module with the start that its own code draws after this seed.

    Args:
        make: Returns the module.
        seed: What torch's, NumPy's and Python's generators start from.
        shape: The shape S of one input, by which lazy layers learn their sizes.

    Returns:
        The module.

    Raises:
        Broken: It is no module, or has nothing to learn.
    """
    with torch_state.stirred(seed % 2**32), torch.enable_grad():
        module = make()
        if not isinstance(module, nn.Module):
            raise Broken(f"it makes a {type(module).__name__}, not an nn.Module")
        if any(isinstance(one, nn.parameter.UninitializedParameter) for one in module.parameters()):
            module.eval()(torch.zeros(2, *shape))
    if not any(one.requires_grad for one in module.parameters()):
        raise Broken("it has no parameter that could be learnt")
    return module


def values_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, shared ones once."""
    buffers = {name: value for name, value in module.named_buffers() if value.is_floating_point()}
    return {name: value.detach() for name, value in {**dict(module.named_parameters()), **buffers}.items()}


def skeleton(make: Callable[[], Any], shape: Sequence[int]) -> Skeleton:
    """Make a module whose rows can be run together, after a trial in which they are as each of them alone.

    Args:
        make: Returns the module.
        shape: The shape S of one input.

    Returns:
        The skeleton.

    Raises:
        Broken: The module is not supported; the text names the submodule.
    """
    alone = [made(make, seed, shape) for seed in (0, 1)]
    if alone[0] is alone[1]:
        raise Broken("it returns the same module at every call, and each seed has a network of its own: make a new one")
    module = copy.deepcopy(alone[0])
    first, second = (values_of(one) for one in alone)
    statistics = {
        f"{name}.{key}".lstrip(".")
        for name, one in module.named_modules()
        for key in ("running_mean", "running_var")
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.track_running_stats
    }
    for name, one in module.named_modules():
        if isinstance(one, nn.modules.batchnorm._BatchNorm) and one.track_running_stats and one.momentum is None:
            raise Broken(f"{name or 'it'} is a BatchNorm with momentum=None, whose average of all batches has no place")
        if isinstance(one, torch.jit.ScriptModule):
            raise Broken(f"{name or 'it'} is compiled by torch.jit, which hides what it does with its parameters")
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    buffers = set(first) - set(dict(module.named_parameters()))
    own = {name for name in buffers if name in statistics or not torch.equal(first[name], second[name])}
    kept = {name: first[name] for name in first if name not in buffers - own}
    if wrong := next((name for name, value in kept.items() if value.dtype != torch.float32), None):
        raise Broken(f"{wrong} is {kept[wrong].dtype}, not torch.float32")
    _install(module, kept.keys(), frozen | own)
    values = {name: torch.stack([first[name], second[name]]) for name in kept}
    seen, apart = _tried(Skeleton(module, {}, {}, {}), alone, values, shape)
    ways, many = Ways(alone[0], shape), min(MOST_EXAMPLES, MOST_NUMBERS // math.prod(shape))
    if many > TRIALS[-1]:
        x = torch.rand(many, *shape, generator=torch.Generator().manual_seed(0))
        apart |= not all([ways.usual(training, x) for training in (False, True)])  # always: a row draws the same alone
    roles: dict[str, Role] = {**seen[False].roles, **seen[True].roles, **dict.fromkeys(frozen | own, "buffer")}
    fans = {**seen[False].fan_in, **seen[True].fan_in}
    leaves = {
        name: Leaf(tuple(value.shape), roles.get(name, "bias"), fans.get(name, 1)) for name, value in kept.items()
    }
    places = {name: place.start for name, place in Layout(leaves).buffers.items()}
    return Skeleton(module, leaves, places, seen, tuple(name for name in places if name not in statistics), apart, ways)


def _install(module: nn.Module, names: Iterable[str], fixed: Iterable[str]) -> None:
    """Put a `RowLeaf` in the place of each parameter and buffer of these names, wherever the module has it."""
    known = {id(value): name for name, value in [*module.named_parameters(), *module.named_buffers()] if name in names}
    for one in module.modules():
        for table in (one._parameters, one._buffers):
            for key, value in table.items():
                if value is not None and id(value) in known:
                    name = known[id(value)]
                    table[key] = RowLeaf.of(value, name, name in fixed)  # type: ignore[assignment]
        if isinstance(one, nn.RNNBase):
            one._flat_weights = [one._parameters[name] for name in one._flat_weights_names]


def _tried(
    half: Skeleton, alone: Sequence[nn.Module], values: Mapping[str, Tensor], shape: Sequence[int]
) -> tuple[dict[bool, Seen], bool]:
    """Run two rows together and each alone; return what the forward does, and whether rows must run apart."""
    constant = {name: value.clone() for name, value in half.module.named_buffers() if value.is_floating_point()}
    tries, reason = [*((examples, False) for examples in TRIALS), (TRIALS[0], True)], ""
    for examples, apart in tries:
        x = torch.rand(2, examples, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), torch_state.seeded(0):
            plain = [one.eval()(part) for one, part in zip(alone, x, strict=True)]
            try:
                seen = {training: _trial(half, values, x, training, plain, apart) for training in (False, True)}
            except Exception as error:  # the module alone has none
                reason = _where(error, half.module)
                continue
        for name, value in half.module.named_buffers():
            if name in constant and not isinstance(value, RowLeaf) and not torch.equal(value, constant[name]):
                raise Broken(f"{name} is changed by its forward, and only BatchNorm's statistics have a place for that")
        if apart:
            _refuse_dependent(alone[0], x[0])
        return seen, apart
    raise Broken(reason)


def _trial(
    half: Skeleton, values: Mapping[str, Tensor], x: Tensor, training: bool, plain: Sequence[Any], apart: bool
) -> Seen:
    """Return what the forward does on two rows x (2, B, *S), if that is what it does on each alone."""
    rng, before = Streams.of_seeds([0, 1]), (torch.get_rng_state(), random.getstate())

    def forward(parts: Mapping[str, Tensor], some: Tensor) -> tuple[Tensor, Seen]:
        rows = _Rows(half, Point(parts), some.shape[:1], some.shape[:2].numel(), rng, training, False, None, quiet=True)
        return rows.forward(some.flatten(0, 1)).unflatten(0, (len(some), -1)), rows.seen

    def each() -> list[tuple[Tensor, Seen]]:
        return [forward({k: v[r : r + 1] for k, v in values.items()}, x[r : r + 1]) for r in range(2)]

    if apart:
        (first, seen), (second, _) = each()
        together = torch.cat([first, second])
    else:
        together, seen = forward(values, x)
    if not torch.equal(before[0], torch.get_rng_state()) or before[1] != random.getstate():
        raise Broken("its forward draws random numbers by itself, which no row owns: draw them by nn.Dropout")
    expected = torch.cat([out for out, _ in each()]) if training and not apart else torch.stack(list(plain))
    if not (training and apart) and not _near(together, expected):
        raise Broken("its forward mixes the examples of a batch, so that rows cannot share one")
    seen.output_shape = tuple(together.shape[2:])
    if seen.output_shape:
        seen.sums_to_one = bool((together >= 0).all() and (together.sum(-1) - 1).abs().max() < 1e-4)
    return seen


def _near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= TRIAL_ERROR * expected.abs().max())


def _refuse_dependent(module: nn.Module, x: Tensor) -> None:
    """Refuse a module whose prediction of an example of x (B, *S) depends on the others in its batch, or their number.

    Such a prediction would be one of the order in which examples come and of the size of blocks.
    """
    some = min(len(x) // 2, TRIALS[0])
    with torch.no_grad(), torch_state.seeded(0):
        module.eval()
        together, fewer, others = (module(part) for part in (x, x[:some], torch.cat([x[:some], 1 - x[some:]])))
    if not (_near(fewer, together[:some]) and _near(others[:some], together[:some])):
        raise Broken("its forward mixes the examples of a batch: what it predicts of one depends on how many, or which")


def _where(error: Exception, module: nn.Module) -> str:
    """Say what went wrong in which submodule: the innermost one in whose method the error arose."""
    names, found, frame = {id(one): name for name, one in module.named_modules()}, "", error.__traceback__
    while frame is not None:
        found = names.get(id(frame.tb_frame.f_locals.get("self")), "") or found
        frame = frame.tb_next
    return f"{found}: {told(error)}" if found else told(error)


class Ways:
    """Whether a module's forward takes another way for some number of examples than for the few of a trial."""

    def __init__(self, module: nn.Module, shape: Sequence[int]) -> None:
        """Take a module of plain torch, and the shape S of one input."""
        self.module = module
        self.few = torch.rand(TRIALS[0], *shape, generator=torch.Generator().manual_seed(0))
        self.usual_ways: dict[bool, _Calls] = {}
        self.known: dict[tuple[bool, int], bool] = {}

    def usual(self, training: bool, x: Tensor) -> bool:
        """Tell whether it takes the same way for x (B, *S), by one forward for each B.

        Raises:
            Broken: It does not, and what it predicts of an example differs with that.
        """
        if (training, len(x)) not in self.known:
            x = x.detach().cpu().to(self.few)  # the module's own numbers, also where the data are float64
            if training not in self.usual_ways:
                self.usual_ways[training] = self.way(training, self.few)
            found = self.way(training, x).same_as(self.usual_ways[training])
            if not found and not training:
                _refuse_dependent(self.module, x)
            self.known[training, len(x)] = found
        return self.known[training, len(x)]

    def way(self, training: bool, x: Tensor) -> _Calls:
        """Return the calls of a forward on x (B, *S)."""
        calls = _Calls(len(x))
        with torch_state.kept(), torch.no_grad(), calls:
            self.module.train(training)(x)
        return calls


class _Calls(TorchFunctionMode):
    """The functions of torch that are called on so many examples, and with which numbers."""

    def __init__(self, examples: int) -> None:
        super().__init__()
        self.examples, self.made = examples, list[list[Any]]()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, known = kwargs or {}, (int, float, bool, str)
        told = [one if isinstance(one, known) else type(one) for one in _flat((args, kwargs))]
        self.made.append([getattr(func, "__name__", ""), *told])
        return func(*args, **kwargs)

    def same_as(self, other: _Calls) -> bool:
        """Tell whether two forwards take one way; numbers may differ as those of examples do, by sum or by factor."""
        if list(map(len, self.made)) != list(map(len, other.made)):
            return False
        n, m = self.examples, other.examples
        return all(
            one == two or (type(one) is type(two) is int and (one - n == two - m or one * m == two * n))
            for call, its in zip(self.made, other.made, strict=True)
            for one, two in zip(call, its, strict=True)
        )


def statistics(skeleton: Skeleton, layer: Layer, x: Tensor) -> dict[str, Tensor]:
    """Return the statistics that BatchNorm has of one batch x (R, B, *S), by the names of its buffers, (R, *S).

    Nothing is dropped.
    """
    together = skeleton.runs_together(True, x.flatten(0, 1), len(x))
    rules = [layer] if together else rules_apart(layer, x.shape[:1], skeleton.shapes)
    found = []
    for rule, part in zip(rules, [x] if together else x.split(1), strict=True):
        rng, batch = Streams([0] * len(part)), part.flatten(0, 1)
        rows = _Rows(skeleton, rule, part.shape[:1], len(batch), rng, True, False, skeleton.seen[True], quiet=True)
        rows.estimates = {}
        rows.forward(batch)
        found.append(rows.estimates)
    places = {name: place for name, place in skeleton.places.items() if place in found[0]}
    return {name: torch.cat([one[place] for one in found]) for name, place in places.items()}


class _Rows(TorchFunctionMode):
    """One forward of a module on rows that are folded into the batch."""

    def __init__(
        self,
        skeleton: Skeleton,
        layer: Layer,
        lead: tuple[int, ...],
        size: int,
        rng: Streams,
        training: bool,
        keeps_dropping: bool,
        known: Seen | None,
        quiet: bool = False,
    ) -> None:
        """Prepare a forward. Without `known` it is a trial, which writes `seen`; a `quiet` one draws nothing."""
        super().__init__()
        self.skeleton, self.layer, self.lead, self.rng = skeleton, layer, lead, rng
        self.count, self.size, self.training, self.keeps_dropping = math.prod(lead), size, training, keeps_dropping
        self.known, self.quiet, self.calls, self.seen = known, quiet, [0, 0], Seen()
        self.found: dict[str, tuple[Tensor, ...]] = {}
        self.estimates: dict[int, Tensor] | None = None
        self.joint = bool(getattr(layer, "joint", False)) and not training

    def forward(self, batch: Tensor) -> Tensor:
        """Return the output of the module on (L·B, *S)."""
        module = self.skeleton.module
        if module.training != self.training:
            module.train(self.training)
        if self.training and self.known and self.estimates is None:  # a weight decay would reach them
            for name in self.skeleton.frozen:
                value = self.layer.leaf(name).detach().reshape(-1, *self.lead[-1:], self.skeleton.leaves[name].size)
                remember(self.skeleton.places[name], value[0].clone())
        with self:
            out: Any = module(batch)
        if not isinstance(out, Tensor):
            raise Broken(f"its forward returns a {type(out).__name__}, not a tensor with a row for each example")
        if not out.ndim or len(out) != self.size:
            raise Broken(f"its forward makes {tuple(out.shape)} of {self.size} examples: the first axis is the batch")
        return out

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None:
            return handler(self, *args, **kwargs)
        if _has_leaf(args) or (kwargs and _has_leaf(kwargs.values())):
            return self.by_row(func, args, kwargs)
        return func(*args, **kwargs)

    # Values of leaves, and rows of tensors

    def values(self, leaf: RowLeaf) -> tuple[Tensor, ...]:
        """Return the value of a leaf for each of the L rows, (*S) each."""
        if leaf.value is not None:
            return leaf.value.unbind(0)
        if leaf.leaf not in self.found:
            value, shape = self.layer.leaf(leaf.leaf), leaf.shape
            if value.numel() < self.count * leaf.numel():
                value = value.expand(*self.lead, *shape)
            value = value.reshape(self.count, *shape)
            value = value.detach() if leaf.fixed else value
            if self.known and self.skeleton.leaves[leaf.leaf].role == "scale":
                value = 1 + value
            self.found[leaf.leaf] = value.unbind(0)
        return self.found[leaf.leaf]

    def note(self, leaf: Any, role: Role, fan_in: int = 1) -> None:
        """Remember in a trial what a leaf does; a linear map or a gain is that wherever else it is used."""
        if self.known is None and isinstance(leaf, RowLeaf) and leaf.leaf:
            first = role == "weight" and "input" not in self.seen.roles.values()
            before = self.seen.roles.get(leaf.leaf, "bias")
            self.seen.roles[leaf.leaf] = ("input" if first else role) if before == "bias" else before
            self.seen.fan_in[leaf.leaf] = max(fan_in, self.seen.fan_in.get(leaf.leaf, 1))

    def axis(self, t: Tensor, drawn: bool = False) -> Axis:
        """Return where t has the folded batch: as the trial saw it, where sizes tell it without doubt."""
        n = self.size
        of_size = 0 if t.ndim and len(t) and len(t) % n == 0 else 1 if t.ndim > 1 and t.shape[1] == n else None
        found: Axis = self.decided(of_size, drawn)
        return found

    def decided(self, by_size: Any, drawn: bool = False) -> Any:
        """Return what the trial decided at this point of the forward; in a trial, what sizes say.

        Decisions on what is drawn are apart: a single row makes no others, and draws in the order of several.
        """
        known = [] if self.known is None else self.known.drawn if drawn else self.known.axes
        if self.calls[drawn] < len(known):
            by_size = known[self.calls[drawn]]
        self.calls[drawn] += 1
        if self.known is None:
            (self.seen.drawn if drawn else self.seen.axes).append(by_size)
        return by_size

    def split(self, t: Tensor, axis: int) -> tuple[Tensor, ...]:
        """Return the part of each row, with the axes of t."""
        found: tuple[Tensor, ...] = t.unflatten(axis, (self.count, -1)).unbind(axis)
        return found

    def by_row(self, func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Call a function once for each row, with the row's leaves and its part of the batch."""
        in_place = _changes_its_argument(func)
        changed = args[0] if in_place else kwargs.get("out")
        if isinstance(changed, RowLeaf):
            raise Broken(f"its forward changes {changed.leaf or 'a parameter'} in place")
        flat = _flat((args, kwargs))
        leaves = [one for one in flat if isinstance(one, RowLeaf)]
        if len(leaves) == sum(isinstance(one, Tensor) for one in flat):
            of_shape = func(*args, **kwargs)  # a size, a type, a length: no reason to draw a leaf
            if not any(isinstance(one, Tensor) for one in _flat(of_shape)):
                return of_shape
        if self.count == 1:
            return func(*map(self.alone, args), **{key: self.alone(one) for key, one in kwargs.items()})
        axes = _mapped(
            lambda one: self.axis(one) if isinstance(one, Tensor) and not isinstance(one, RowLeaf) else None,
            (args, kwargs),
        )

        def part(row: int, one: Any, axis: Axis) -> Any:
            if isinstance(one, RowLeaf):
                return self.values(one)[row]
            if axis is None:
                return one
            rows = one.unflatten(axis, (self.count, -1))
            return rows.select(axis, row)  # not of `unbind`, whose results cannot be changed in place

        calls = []
        for row in range(self.count):
            given, named = _mapped(partial(part, row), (args, kwargs), axes)
            calls.append(func(*given, **named))
        if in_place:
            return args[0] if calls[0] is not None else None
        batch = next((axis for axis in _flat(axes) if axis is not None), None)
        spread = not any(leaf.ndim and len(leaf) == self.size for leaf in leaves)
        return _mapped(lambda *outs: self.joined(outs, batch, spread), *calls)

    def alone(self, one: Any) -> Any:
        """Return an argument with the values of the only row in place of leaves."""
        if isinstance(one, RowLeaf):
            return self.values(one)[0]
        return type(one)(map(self.alone, one)) if type(one) in (list, tuple) else one

    def joined(self, outs: Sequence[Any], batch: Axis, spread: bool) -> Any:
        """Join the results of the rows: along the batch, or, of leaves alone, into what stands for one value each.

        A leaf that is spread over the folded batch, as a class token is, gets the part of its row.
        """
        if not isinstance(outs[0], Tensor):
            return outs[0]
        if batch is not None:
            return torch.cat(list(outs), batch)
        if self.decided(spread and outs[0].ndim > 0 and len(outs[0]) == self.size):
            return torch.cat([self.split(out, 0)[row] for row, out in enumerate(outs)])
        return RowLeaf.of(outs[0], value=torch.stack(list(outs)))

    # Linear maps

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        """Apply a dense map by the layer rule."""
        given = (x, weight, bias)
        if not _is_map(*given) or x.ndim == 1:
            return self.by_row(functional.linear, given, {}) if _has_leaf(given) else functional.linear(*given)
        axis = 0 if self.count == 1 else self.axis(x)
        if axis is None:
            return self.by_row(functional.linear, given, {})
        return self.mapped(x.movedim(axis, 0), weight, bias).movedim(0, axis)

    def mapped(self, x: Tensor, weight: Any, bias: Any) -> Tensor:
        """Apply a dense map to x (L·B, …, I) by the layer rule: (L·B, …, O)."""
        inputs = x.shape[-1]
        self.note(weight, "weight", inputs)
        self.note(bias, "bias", inputs)
        rows = x.reshape(*self.lead, -1, inputs)
        out = self.layer(weight.leaf, dense, rows, "" if bias is None else bias.leaf)
        return _to_change(out, (*x.shape[:-1], out.shape[-1]))

    def convolved(self, x: Tensor, weight: Any, bias: Any, geometry: Geometry) -> Tensor:
        """Apply a convolution to x (L·B, C, *sides) by the layer rule."""
        fan_in = weight[0].numel()
        self.note(weight, "weight", fan_in)
        self.note(bias, "bias", fan_in)
        rows = x.unflatten(0, (*self.lead, -1))
        out = self.layer(weight.leaf, Convolution(geometry), rows, "" if bias is None else bias.leaf)
        return _to_change(out, (len(x), *out.shape[1 - x.ndim :]))

    # Layers in which rows mix

    def batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Normalise each row by the statistics of its own batch, or by its running ones, which training updates."""
        self.note(weight, "scale")
        self.note(bias, "bias")
        tracked = [one for one in (running_mean, running_var) if isinstance(one, RowLeaf)]
        outs, after = [], []
        momentum = momentum if self.estimates is None else 1.0
        for row, part in enumerate(self.split(x, 0)):
            mean, var = (self.values(one)[row] for one in tracked) if tracked else (running_mean, running_var)
            if training and mean is not None and var is not None:
                mean, var = mean.detach().clone(), var.detach().clone()
                after.append((mean, var))
            gain, offset = (self.values(one)[row] if isinstance(one, RowLeaf) else one for one in (weight, bias))
            outs.append(functional.batch_norm(part, mean, var, gain, offset, training, momentum, eps))
        for leaf, now in zip(tracked, zip(*after, strict=True), strict=True) if after and self.known else ():
            place, value = self.skeleton.places[leaf.leaf], torch.stack(now)
            if self.estimates is None:  # of several samples their mean
                remember(place, value.unflatten(0, (-1, self.lead[-1])).mean(0))
            else:
                self.estimates[place] = value
        return torch.cat(outs) if len(outs) > 1 else outs[0]

    def attention(  # noqa: PLR0913 - the arguments of torch's own function
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        width: int,
        heads: int,
        in_weight: Any,
        in_bias: Any,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero: bool,
        rate: float,
        out_weight: Any,
        out_bias: Any,
        training: bool = True,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False,
        q_proj_weight: Any = None,
        k_proj_weight: Any = None,
        v_proj_weight: Any = None,
        static_k: Tensor | None = None,
        static_v: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `nn.MultiheadAttention` does, whose own code merges the axis of the batch behind that of the time.

        query (T, L·B, E), key and value (S, L·B, …): (T, L·B, E), and the weights.
        """
        if bias_k is not None or add_zero or static_k is not None or query.ndim != 3:
            raise Broken("MultiheadAttention with add_bias_kv or add_zero_attn, or without a batch, is not supported")
        q, k, v = (t.transpose(0, 1) for t in (query, key, value))  # (N, T, E)
        if query is key is value and not use_separate_proj_weight:
            q, k, v = self.mapped(q, in_weight, in_bias).chunk(3, -1)
        else:  # a part of a packed weight is no leaf that a rule could know
            packed = [q_proj_weight, k_proj_weight, v_proj_weight] if use_separate_proj_weight else [in_weight] * 3
            q, k, v = (
                self.part(t, weight, in_bias, i, not use_separate_proj_weight)
                for i, (t, weight) in enumerate(zip((q, k, v), packed, strict=True))
            )
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (N, heads, T, d)
        mask = None
        if attn_mask is not None:
            mask = attn_mask.unflatten(0, (-1, heads)) if attn_mask.ndim == 3 else attn_mask
        if key_padding_mask is not None:
            padded = key_padding_mask[:, None, None, :]
            mask = padded if mask is None else mask + padded
        if need_weights:
            mixed, weights = self.attended(q, k, v, mask, rate, training)
        else:
            rate = rate if training or self.keeps_dropping else 0.0
            mixed, weights = self.scaled_attention(q, k, v, mask, rate), None
        out = self.mapped(mixed.transpose(1, 2).flatten(2), out_weight, out_bias).transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return out, weights

    def part(self, x: Tensor, weight: Any, bias: Any, index: int, packed: bool) -> Tensor:
        """Project x (L·B, T, I) by the weights of query, key or value as points or samples: (L·B, T, E)."""
        self.note(weight, "bias", x.shape[-1])
        self.note(bias, "bias", x.shape[-1])
        w = torch.stack(self.values(weight))
        w = w.chunk(3, 1)[index] if packed else w
        b = None if bias is None else torch.stack(self.values(bias)).chunk(3, 1)[index]
        out = dense(x.reshape(self.count, -1, x.shape[-1]), w, b)
        return out.reshape(*x.shape[:-1], out.shape[-1])

    def attended(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float, training: bool, scale: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return softmax(q kᵀ · scale + mask) v under dropout, and the softmax; scale 0 is 1/√d."""
        scores = q @ k.mT * (scale or 1 / math.sqrt(q.shape[-1]))
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        weights = self.masked(scores.softmax(-1), rate, training)
        return weights @ v, weights

    def scaled_attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend as torch's own function does; under dropout by hand, since that draws for all rows together."""
        self.seen.drops |= dropout_p > 0
        if dropout_p == 0 or self.quiet:
            return functional.scaled_dot_product_attention(
                q, k, v, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            raise Broken("scaled_dot_product_attention with both dropout and enable_gqa is not supported")
        if is_causal:
            attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        return self.attended(q, k, v, attn_mask, dropout_p, True, scale or 0.0)[0]

    def recurrent(self, func: Callable[..., Any], x: Tensor, hidden: Any, weights: Any, *given: Any) -> Any:
        """Run an LSTM, a GRU or an RNN once for each row; the hidden state has its batch on axis 1."""
        sizes, rest = tuple[Tensor, ...](), list(given)
        if (
            isinstance(hidden, Tensor) and not hidden.is_floating_point()
        ):  # of a packed sequence, with start and weights
            if self.count > 1:
                raise Broken("a packed sequence holds all rows of its batch")
            sizes, hidden, (weights, *rest) = (hidden,), weights, rest
        biased, depth, rate, training, both_ways, *time = rest  # whether the batch comes before it, unless packed
        axis = 0 if sizes or time[0] else 1
        for leaf in weights:
            self.note(leaf, "bias")  # one sample of them serves a sequence (Fortunato et al. 2017)
        self.seen.drops |= rate > 0
        drawing = rate > 0 and (training or self.keeps_dropping) and not self.quiet
        seeds: Sequence[int | None] = self.seeds(x) if drawing else [None] * self.count
        several, outs = isinstance(hidden, list | tuple), []
        states = zip(*(self.split(one, 1) for one in (hidden if several else (hidden,))), strict=True)
        for row, (part, state, seed) in enumerate(zip(self.split(x, axis), states, seeds, strict=True)):
            own = [self.values(leaf)[row] if isinstance(leaf, RowLeaf) else leaf for leaf in weights]
            start = [one.contiguous() for one in state]
            how = (biased, depth, rate if drawing else 0.0, training or drawing, both_ways, *time)
            with torch_state.seeded(seed):
                outs.append(func(part, *sizes, tuple(start) if several else start[0], own, *how))
        out, *after = zip(*outs, strict=True)
        return torch.cat(out, axis), *(torch.cat(one, 1) for one in after)

    # What is drawn

    def dropped(self, x: Tensor, rate: float = 0.5, training: bool = True, whole: int = 0) -> Any:
        """Drop numbers of x, or whole channels with the `whole` axes behind them, by each row's own stream."""
        if isinstance(x, RowLeaf):
            return RowLeaf.of(x, value=self.masked(torch.stack(self.values(x)), rate, training, whole))
        axis = self.axis(x, drawn=True)
        if axis is None:
            raise Broken("its forward drops numbers of a tensor that is no row's own, such as a constant")
        return self.masked(x.movedim(axis, 0), rate, training, whole).movedim(0, axis)

    def masked(self, x: Tensor, rate: float, training: bool, whole: int = 0) -> Tensor:
        """Return `dropped` of x (L·B, …)."""
        self.seen.drops |= rate > 0
        if not (training or self.keeps_dropping) or rate == 0 or self.quiet:
            return x
        rows = x.unflatten(0, (*self.lead, -1))
        shape = list(rows.shape[len(self.lead) :])
        shape[len(shape) - whole :] = [1] * whole
        bits = self.rng.bits([1, *shape[1:]] if self.joint else shape, x, "module")
        lead = self.lead if math.prod(self.rng.lead) == self.count else self.rng.lead
        kept = sampling.keep_mask(bits, float(rate), 0, x).reshape(*lead, *bits.shape[len(self.rng.lead) :])
        found: Tensor = (rows * (kept / (1 - rate) if rate < 1 else 0 * kept)).flatten(0, len(self.lead))
        return found

    def seeds(self, like: Tensor) -> list[int]:
        """Draw a seed for each row, for a function of torch that draws by itself."""
        bits = self.rng.bits((4,), like, "seeds").reshape(-1, 4).cpu().long() & 0xFFFF
        bits = bits.repeat(self.count // len(bits), 1)  # several samples share a stream
        return [sum(int(word) << (15 * i) for i, word in enumerate(row)) for row in bits.tolist()]

    def drawing(self, func: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call a function of x that draws once for each row, under a seed of its own."""
        axis = None if isinstance(x, RowLeaf) else self.axis(x, drawn=True)
        if axis is None:
            raise Broken(f"its forward draws numbers ({func.__name__}) that are no row's own")
        if self.quiet:
            return x.fill_(1) if _changes_its_argument(func) else x
        outs = []
        for row, seed in enumerate(self.seeds(x)):
            with torch_state.seeded(seed):
                outs.append(func(x.unflatten(axis, (self.count, -1)).select(axis, row), *args, **kwargs))
        return x if _changes_its_argument(func) else torch.cat(outs, axis)


def _flat(nest: Any) -> list[Any]:
    """Return what stands in a nest of tuples, lists and dicts, in order."""
    if isinstance(nest, dict):
        return _flat(list(nest.values()))
    return [one for part in nest for one in _flat(part)] if isinstance(nest, tuple | list) else [nest]


def _mapped(change: Callable[..., Any], nest: Any, *others: Any) -> Any:
    """Return a nest with `change` of what stands in it, and at the same place in other nests, in its place."""
    if isinstance(nest, dict):
        return {key: _mapped(change, one, *(other[key] for other in others)) for key, one in nest.items()}
    if isinstance(nest, tuple | list):
        parts = [_mapped(change, *ones) for ones in zip(nest, *others, strict=True)]
        return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)  # a named tuple takes each part
    return change(nest, *others)


def _has_leaf(values: Iterable[Any]) -> bool:
    return any(
        isinstance(one, RowLeaf) or (isinstance(one, list | tuple) and any(isinstance(part, RowLeaf) for part in one))
        for one in values
    )


def _to_change(out: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the result of a map in this shape, as a tensor that `ReLU(inplace=True)` may change.

    A result that is a view made inside the map's hand-written gradient may not be changed in place, though no map keeps
    its result; and a copy would cost as much as the ReLU.
    """
    try:
        out.view(shape)
    except RuntimeError:
        return out.reshape(shape)
    return unsafe_view(out, shape)


def _is_map(x: Any, weight: Any, bias: Any) -> bool:
    """Tell whether both weight and bias are leaves, by which a rule knows a map."""
    leaves = [weight] if bias is None else [weight, bias]
    known = all(isinstance(one, RowLeaf) and one.leaf and not one.fixed for one in leaves)
    return known and not isinstance(x, RowLeaf)


def _changes_its_argument(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


# What the mode does with functions of torch


def _convolution(func: Callable[..., Any], axes: int) -> Callable[..., Any]:
    def along(value: Any) -> tuple[int, ...]:
        return (int(value),) * axes if isinstance(value, int) else tuple(value) * (axes if len(value) == 1 else 1)

    def call(
        rows: _Rows,
        x: Tensor,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if not _is_map(x, weight, bias) or x.ndim != axes + 2:
            given = (x, weight, bias, stride, padding, dilation, groups)
            return rows.by_row(func, given, {}) if _has_leaf(given) else func(*given)
        if padding == "same":
            lost = [d * (k - 1) for d, k in zip(along(dilation), weight.shape[2:], strict=True)]
            x = functional.pad(x, [side for n in reversed(lost) for side in (n // 2, n - n // 2)])
        known = (0,) * axes if isinstance(padding, str) else along(padding)
        return rows.convolved(x, weight, bias, Geometry(along(stride), known, along(dilation), groups))

    return call


def _noted(func: Callable[..., Any], role: Role, places: tuple[int, int], names: tuple[str, str]) -> Callable[..., Any]:
    """Return a function that is called by row, and whose weight and bias are said to be that."""

    def call(rows: _Rows, *args: Any, **kwargs: Any) -> Any:
        for place, name, what in zip(places, names, (role, "bias"), strict=True):
            found = kwargs.get(name, args[place] if 0 <= place < len(args) else None)
            rows.note(found, what)
        if kwargs.get("sparse"):
            kwargs["sparse"] = False  # rows are dense: there is nothing that a sparse gradient could save
        return rows.by_row(func, args, kwargs) if _has_leaf((*args, *kwargs.values())) else func(*args, **kwargs)

    return call


def _dropout(axes: int) -> Callable[..., Any]:
    def call(rows: _Rows, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        return rows.dropped(input, p, training, axes)

    return call


def _drawn(func: Callable[..., Any], where: int | None) -> Callable[..., Any]:
    """Return a function that draws by each row's own stream, unless its argument `where` says `training=False`."""

    def call(rows: _Rows, *args: Any, **kwargs: Any) -> Any:
        told = where is None or kwargs.get("training", args[where] if where < len(args) else False)
        return rows.drawing(func, *args, **kwargs) if told else func(*args, **kwargs)

    return call


def _recurrent(func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda rows, *args: rows.recurrent(func, *args)


DROPOUTS = {f"dropout{end}": axes for end, axes in (("", 0), ("1d", 1), ("2d", 2), ("3d", 3))}
DRAWING = {"alpha_dropout": 2, "feature_alpha_dropout": 2, "rrelu": 3, "gumbel_softmax": None}
DRAWN_IN_PLACE = ("bernoulli_", "uniform_", "normal_", "exponential_")

HANDLERS: dict[Any, Callable[..., Any]] = {
    functional.linear: _Rows.linear,
    functional.batch_norm: _Rows.batch_norm,
    functional.multi_head_attention_forward: _Rows.attention,
    functional.scaled_dot_product_attention: _Rows.scaled_attention,
    functional.layer_norm: _noted(functional.layer_norm, "scale", (2, 3), ("weight", "bias")),
    functional.rms_norm: _noted(functional.rms_norm, "scale", (2, -1), ("weight", "")),
    functional.group_norm: _noted(functional.group_norm, "scale", (2, 3), ("weight", "bias")),
    functional.instance_norm: _noted(functional.instance_norm, "scale", (3, 4), ("weight", "bias")),
    functional.embedding: _noted(functional.embedding, "bias", (1, -1), ("weight", "")),
    functional.embedding_bag: _noted(functional.embedding_bag, "bias", (1, -1), ("weight", "")),
    **{
        func: _convolution(func, axes)
        for axes, func in enumerate((functional.conv1d, functional.conv2d, functional.conv3d), 1)
    },
    **{
        func: _noted(func, "bias", (1, 2), ("weight", "bias"))
        for func in (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
    },
    **{func: _recurrent(func) for func in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
    **{getattr(functional, name): _dropout(axes) for name, axes in DROPOUTS.items()},
    **{getattr(functional, name): _drawn(getattr(functional, name), where) for name, where in DRAWING.items()},
    **{getattr(Tensor, name): _drawn(getattr(Tensor, name), None) for name in DRAWN_IN_PLACE},
}
"""What happens to functions of torch; any other is called as it is, or by row where it meets a parameter."""
