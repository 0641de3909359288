import pytest
import torch

from bdlbench.stats.rows import each_row


def test_hand_worked():
    x = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    out = each_row(torch.mean, x)
    assert out.dtype == torch.float64
    assert out.tolist() == [3.0, 1.0]


def test_several_tensors_share_the_row_axis_only():
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2, 5)
    assert each_row(lambda x, y: x.sum() + len(y), a, b).tolist() == [8.0, 17.0]


@pytest.mark.parametrize("num", [1, 7, 64, 1001, 40_000])
def test_a_row_alone_has_the_same_bits(num):
    x = torch.rand(5, num, generator=torch.Generator().manual_seed(num))
    together = each_row(torch.mean, x)
    assert torch.equal(together, torch.cat([each_row(torch.mean, x[r : r + 1]) for r in range(5)]))


def test_the_memory_layout_does_not_matter():
    x = torch.rand(4, 999, generator=torch.Generator().manual_seed(0))
    transposed = x.T.contiguous().T
    assert transposed.stride() != x.stride()
    assert torch.equal(each_row(torch.mean, x), each_row(torch.mean, transposed))


def test_different_numbers_of_rows_are_refused():
    with pytest.raises(ValueError, match="zip"):
        each_row(torch.dot, torch.ones(2, 3), torch.ones(3, 3))
