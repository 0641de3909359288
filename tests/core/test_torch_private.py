"""Torch's private API stands in one module, and each public call that takes its place gives the same bits."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bdlbench.core import torch_private

PACKAGE = Path(torch_private.__file__).parents[1]
PUBLIC = {
    "sum_gradient": "_sum_gradient",
    "adam_": "_adam",
    "apply": "_apply",
    "transforms_active": "_may_be_active",
    "unsafe_view": "_copied",
    "squared_error": "_squared_error",
    "version": "_content",
}
"""By what a caller asks for: the public call that takes the place of the private one."""


def imported_anew() -> ModuleType:
    """A second copy of the module, which tries the private calls as they are now."""
    found = importlib.util.spec_from_file_location("torch_private_again", torch_private.__file__)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def refusing(*arguments: object, **named: object) -> None:
    raise TypeError("it takes other arguments")


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module where torch has taken back all that is private, or given it other arguments."""
    monkeypatch.delattr(torch, "_fused_adam_")
    monkeypatch.delattr(torch.autograd.Variable, "_execution_engine")
    monkeypatch.setattr(torch._C, "_are_functorch_transforms_active", refusing)
    monkeypatch.setattr(torch._C._nn, "mse_loss", refusing)
    monkeypatch.setattr(torch.ops.aten, "_unsafe_view", refusing)
    monkeypatch.setattr(torch.Tensor, "_version", property(refusing))
    module = imported_anew()
    monkeypatch.undo()
    return module


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_what_torch_has_is_used_and_what_it_lacks_is_replaced(public):
    for name, instead in PUBLIC.items():
        assert getattr(public, name) is getattr(public, instead), name
        assert getattr(torch_private, name) is not getattr(torch_private, instead), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_has_the_same_bits(public, dtype):
    weights = normal(3, 40, dtype=dtype)
    found = []
    for module in (torch_private, public):
        rows = weights.clone().requires_grad_()
        found.append(module.sum_gradient((rows.exp() * rows.sin()).mean(1), rows))
    assert same_bits(*found)
    hand = (weights.exp() * (weights.sin() + weights.cos())) / 40
    torch.testing.assert_close(found[0], hand)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_of_adam_has_the_same_bits(public, dtype):
    states = []
    for module in (torch_private, public):
        flat, mean, square = (normal(2, 48, seed=s, dtype=dtype) for s in (1, 2, 3))
        square.square_()
        for step in (1, 2, 3):
            module.adam_(flat, normal(2, 48, seed=10 + step, dtype=dtype), mean, square, step, 0.01 * step)
        states.append((flat, mean, square))
    assert all(same_bits(*pair) for pair in zip(*states, strict=True))


def test_a_first_step_of_adam_is_its_formula(public):
    for module in (torch_private, public):
        flat, gradient = normal(1, 16, dtype=torch.float64), normal(1, 16, seed=1, dtype=torch.float64)
        start, mean, square = flat.clone(), torch.zeros_like(flat), torch.zeros_like(flat)
        module.adam_(flat, gradient, mean, square, 1, 0.1)
        torch.testing.assert_close(flat, start - 0.1 * gradient / (gradient.abs() + 1e-8))
        torch.testing.assert_close(mean, 0.1 * gradient)
        torch.testing.assert_close(square, 0.001 * gradient.square())


@pytest.mark.parametrize("shape", [(3, 5), (1, 5)])
def test_a_squared_error_has_the_same_bits_and_gradient(public, shape):
    found = []
    for module in (torch_private, public):
        a = normal(3, 5).requires_grad_()
        value = module.squared_error(a, normal(*shape, seed=1))
        value.sum().backward()
        found.append((value.detach(), a.grad))
    assert all(same_bits(*pair) for pair in zip(*found, strict=True))
    torch.testing.assert_close(found[0][0], (normal(3, 5) - normal(*shape, seed=1)).square())


def test_values_in_another_shape_may_be_changed_in_place_and_have_the_same_gradient(public):
    found = []
    for module in (torch_private, public):
        x = normal(4, 6).requires_grad_()
        out = module.unsafe_view(2 * x, (2, 12))
        out.relu_().square().sum().backward()
        found.append((out.detach(), x.grad))
    assert all(same_bits(*pair) for pair in zip(*found, strict=True))
    torch.testing.assert_close(found[0][1], 8 * normal(4, 6).relu())


def test_products_and_dense_maps_have_the_same_bits(public, monkeypatch):
    """By the slow ways that are always right, for small and large maps, with and without a gradient."""
    from bdlbench.kernels import linear

    def everything() -> list[Tensor]:
        found = []
        for size in (7, 200):
            x, bias = normal(2, 33, size), normal(2, size, seed=5)
            weight = normal(2, size, size, seed=size).requires_grad_()
            out = linear.dense(x, weight, bias)
            out.square().sum().backward()
            found += [out.detach(), weight.grad]
            with torch.no_grad():
                found.append(linear.dense(x, weight, bias))
        return found

    usual = everything()
    monkeypatch.setattr(linear, "apply", public.apply)
    monkeypatch.setattr(linear, "transforms_active", public.transforms_active)
    assert all(same_bits(a, b) for a, b in zip(usual, everything(), strict=True))


def test_both_versions_change_with_a_tensor_and_only_then(public):
    for module in (torch_private, public):
        value = normal(4)
        before = module.version(value)
        assert module.version(value) == before
        value[2] += 1
        assert module.version(value) != before


def test_a_tensor_that_counts_no_changes_is_told_by_its_content():
    with torch.inference_mode():
        value = torch.zeros(3)
    before = torch_private.version(value)
    with torch.inference_mode():
        value.add_(1)
    assert torch_private.version(value) != before


def private_names(path: Path) -> Iterator[str]:
    """What a file asks of torch or of a tensor by a name that begins with `_`, as `line: name`."""
    known = {"_version", "_execution_engine", "_C", "run_backward"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if any(name.startswith("_") for name in names if name != "__future__"):
                yield f"{node.lineno}: {node.module}"
        if isinstance(node, ast.Attribute):
            dunder, source = node.attr.startswith("__"), ast.unparse(node.value)
            of_torch = source.partition(".")[0] == "torch" and node.attr.startswith("_") and not dunder
            if of_torch or node.attr in known:
                yield f"{node.lineno}: {ast.unparse(node)}"


def test_no_other_module_calls_private_torch():
    found = {str(path.relative_to(PACKAGE)): list(private_names(path)) for path in PACKAGE.rglob("*.py")}
    assert len(found.pop("core/torch_private.py")) >= 5
    assert {path: names for path, names in found.items() if names} == {}
