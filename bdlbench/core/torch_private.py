"""The private calls of torch that this package uses because they are faster, each with the public call beside it.

Each private call is tried once, when this module is imported. If it is gone, or takes other arguments, the public call
replaces it: the numbers are the same (tests/core/test_torch_private.py), but it takes longer.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adam import adam

Call = TypeVar("Call", bound=Callable[..., Any])

ADAM_SETTINGS: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
ADAM_SETTINGS |= {"amsgrad": False, "maximize": False}
"""The settings of Adam (Kingma & Ba 2015), by the names that torch's kernel has for them."""


def _either(private: Call, public: Call, arguments: Callable[[], tuple[object, ...]]) -> Call:
    """Return the private call if it can be made with these arguments, else the public call."""
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a call that torch is about to remove warns
        try:
            private(*arguments())
        except (AttributeError, TypeError, RuntimeError):
            return public
    return private


def _one() -> Tensor:
    return torch.ones(1, dtype=torch.float32, device="cpu").requires_grad_()


def _sum_gradient_by_engine(values: Tensor, of: Tensor) -> Tensor:
    keep_graph = create_graph = accumulate_grad = allow_unreachable = False
    found = torch.autograd.Variable._execution_engine.run_backward(
        (values,), (torch.ones_like(values),), keep_graph, create_graph, (of,), allow_unreachable, accumulate_grad
    )
    return found[0]


def _sum_gradient(values: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(values, of, torch.ones_like(values))[0]


def _doubled() -> tuple[Tensor, Tensor]:
    x = _one()
    return 2 * x, x


sum_gradient = _either(_sum_gradient_by_engine, _sum_gradient, _doubled)
"""The gradient of the sum of values (R,) in the tensor `of` (R, Q), in its shape: (values, of) -> gradient.

`torch.autograd.grad` checks its arguments for longer than the backward of a small layer takes.
"""


def _adam_by_kernel(flat: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, rate: float) -> None:
    count = torch.full((), float(step), device=flat.device)
    torch._fused_adam_([flat], [gradient], [mean], [square], [], [count], lr=rate, **ADAM_SETTINGS)


def _adam(flat: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, rate: float) -> None:
    before = torch.full((), float(step - 1), device=flat.device)
    adam([flat], [gradient], [mean], [square], [], [before], lr=rate, fused=True, **ADAM_SETTINGS)


adam_ = _either(_adam_by_kernel, _adam, lambda: (*(_one().detach() for _ in range(4)), 1, 1e-3))
"""A step of Adam's fused kernel in place, step counted from 1: (flat, gradient, mean, square, step, rate).

`torch.optim.Adam(fused=True)` checks its arguments for longer than a small step takes.
"""


def _apply_unbound(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    if torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    return function.apply(*arguments)


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass


apply = _either(_apply_unbound, _apply, lambda: (_Double, _one()))
"""`function.apply(*arguments)` at half the cost: it does not bind the arguments, which only torch.func needs."""


def _are_transforms_active() -> bool:
    return torch._C._are_functorch_transforms_active()


def _may_be_active() -> bool:
    return True


transforms_active = _either(_are_transforms_active, _may_be_active, tuple)
"""Whether torch.func is active, under which nothing may be written in place; always True if torch does not say."""


def _unsafe_view(values: Tensor, shape: Sequence[int]) -> Tensor:
    found: Tensor = torch.ops.aten._unsafe_view(values, shape)
    return found


def _copied(values: Tensor, shape: Sequence[int]) -> Tensor:
    return values.reshape(shape).clone()


unsafe_view = _either(_unsafe_view, _copied, lambda: (_one(), (1,)))
"""Values in another shape, as a tensor of its own, which may be changed in place: (values, shape) -> values.

The values are nobody else's, so the memory may stay theirs; a copy of it costs as much as a ReLU.
"""


def _squared_error_in_one_node(a: Tensor, b: Tensor) -> Tensor:
    found: Tensor = torch._C._nn.mse_loss(a, b, 0)  # type: ignore[arg-type]
    return found


def _squared_error(a: Tensor, b: Tensor) -> Tensor:
    wide_a, wide_b = torch.broadcast_tensors(a, b)
    return functional.mse_loss(wide_a, wide_b, reduction="none")


squared_error = _either(_squared_error_in_one_node, _squared_error, lambda: (_one(), _one().detach()))
"""(a − b)² elementwise, of tensors that broadcast, in one node of the graph: (a, b) -> squares; not under vmap.

`functional.mse_loss` warns where one tensor is broadcast, and expanding it first would add a node.
"""


def _version_counted(value: Tensor) -> object:
    return _content(value) if value.is_inference() else value._version  # inference tensors have no counter


def _content(value: Tensor) -> object:
    dense = value.detach().cpu().contiguous().flatten()
    return hashlib.sha256(dense.view(torch.uint8).numpy().tobytes()).hexdigest()


version = _either(_version_counted, _content, lambda: (_one(),))
"""A value that changes when a tensor is changed in place: its counter, or SHA-256 of its content where it has none."""
