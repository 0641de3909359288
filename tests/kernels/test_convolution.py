import os
import subprocess
import sys

import pytest
import torch
from torch.func import grad, jacrev, vmap
from torch.nn import functional

from bdlbench.kernels import convolution
from bdlbench.kernels.convolution import Conv2d, Convolution, Geometry, group_norm, image_last

pytestmark = pytest.mark.slow


def numbers(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=["channels last", "as they lie"], autouse=True)
def way(request, monkeypatch):
    """Both orders of memory in which images are kept."""
    monkeypatch.setitem(convolution.WAYS, "cpu", request.param)
    return request.param


OPS = [Conv2d(), Conv2d(padding=1), Conv2d(stride=2, padding=1)]
LEADS = [((1,), (1,)), ((3,), (3,)), ((4, 3), (3,)), ((3,), (4, 3)), ((4, 1), (1,))]


def plain_convolution(op, x, weight):
    """By torch's own grouped convolution, rows as groups."""
    lead = torch.broadcast_shapes(x.shape[:-4], weight.shape[:-4])
    x = x.expand(*lead, *x.shape[-4:]).reshape(-1, *x.shape[-4:])
    weight = weight.expand(*lead, *weight.shape[-4:]).reshape(-1, *weight.shape[-4:])
    together = x.movedim(0, 1).flatten(1, 2)
    out = functional.conv2d(
        together, weight.flatten(0, 1), None, op.geometry.stride, op.geometry.padding, groups=len(x)
    )
    return out.unflatten(1, (len(x), -1)).movedim(1, 0).unflatten(0, lead)


def plain_norm(x, gain, offset, groups, rectified):
    """By torch's own kernel."""
    normal = functional.group_norm(x.reshape(-1, *x.shape[-3:]), groups).view_as(x)
    out = normal * gain[..., None, :, None, None] + offset[..., None, :, None, None]
    return out.relu() if rectified else out


def gradients(function, *inputs):
    """The value, and the gradients of a sum of it with random weights."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    out = function(*inputs)
    weighted = (out * numbers(*out.shape, dtype=out.dtype, seed=9)).sum()
    return out.detach(), *torch.autograd.grad(weighted, inputs)


def assert_close(ours, theirs):
    for value, expected in zip(ours, theirs, strict=True):
        largest = expected.abs().max()
        assert (value - expected).abs().max() <= 1e-6 * largest


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("op", OPS, ids=str)
def test_a_convolution_is_the_grouped_one(op, lead):
    inputs = numbers(*lead[0], 5, 3, 8, 7, dtype=torch.float32), numbers(*lead[1], 4, 3, 3, 3, dtype=torch.float32)
    assert_close(gradients(op, *inputs), gradients(lambda *a: plain_convolution(op, *a), *inputs))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("op", OPS, ids=str)
def test_a_convolutions_gradient_is_that_of_finite_differences(op, channels):
    x, weight = numbers(2, 2, channels, 4, 3).requires_grad_(), numbers(2, 2, channels, 3, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(op, (x, weight))
    assert torch.autograd.gradcheck(lambda w: op(x.detach(), w), (weight,))
    assert torch.autograd.gradcheck(lambda z: op(z, weight.detach()), (x,))


def test_a_convolution_works_under_torch_func():
    op, x, weight = OPS[2], numbers(2, 3, 2, 5, 4), numbers(2, 3, 2, 3, 3, seed=1)
    plain = lambda *a: plain_convolution(op, *a)  # noqa: E731
    torch.testing.assert_close(jacrev(op, (0, 1))(x, weight), jacrev(plain, (0, 1))(x, weight))
    many = numbers(6, 2, 3, 2, 3, 3, seed=2)
    torch.testing.assert_close(vmap(op, (None, 0))(x, many), plain(x, many))
    each = vmap(grad(lambda w: op(x, w).square().sum()))(many)
    torch.testing.assert_close(each, torch.stack([grad(lambda w: plain(x, w).square().sum())(w) for w in many]))


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("lead", [((3,), (3,)), ((1,), (1,)), ((4, 3), (3,)), ((3,), (4, 3))])
def test_a_norm_is_torchs(lead, rectified, monkeypatch):
    inputs = [numbers(*lead[0], 5, 6, 4, 3, dtype=torch.float32) + 1, *(1 + numbers(2, *lead[1], 6).float())]
    expected = gradients(lambda *a: plain_norm(*a, 3, rectified), *inputs)
    for chunk in (1, 200, 1 << 19):
        monkeypatch.setattr(convolution, "CHUNK", chunk)
        assert_close(gradients(lambda *a: group_norm(*a, 3, rectified), *inputs), expected)


@pytest.mark.parametrize("rectified", [False, True])
def test_a_norms_gradient_is_that_of_finite_differences(rectified):
    inputs = [t.requires_grad_() for t in (numbers(2, 2, 4, 3, 2), numbers(2, 4, seed=1), numbers(2, 4, seed=2))]
    assert torch.autograd.gradcheck(lambda *a: group_norm(*a, 2, rectified), inputs)


def test_a_norm_works_under_torch_func():
    x, gain, offset = numbers(2, 2, 4, 3, 2), numbers(2, 4, seed=1), numbers(2, 4, seed=2)
    ours, plain = (lambda *a, f=f: f(*a, 2, True) for f in (group_norm, plain_norm))
    for argument in range(3):
        torch.testing.assert_close(jacrev(ours, argument)(x, gain, offset), jacrev(plain, argument)(x, gain, offset))
    many = numbers(5, 2, 4, seed=3)
    torch.testing.assert_close(vmap(ours, (None, 0, None))(x, many, offset), plain(x, many, offset))


def test_a_norm_is_accurate_far_from_zero():
    x, one = numbers(1, 2, 4, 6, 5, dtype=torch.float32) + 1000, torch.ones(1, 4)
    out = group_norm(x, one, 0 * one, 2)
    torch.testing.assert_close(
        out.double(), plain_norm(x.double(), one.double(), 0 * one.double(), 2, False), atol=1e-4, rtol=0
    )


def test_second_derivatives_are_refused(way, refused):
    x, weight, one = numbers(1, 1, 2, 3, 3).requires_grad_(), numbers(1, 1, 2, 3, 3), torch.ones(1, 2).double()
    ours = [OPS[0](x, weight), *([group_norm(x, one, one, 1)] if way == "channels last" else [])]
    for out in ours:
        (slope,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        with refused("gradient", "differentiated", error=NotImplementedError):
            slope.sum().backward()


def test_images_are_kept_with_channels_last(way):
    x = image_last(numbers(2, 3, 4, 6, 5))
    assert torch.equal(x, numbers(2, 3, 4, 6, 5))
    out = OPS[1](x, numbers(2, 7, 4, 3, 3))
    if way == "channels last":
        assert x.stride()[-3] == out.stride()[-3] == 1
        assert image_last(out).data_ptr() == out.data_ptr()
    else:
        assert out.is_contiguous()


GEOMETRIES = {
    "1d": (Geometry((2,), (1,), (2,), 1), (5, 4, 9), (6, 4, 3)),
    "2d": (Geometry((2, 1), (1, 2), (1, 2), 2), (5, 4, 7, 6), (6, 2, 3, 2)),
    "depthwise": (Geometry((1, 1), (1, 1), (1, 1), 4), (5, 4, 7, 6), (4, 1, 3, 3)),
    "3d": (Geometry((1, 2, 1), (0, 1, 0), (1, 1, 2), 1), (5, 2, 4, 5, 6), (3, 2, 2, 3, 2)),
}
PLAIN = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_convolution_of_any_geometry_is_torchs(name, lead):
    geometry, x_shape, w_shape = GEOMETRIES[name]
    op, func = Convolution(geometry), PLAIN[len(geometry.stride)]
    x, w = numbers(*lead[0], *x_shape), numbers(*lead[1], *w_shape, seed=1)
    b = numbers(*lead[1], w_shape[0], seed=2)

    def plain(x, w, b):
        whole = torch.broadcast_shapes(lead[0], lead[1])
        parts = [
            t.expand(*whole, *s).flatten(0, -len(s) - 1) for t, s in ((x, x_shape), (w, w_shape), (b, w_shape[:1]))
        ]
        return torch.stack([func(*one, *geometry) for one in zip(*parts, strict=True)]).unflatten(0, whole)

    assert_close(gradients(op, x, w, b), gradients(plain, x, w, b))
    out = op(x, w, b)
    assert tuple(out.shape[-op.trailing :]) == tuple(op.output_shape(x, w))
    torch.testing.assert_close(op.unit_sums(out), out.movedim(-op.trailing + 1, -1).flatten(-op.trailing, -2).sum(-2))
    if lead[0] == lead[1]:
        ones = numbers(*out.shape, seed=9)
        _, of_x, of_w, _ = gradients(op, x, w, b)
        assert_close(op.gradients(ones, x, w, True, True), (of_x, of_w))
        assert op.gradients(ones, x, w, False, True)[0] is None


def test_a_square_convolution_is_torchs_of_each_row():
    x, w = numbers(3, 5, 4, 8, 8), numbers(3, 6, 4, 3, 3, seed=1)
    square = Conv2d(stride=2, padding=1)
    assert square == Convolution(Geometry((2, 2), (1, 1), (1, 1), 1))
    expected = torch.stack([functional.conv2d(a, b, None, 2, 1) for a, b in zip(x, w, strict=True)])
    torch.testing.assert_close(square(x, w), expected)
    alone = square(x[:1].requires_grad_(), w[:1])
    assert torch.equal(alone.relu_().detach(), square(x, w)[:1].relu().detach())  # in place, of a single row


STRIDED = """
import gc, torch
from bdlbench.kernels.convolution import Conv2d
torch.set_num_threads(1)
for channels in (1, 4, 6):
    for _ in range(12):
        weight = torch.rand(1, 8, channels, 1, 1).requires_grad_()
        Conv2d(stride=2)(torch.rand(1, 4, channels, 8, 8), weight).sum().backward()
        gc.collect()
        kept = [torch.rand(size) for size in range(1, 200)]
print("whole")
"""


def test_a_strided_map_of_few_channels_leaves_the_memory_of_others_alone():
    """oneDNN's gradient does not: the process then ends anywhere, by a corrupted heap."""
    checked = {**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "85"}
    done = subprocess.run([sys.executable, "-c", STRIDED], capture_output=True, text=True, env=checked, check=False)
    assert done.stdout == "whole\n", (done.returncode, done.stderr[-300:])


@pytest.mark.parametrize("channels", [1, 4, 7, 8])
@pytest.mark.parametrize("of_x", [True, False])
def test_the_gradients_of_a_strided_map_are_torchs_in_float64(channels, of_x):
    rng = torch.Generator().manual_seed(channels)
    x = torch.rand(2, 3, channels, 9, 8, generator=rng).requires_grad_(of_x)
    weight = torch.rand(2, 5, channels, 1, 1, generator=rng).requires_grad_()
    (Conv2d(stride=2)(x, weight) ** 2).sum().backward()
    for r in range(2):
        images, kernels = (t[r].detach().double().requires_grad_() for t in (x, weight))
        (torch.nn.functional.conv2d(images, kernels, stride=2) ** 2).sum().backward()
        torch.testing.assert_close(weight.grad[r].double(), kernels.grad, rtol=1e-4, atol=1e-4)
        if of_x:
            torch.testing.assert_close(x.grad[r].double(), images.grad, rtol=1e-4, atol=1e-4)
