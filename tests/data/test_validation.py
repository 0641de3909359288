"""Validation rows: a part of the training rows by the row's own stream, and the rest standardised by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bdlbench.data.task import Data, Examples, Problem, Signature, StandardisedOn, Task, stack
from bdlbench.data.validation import HeldOut, hold_out

SEEDS = (3, 1, 3)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task(shape: tuple[int, ...] = (4,), on: StandardisedOn = "training", declared: bool = True, num: int = 21) -> Task:
    """A regression task; its rows are not standardised, only said to be, so that nothing is the same by chance."""
    axes = (0, *range(2, len(shape) + 1)) if declared else ()
    train, test = (Examples(2 + 3 * numbers(n, *shape, seed=n), 5 + 2 * numbers(n, seed=n + 1)) for n in (num, 6))
    ood = {"far": 9 * numbers(5, *shape, seed=5)}
    given = {"standardised": axes, "standardised_on": on, "ood": ood, "y_mean": 10.0, "y_sd": 4.0}
    return Task(Signature(shape, 1, "gaussian"), train, test, **given)  # type: ignore[arg-type]


def problem(**options: Any) -> Problem:
    return stack([task(**options)], [0, 0, 0])


def together(found: HeldOut) -> Tensor:
    """All training targets in original units, (R, N), sorted."""
    parts = [found.problem.train.y, found.validation.y]
    y = torch.cat(parts, 1).double() * found.problem.y_sd[:, None] + found.problem.y_mean[:, None]
    return y.sort(1).values


@pytest.mark.parametrize("shape", [(4,), (3, 5, 5)])
def test_what_is_left_is_standardised_by_itself_and_the_rest_comes_to_its_scale(shape: tuple[int, ...]) -> None:
    given = problem(shape=shape)
    found = hold_out(given, SEEDS, 0.2)
    assert (found.problem.train.num_data, found.validation.num_data) == (16, 5)  # 16.8, rounded down
    axes = tuple(axis + 1 for axis in given.standardised)
    x = found.problem.train.x.double()
    torch.testing.assert_close(x.mean(axes), torch.zeros_like(x.mean(axes)), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.var(axes, correction=0), torch.ones_like(x.mean(axes)), atol=1e-5, rtol=0)
    whole = (given.train.y.double() * 4 + 10).sort(1).values
    torch.testing.assert_close(together(found), whole, atol=1e-5, rtol=0)
    test = found.problem.test.y.double() * found.problem.y_sd[:, None] + found.problem.y_mean[:, None]
    torch.testing.assert_close(test, given.test.y.double() * 4 + 10, atol=1e-5, rtol=0)
    # one affine map of each column, or channel, for all parts: differences keep their ratios
    for old, new in ((given.test.x, found.problem.test.x), (given.ood["far"], found.problem.ood["far"])):
        crossed = [(a[:, 0] - a[:, 1]) * (b[:, 2] - b[:, 1]) for a, b in ((old, new), (new, old))]
        torch.testing.assert_close(*crossed, atol=1e-4, rtol=1e-4)


def test_a_row_holds_out_the_same_alone_by_its_seed_and_no_other() -> None:
    given = problem()
    found = hold_out(given, SEEDS, 0.3)
    alone = hold_out(stack([task()], [0]), SEEDS[1:2], 0.3)
    for mine, single in ((found.problem.train, alone.problem.train), (found.validation, alone.validation)):
        assert torch.equal(mine.x[1:2], single.x)
        assert torch.equal(mine.y[1:2], single.y)
        assert torch.equal(mine.x[0], mine.x[2])  # the same seed and split
        assert not torch.equal(mine.x[0], mine.x[1])


@pytest.mark.parametrize("options", [{"on": "all"}, {"declared": False}])
def test_rows_that_are_not_standardised_by_the_training_rows_stay_as_they_are(options: Any) -> None:
    given = problem(**options)
    found = hold_out(given, SEEDS, 0.2)
    assert torch.equal(found.problem.test.x, given.test.x)
    assert torch.equal(found.problem.test.y, given.test.y)
    assert torch.equal(found.problem.y_sd, given.y_sd)
    assert torch.equal(found.problem.y_mean, given.y_mean)
    assert set(found.validation.x[0].flatten().tolist()) <= set(given.train.x[0].flatten().tolist())


def test_a_column_that_no_longer_varies_keeps_its_scale() -> None:
    whole = task(num=8)
    whole.train.x[:, 2] = 7.0
    found = hold_out(stack([whole], [0]), [0], 0.5)
    assert found.problem.train.x[0, :, 2].tolist() == [0.0] * 4
    torch.testing.assert_close(found.problem.test.x[0, :, 2], whole.test.x[:, 2] - 7)


def test_classes_are_held_out_and_not_scaled() -> None:
    plain = task()
    labels = [Examples(part.x, (part.y > 5).long()) for part in (plain.train, plain.test)]
    given = replace(plain, signature=Signature((4,), 2, "categorical"), train=labels[0], test=labels[1])
    found = hold_out(stack([replace(given, y_mean=0.0, y_sd=1.0)], [0]), [0], 0.2)
    assert found.problem.train.y.dtype == torch.int64
    assert (found.problem.y_mean.item(), found.problem.y_sd.item()) == (0.0, 1.0)


def test_a_share_of_ninety_percent_of_ten_rows_leaves_one() -> None:
    """1 − 0.9 is less than 0.1 in floating point."""
    whole = stack([task()], [0])
    ten = replace(whole, train=Data(whole.train.x[:, :10], whole.train.y[:, :10]))
    found = hold_out(ten, [0], 0.9)
    assert (found.problem.train.num_data, found.validation.num_data) == (1, 9)


@pytest.mark.parametrize("share", [0.001, 0.99])
def test_a_share_that_leaves_nothing_is_refused(share: float, refused: Any) -> None:
    if share < 0.01:
        found = hold_out(problem(), SEEDS, share)  # what is left is rounded down, so one row is held out
        assert found.validation.num_data == 1
        return
    with refused("validation", "0.99", "21"):
        hold_out(problem(), SEEDS, share)
