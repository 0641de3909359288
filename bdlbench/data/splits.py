"""Splits that are the same on every machine, and preprocessing fitted to their training part."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bdlbench.core.errors import BadInput

Index = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Reals = NDArray[np.float64]

TEST_FRACTION = 0.25
"""The share of a small bundled set that is held out for testing."""

FLOAT64_ROUNDING = 8 * np.finfo(np.float64).eps
"""The relative range up to which a column counts as constant."""


def random_words(count: int, *key: str | int) -> NDArray[np.uint64]:
    """Return (count,) random 64-bit words fixed by `key`.

    NumPy promises never to change the raw words of a bit generator. Its `permutation` and `random` may change with a
    version, so splits are made from the words themselves.
    """
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest(), "big")
    return np.random.PCG64(seed).random_raw(count)


def random_uniform(count: int, *key: str | int) -> Reals:
    """Return (count,) numbers strictly between 0 and 1, fixed by `key`."""
    words = random_words(count, *key) >> np.uint64(11)
    return (words.astype(np.float64) + 0.5) / 2**53


def random_pixels(shape: tuple[int, ...], *key: str | int) -> Bytes:
    """Return independent uniform bytes of `shape`, fixed by `key`."""
    size = math.prod(shape)
    return random_words(-(-size // 8), *key).astype("<u8").view(np.uint8)[:size].reshape(shape)


def permutation(count: int, *key: str | int) -> Index:
    """Return the numbers 0 … count − 1 in an order fixed by `key`, (count,)."""
    return np.argsort(random_words(count, *key), kind="stable")


def stratified_split(
    labels: NDArray[np.integer], name: str, split: int, test_share: float = TEST_FRACTION
) -> tuple[Index, Index]:
    """Split examples into training and test sets, a quarter (rounded up) for testing, with every class in proportion.

    Example j of n in its class, in random order, is placed at (j + ½)/n; the first quarter by place is the test set, so
    the share of each class is exact to one example. The training part comes in an order with balanced classes, so
    `chosen` can take its beginning.

    Args:
        labels: Classes (N,) from 0.
        name: The data set's name; other names give other splits.
        split: The number of the split, from 0.
        test_share: Another share than a quarter.

    Returns:
        Indices (train, test).

    Raises:
        BadInput: The split is negative.
    """
    checked(split)
    rank = _rank_in_class(labels, name, split, "split")
    place = (rank + 0.5) / np.bincount(labels)[labels]
    order = np.lexsort((permutation(len(labels), name, split, "ties"), place))
    test_size = math.ceil(test_share * len(labels))
    train, test = order[test_size:], order[:test_size]
    return train[balanced_order(labels[train], name, split)], test


def random_split(count: int, name: str, split: int, test_share: float = TEST_FRACTION) -> tuple[Index, Index]:
    """Split 0 … count − 1 at random into training and test sets, a quarter (rounded up) for testing.

    Args:
        count: N, the number of examples.
        name: The data set's name; other names give other splits.
        split: The number of the split, from 0.
        test_share: Another share than a quarter.

    Returns:
        Indices (train, test).

    Raises:
        BadInput: The split is negative.
    """
    order = permutation(count, name, checked(split), "split")
    test_size = math.ceil(test_share * count)
    return order[test_size:], order[:test_size]


def balanced_order(labels: NDArray[np.integer], name: str, split: int) -> Index:
    """Return an order of the examples (N,) in which every beginning has equal classes, while the smallest class lasts.

    Raises:
        BadInput: The split is negative.
    """
    checked(split)
    rank = _rank_in_class(labels, name, split, "order")
    return np.lexsort((permutation(len(labels), name, split, "rounds"), rank))


def chosen(order: Index, num_train: int, name: str) -> Index:
    """Return the first `num_train` of `order`, or all for 0.

    Raises:
        BadInput: There are fewer.
    """
    if num_train > len(order):
        raise BadInput(f"num_train={num_train} is more than the {len(order)} training examples of {name}")
    return order[: num_train or None]


def chosen_of_official(labels: NDArray[np.integer], num_train: int, name: str, split: int) -> Index:
    """Choose examples of an official training set: the beginning of the split's balanced order, or all for 0.

    Args:
        labels: Classes (N,).
        num_train: How many examples; 0 takes all of them in their own order.
        name: The data set's name.
        split: The number of the split, from 0.

    Returns:
        Indices of the chosen examples.

    Raises:
        BadInput: The split is negative, or there are fewer than `num_train` examples.
    """
    checked(split)
    order = balanced_order(labels, name, split) if num_train else np.arange(len(labels))
    return chosen(order, num_train, name)


def pixel_statistics(images: Bytes) -> tuple[Reals, Reals]:
    """Return mean and standard deviation (C,) of each channel of images (N, C, H, W), with pixels from 0 to 1.

    Sums of bytes and of their squares are whole numbers under 2⁵³, so the result does not depend on the order of
    summation.

    Raises:
        BadInput: A channel is constant.
    """
    total = np.zeros((2, images.shape[1]))
    for start in range(0, len(images), 1000):
        pixels = images[start : start + 1000].swapaxes(0, 1).reshape(images.shape[1], -1).astype(np.float64)  # (C, n)
        total += pixels.sum(axis=1), np.einsum("cn,cn->c", pixels, pixels)
    mean, square = total / (images.size // images.shape[1])
    sd = np.sqrt(square - mean**2)
    if not (sd > 0).all():
        raise BadInput("the training images do not vary, so they cannot be standardised: take more of them")
    return mean / 255, sd / 255


def standardised_pixels(images: Bytes, mean: Reals, sd: Reals) -> Tensor:
    """Return (pixel/255 − mean)/sd of images (N, C, H, W), float32 and contiguous, with mean and sd (C,)."""
    shift, scale = (torch.tensor(255 * s, dtype=torch.float32).reshape(-1, 1, 1) for s in (mean, sd))
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32).sub_(shift).div_(scale)


def centred_pixels(images: Bytes, mean_image: Reals) -> Tensor:
    """Return (pixel − mean of that pixel)/256 of images (N, C, H, W), float32, with mean_image (C, H, W) of bytes."""
    shift = torch.from_numpy(mean_image).to(torch.float32)
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32).sub_(shift).div_(256)


def binary_pixels(grey: Tensor, *key: str | int) -> Tensor:
    """Draw Bernoulli(grey) for each pixel, float32, fixed by `key`: grey (N, …) from 0 to 1, met to 1/256."""
    return (torch.from_numpy(random_pixels(tuple(grey.shape), *key)) < grey * 256).to(torch.float32)


def column_statistics(train: Reals) -> tuple[Reals, Reals]:
    """Return mean and standard deviation of each column of a table, with 1 as the deviation of a constant column.

    A column counts as constant if its values differ by no more than rounding, since its computed deviation is seldom
    exactly 0.

    Args:
        train: The training inputs (N, D).

    Returns:
        (mean, standard deviation), (D,) each.

    Raises:
        BadInput: The table has no rows, or a number in it is not finite (the column is named, counted from 0).
    """
    if not len(train):
        raise BadInput("the training table has no rows, so there is nothing to standardise by")
    broken = np.flatnonzero(~np.isfinite(train).all(axis=0))
    if len(broken):
        row = int(np.flatnonzero(~np.isfinite(train[:, broken[0]]))[0])
        raise BadInput(f"column {broken[0]} of the training table is {train[row, broken[0]]} in row {row}, from 0")
    spread = train.max(axis=0) - train.min(axis=0)
    varies = spread > FLOAT64_ROUNDING * np.abs(train).max(axis=0)
    return train.mean(axis=0), np.where(varies, train.std(axis=0), 1.0)


def class_labels(labels: NDArray[np.integer]) -> Tensor:
    """Copy labels into an int64 tensor (N,)."""
    return torch.from_numpy(labels.astype(np.int64))


def _rank_in_class(labels: NDArray[np.integer], *key: str | int) -> Index:
    """Return the place of each example in a random order of its own class, 0, 1, …: (N,)."""
    order = permutation(len(labels), *key)
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def checked(split: int) -> int:
    """Return `split` itself.

    Raises:
        BadInput: It is negative.
    """
    if split < 0:
        raise BadInput(f"split {split} does not exist: splits are numbered from 0")
    return split
