import pytest
import torch
from torch.func import jacrev, vmap
from torch.nn import functional

from bdlbench.kernels import linear
from bdlbench.kernels.convolution import Conv2d
from bdlbench.kernels.linear import dense, product


def numbers(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=["batched", "one by one"])
def path(request, monkeypatch):
    """Both ways in which a product is computed."""
    monkeypatch.setattr(linear, "SMALL", {"batched": 1 << 40, "one by one": 0}[request.param])


LEADS = [((1,), (1,)), ((3,), (3,)), ((4, 3), (3,)), ((3,), (4, 3)), ((4, 3), (4, 3)), ((4, 1), (1,))]


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("sizes", [(5, 7, 3), (4, 8, 4), (1, 1, 1), (1, 6, 1), (7, 1, 2)])
@pytest.mark.parametrize("grad", [False, True])
def test_product_is_matmul(path, lead, sizes, grad):
    (lead_a, lead_b), (n, k, m) = lead, sizes
    a, b = numbers(*lead_a, n, k), numbers(*lead_b, k, m, seed=1).requires_grad_(grad)
    torch.testing.assert_close(product(a, b), a @ b)


@pytest.mark.parametrize("transposed", [False, True])
def test_products_gradient_is_that_of_finite_differences(path, transposed):
    a = numbers(2, 3, 5).requires_grad_()
    b = (numbers(2, 4, 5, seed=1).mT if transposed else numbers(2, 5, 4, seed=1)).detach().requires_grad_()
    assert torch.autograd.gradcheck(product, (a, b))
    assert torch.autograd.gradgradcheck(product, (a, b))


@pytest.mark.parametrize("lead", LEADS)
def test_products_gradient_is_that_of_matmul_where_the_leading_axes_broadcast(path, lead):
    a, b = numbers(*lead[0], 5, 7).requires_grad_(), numbers(*lead[1], 7, 3, seed=1).requires_grad_()
    ours = torch.autograd.grad(product(a, b).square().sum(), (a, b))
    theirs = torch.autograd.grad((a @ b).square().sum(), (a, b))
    torch.testing.assert_close(ours, theirs)


def test_product_works_under_torch_func(path):
    a, b = numbers(2, 3, 5), numbers(2, 5, 4, seed=1)
    torch.testing.assert_close(jacrev(product, 1)(a, b), jacrev(torch.matmul, 1)(a, b))
    many = numbers(6, 2, 5, 4, seed=2)
    torch.testing.assert_close(vmap(product, (None, 0))(a, many), a @ many)
    by_vmap = vmap(jacrev(lambda w: product(a, w).square().sum()))(many)
    torch.testing.assert_close(by_vmap, 2 * (a.mT @ (a @ many)))


SIZES = [(62, 31, 5), (13, 11, 17), (13, 64, 10), (74, 64, 10), (33, 128, 1), (1, 33, 77), (65, 77, 50)]
SIZES += [(8, 8, 8), (64, 64, 50)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kinds", ["NN", "NT", "TN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rows_product_and_gradients_have_the_same_bits_alone(path, threads, sizes, kinds, dtype):
    n, k, m = sizes
    a, b = numbers(5, n, k, dtype=dtype), numbers(5, k, m, dtype=dtype, seed=1)
    a = a.mT.contiguous().mT if kinds[0] == "T" else a
    b = b.mT.contiguous().mT if kinds[1] == "T" else b
    together = _product_and_gradients(a, b)
    for r in range(5):
        alone = _product_and_gradients(a[r : r + 1].clone(), b[r : r + 1].clone())
        for value, expected in zip(together, alone, strict=True):
            assert torch.equal(value[r : r + 1], expected)


def _product_and_gradients(a, b):
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    out = product(a, b)
    return out, *torch.autograd.grad(out.square().sum(), (a, b))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("leads", [((5,), (7, 5)), ((7, 5), (5,)), ((7, 5), (7, 5)), ((7, 8), (8,))])
def test_a_rows_product_has_the_same_bits_alone_for_any_chunk_of_samples(path, sizes, leads):
    n, k, m = sizes
    a, b = numbers(*leads[0], n, k, dtype=torch.float32), numbers(*leads[1], m, k, dtype=torch.float32, seed=1).mT
    together = product(a, b)
    for first, last in ((0, 1), (0, 7), (3, 5)):
        parts = [t[first:last] if t.ndim == 4 else t for t in (a, b)]
        alone = product(*(_lone_row(t, 3) for t in parts))  # of all rows, one that may start off a boundary
        assert torch.equal(together[first:last, 3:4], alone)


def _lone_row(t, r):
    kept = t[..., r : r + 1, :, :]
    return kept.mT.clone().mT if t.stride(-2) == 1 else kept.clone()


def test_widely_different_rows_do_not_touch():
    a, b = numbers(3, 5, 7), numbers(3, 7, 2, seed=1)
    a[1], b[2] = float("nan"), float("inf")
    out = product(a, b)
    assert out[0].isfinite().all()
    assert torch.equal(out[0], product(a[:1], b[:1])[0])


CONVS = [Conv2d(), Conv2d(padding=1), Conv2d(stride=2), Conv2d(stride=2, padding=1)]


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("op", CONVS, ids=str)
def test_convolution_over_leading_axes_is_the_loop(op, lead):
    x, weight = numbers(*lead[0], 2, 3, 8, 7), numbers(*lead[1], 4, 3, 3, 3, seed=1)
    out = op(x, weight)
    shape = torch.broadcast_shapes(*lead)
    x, weight = x.expand(*shape, *x.shape[-4:]), weight.expand(*shape, *weight.shape[-4:])
    assert out.shape[: len(shape)] == shape
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist():
        i = tuple(index)
        expected = functional.conv2d(x[i], weight[i], stride=op.geometry.stride, padding=op.geometry.padding)
        torch.testing.assert_close(out[i], expected)


@pytest.mark.parametrize("lead", LEADS)
def test_dense_over_leading_axes_is_the_loop(path, lead):
    x, weight = numbers(*lead[0], 5, 7), numbers(*lead[1], 3, 7, seed=1)
    torch.testing.assert_close(dense(x, weight), torch.einsum("...bi,...oi->...bo", *_together(x, weight)))


def _together(x, weight):
    lead = torch.broadcast_shapes(x.shape[:-2], weight.shape[:-2])
    return x.expand(*lead, *x.shape[-2:]), weight.expand(*lead, *weight.shape[-2:])


@pytest.mark.parametrize("op", [dense, *CONVS], ids=str)
def test_a_map_says_how_many_axes_follow_the_rows(op):
    is_dense = op is dense
    out = op(numbers(6, 2, *((5,) if is_dense else (3, 8, 8))), numbers(6, 4, *((5,) if is_dense else (3, 3, 3))))
    assert out.ndim == 1 + op.trailing
    assert out.shape[:2] == (6, 2)


@pytest.mark.parametrize("op", [dense, *CONVS], ids=str)
def test_a_map_is_linear_in_both_arguments(op):
    trailing = (5,) if op is dense else (3, 8, 8)
    kernel = (5,) if op is dense else (3, 3, 3)
    x, z, w, v = (
        numbers(2, 3, *trailing),
        numbers(2, 3, *trailing, seed=1),
        numbers(2, 4, *kernel),
        numbers(2, 4, *kernel),
    )
    torch.testing.assert_close(op(2 * x - z, w), 2 * op(x, w) - op(z, w))
    torch.testing.assert_close(op(x, 3 * w + v), 3 * op(x, w) + op(x, v))


@pytest.mark.parametrize("shape", [(7, 9, 6), (32, 13, 50), (64, 300, 100)])
def test_a_row_that_is_part_of_a_wider_one_has_the_same_bits_alone(shape):
    n, k, m = shape
    wide, b = numbers(3, n, k + 3, dtype=torch.float32), numbers(3, k, m, dtype=torch.float32, seed=1)
    together = product(wide[..., :k], b)
    for r in range(3):
        alone = product(wide[r : r + 1].clone()[..., :k], b[r : r + 1].clone())
        assert torch.equal(together[r : r + 1], alone)


def test_an_axis_of_vmap_on_the_bias_alone():
    x, weight, biases = numbers(1, 5, 3), numbers(1, 4, 3, seed=1), numbers(6, 1, 4, seed=2)

    def slope(bias):
        return jacrev(lambda w: dense(x, w, bias).square().sum())(weight)

    torch.testing.assert_close(vmap(slope)(biases), torch.stack([slope(bias) for bias in biases]))
