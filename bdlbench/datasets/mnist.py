"""MNIST and two sets of the same format; each has the other two as out-of-distribution inputs.

The SHA-256 of the unpacked files were computed from downloads whose MD5 are torchvision's. That of KMNIST's training
images is not known to us: its downloaded .gz is checked against a SHA-256 (TensorFlow Datasets lists the same), and
`status` says that the unpacked file has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from bdlbench.core import memory
from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
from bdlbench.data.downloads import Origin, RemoteFile, array_checksum, fetch, read_idx, sources
from bdlbench.data.shifts import OPTION_HELP, shifted_images
from bdlbench.data.splits import (
    binary_pixels,
    centred_pixels,
    chosen_of_official,
    class_labels,
    pixel_statistics,
    standardised_pixels,
)
from bdlbench.data.task import Examples, RawInputs, Shift, Signature, Task

Preprocessing = Literal["standardised", "mean_image", "unit"]

_MNIST_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
_FASHION_MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
_KMNIST_MIRRORS = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",)

_PARTS = {  # file name: (words, bytes)
    "train-images-idx3-ubyte": ("training images", 16 + 60_000 * 784),
    "train-labels-idx1-ubyte": ("training labels", 8 + 60_000),
    "t10k-images-idx3-ubyte": ("test images", 16 + 10_000 * 784),
    "t10k-labels-idx1-ubyte": ("test labels", 8 + 10_000),
}


def _declared(
    folder: str, mirrors: tuple[str, ...], checksums: tuple[tuple[str | None, str, str | None], ...]
) -> tuple[RemoteFile, ...]:
    """Return the four files of a set in the order of _PARTS.

    Checksums: SHA-256 unpacked, MD5 and SHA-256 of the .gz.
    """
    return tuple(
        RemoteFile(
            path=f"{folder}/raw/{part}",
            role=f"{folder} {words}",
            size=size,
            sha256=unpacked,
            origin=Origin(tuple(f"{mirror}{part}.gz" for mirror in mirrors), md5, packed),
        )
        for (part, (words, size)), (unpacked, md5, packed) in zip(_PARTS.items(), checksums, strict=True)
    )


_MNIST = _declared(
    "MNIST",
    _MNIST_MIRRORS,
    (
        ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", "f68b3c2dcbeaaa9fbdd348bbdeb94873", None),
        ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", "d53e105ee54ea40749a09fcbcd1e9432", None),
        ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", "9fb629c4189551a2d022fa330f9573f3", None),
        ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", "ec29112dd5afa0611ce80d1b7f02629c", None),
    ),
)
_FASHION = _declared(
    "FashionMNIST",
    _FASHION_MIRRORS,
    (
        ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
        ("bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", "25c81989df183df01b3e8a0aad5dffbe", None),
        ("5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", "bef4ecab320f06d8554ea6380940ec79", None),
        ("0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", "bb300cfdad3c16e7a12a480ee83cd310", None),
    ),
)
_KMNIST = _declared(
    "KMNIST",
    _KMNIST_MIRRORS,
    (
        (
            None,
            "bdb82020997e1d708af4cf47b453dcf7",
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        ),
        ("2a16eeae62da984b8bd24fa32e31d47291f01dac3fe84d5594f304f71e7d374b", "e144d726b3acfaa3e44228e80efcd344", None),
        ("76fbd229ce87db80dd281af5e6670de4ad0e42fb30a7bd643972994c47c1f42e", "5c965bf0a639b31b8f53240b1b52f4d7", None),
        ("a11dc742be8e781a40a92f53d6a4957e7b7d36df2faa097659131ebfd8fd60c6", "7320c461ea6c1c855c0b718fb2a4b134", None),
    ),
)
_TEST_IMAGES = 2  # their place among the four


@dataclass(frozen=True)
class Mnist:
    """28×28 handwritten digits, MNIST: 60,000 and 10,000; far OOD: fashion and Japanese characters.

    Split: the official test set is always the test set. The number of the split only changes which training examples
    num_train picks: the beginning of that split's class-balanced order, so larger sets contain smaller ones.
    Preprocessing: (pixel/255 − mean)/sd, with the two numbers taken from the training images used. Input (1, 28, 28).
    With pixels=mean_image it is pixel/256 minus the mean of these images, as Molchanov et al. 2017 have it; with
    pixels=unit it is pixel/255.
    OOD: "fashion_mnist" and "kmnist", all 10,000 test images of each, under the same transform.
    shifts: the test images, shifted as `data.shifts` says and then transformed, "rotation 1" to "contrast 5"; the same
    for every split, since all splits share the test set.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 60,000", low=0)
    pixels: Preprocessing = option(
        "standardised", "what images are shifted and scaled by", choices=get_args(Preprocessing), later=True
    )
    shifts: str = option("none", OPTION_HELP, later=True)
    files: ClassVar[tuple[RemoteFile, ...]] = (*_MNIST, _FASHION[_TEST_IMAGES], _KMNIST[_TEST_IMAGES])

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file, also one of an OOD set, is absent and cannot be downloaded.
            BadInput: There are fewer examples than asked for, or shifts are unknown.
        """
        task = _pixels("mnist", self.files, ("fashion_mnist", "kmnist"), self.num_train, split)
        return _task(task, self.pixels, self.shifts)


@dataclass(frozen=True)
class FashionMnist:
    """28×28 articles of clothing, FashionMNIST: 60,000 and 10,000; far OOD: digits and Japanese characters.

    Split, preprocessing and its option, num_train and shifts as for `mnist`.
    OOD: "mnist" and "kmnist", all 10,000 test images of each, under the same transform.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 60,000", low=0)
    pixels: Preprocessing = option(
        "standardised", "what images are shifted and scaled by", choices=get_args(Preprocessing), later=True
    )
    shifts: str = option("none", OPTION_HELP, later=True)
    files: ClassVar[tuple[RemoteFile, ...]] = (*_FASHION, _MNIST[_TEST_IMAGES], _KMNIST[_TEST_IMAGES])

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file, also one of an OOD set, is absent and cannot be downloaded.
            BadInput: There are fewer examples than asked for, or shifts are unknown.
        """
        task = _pixels("fashion_mnist", self.files, ("mnist", "kmnist"), self.num_train, split)
        return _task(task, self.pixels, self.shifts)


@dataclass(frozen=True)
class Kmnist:
    """28×28 cursive Japanese characters, KMNIST: 60,000 and 10,000; far OOD: digits and fashion.

    Split, preprocessing and its option, num_train and shifts as for `mnist`.
    OOD: "mnist" and "fashion_mnist", all 10,000 test images of each, under the same transform.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 60,000", low=0)
    pixels: Preprocessing = option(
        "standardised", "what images are shifted and scaled by", choices=get_args(Preprocessing), later=True
    )
    shifts: str = option("none", OPTION_HELP, later=True)
    files: ClassVar[tuple[RemoteFile, ...]] = (*_KMNIST, _MNIST[_TEST_IMAGES], _FASHION[_TEST_IMAGES])

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file, also one of an OOD set, is absent and cannot be downloaded.
            BadInput: There are fewer examples than asked for, or shifts are unknown.
        """
        task = _pixels("kmnist", self.files, ("mnist", "fashion_mnist"), self.num_train, split)
        return _task(task, self.pixels, self.shifts)


@dataclass(frozen=True)
class BinaryMnist:
    """MNIST as binary images, for models of their density; far OOD: binary fashion and Japanese characters.

    Training pixels are pixel/255, of which a model draws a binary image each time it sees them (dynamic binarisation,
    Burda et al. 2016). Test and OOD images are one such draw, the same for every run. Split and num_train as for
    `mnist`; labels are kept. num_ood: images of each OOD set, from its beginning.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 60,000", low=0)
    num_ood: int = option(10_000, "images of each out-of-distribution set; 0 leaves them out", low=0, high=10_000)
    files: ClassVar[tuple[RemoteFile, ...]] = Mnist.files

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file, also one of an OOD set, is absent and cannot be downloaded.
            BadInput: There are fewer examples than asked for.
        """
        return _binary(_pixels("mnist", self.files, ("fashion_mnist", "kmnist"), self.num_train, split), self.num_ood)


@dataclass(frozen=True)
class BinaryFashionMnist:
    """FashionMNIST as binary images, for models of their density; far OOD: binary digits and Japanese characters.

    Everything else is as for `binary_mnist`.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 60,000", low=0)
    num_ood: int = option(10_000, "images of each out-of-distribution set; 0 leaves them out", low=0, high=10_000)
    files: ClassVar[tuple[RemoteFile, ...]] = FashionMnist.files

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file, also one of an OOD set, is absent and cannot be downloaded.
            BadInput: There are fewer examples than asked for.
        """
        return _binary(_pixels("fashion_mnist", self.files, ("mnist", "kmnist"), self.num_train, split), self.num_ood)


@dataclass(frozen=True)
class GreyMnist:
    """MNIST as grey images of 256 levels, for models of their density; far OOD: fashion and Japanese characters.

    Pixels are level/255 and stay as they are; a likelihood must put its mass on the 256 levels. Everything else is as
    for `binary_mnist`.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 60,000", low=0)
    num_ood: int = option(10_000, "images of each out-of-distribution set; 0 leaves them out", low=0, high=10_000)
    files: ClassVar[tuple[RemoteFile, ...]] = Mnist.files

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file, also one of an OOD set, is absent and cannot be downloaded.
            BadInput: There are fewer examples than asked for.
        """
        return _grey(_pixels("mnist", self.files, ("fashion_mnist", "kmnist"), self.num_train, split), self.num_ood)


@dataclass(frozen=True)
class GreyFashionMnist:
    """FashionMNIST as grey images of 256 levels, for models of their density; far OOD: digits, Japanese characters.

    Everything else is as for `grey_mnist`.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 60,000", low=0)
    num_ood: int = option(10_000, "images of each out-of-distribution set; 0 leaves them out", low=0, high=10_000)
    files: ClassVar[tuple[RemoteFile, ...]] = FashionMnist.files

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file, also one of an OOD set, is absent and cannot be downloaded.
            BadInput: There are fewer examples than asked for.
        """
        return _grey(_pixels("fashion_mnist", self.files, ("mnist", "kmnist"), self.num_train, split), self.num_ood)


@dataclass(frozen=True)
class SemiMnist:
    """MNIST of which few training images keep their label, for semi-supervised models; the others have label −1.

    Split: it decides which images keep their label, namely those that `num_train=<num_labelled>` picks of `mnist`, so
    classes are balanced and larger sets contain smaller ones. The next num_unlabelled images of the same class-balanced
    order come without a label. The test set is always the official one. Preprocessing: pixel/255, averaged over squares
    of pool × pool pixels, so that the input is (1, 28/pool, 28/pool). No out-of-distribution set. copies: how often
    each labelled image occurs in the training set, which is the weight of its term in the objective and its share of
    every epoch.
    """

    num_labelled: int = option(100, "training images with a label, class-balanced as far as possible", low=1)
    num_unlabelled: int = option(10_000, "training images without a label", low=1)
    copies: int = option(10, "how often each labelled image occurs in the training set", low=1)
    pool: int = option(1, "side of the squares of pixels that are averaged: 1, 2 or 4", low=1, high=4)
    files: ClassVar[tuple[RemoteFile, ...]] = _MNIST

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file is absent and cannot be downloaded.
            BadInput: There are fewer images than asked for.
        """
        task = _ordered_mnist(self.files, self.num_labelled + self.num_unlabelled, self.pool, split)
        x, y = task.train.x, task.train.y
        memory.refuse(4 * self.num_labelled * self.copies * x[0].numel(), f"semi_mnist: {self.copies:,} copies")
        first = torch.arange(self.num_labelled).repeat(self.copies)
        order = torch.cat([first, torch.arange(self.num_labelled, len(y))])
        unknown = torch.full((self.num_unlabelled,), -1)
        return replace(
            task,
            signature=replace(task.signature, likelihood="semi_categorical"),
            train=Examples(x[order], torch.cat([y[first], unknown])),
        )


@dataclass(frozen=True)
class LabelledMnist:
    """The labelled images of `semi_mnist` alone: the same draws, pixels and test set, each image once.

    Split and preprocessing are those of `semi_mnist`.
    """

    num_labelled: int = option(100, "training images, class-balanced as far as possible", low=1)
    pool: int = option(1, "side of the squares of pixels that are averaged: 1, 2 or 4", low=1, high=4)
    files: ClassVar[tuple[RemoteFile, ...]] = _MNIST

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file is absent and cannot be downloaded.
            BadInput: There are fewer images than asked for.
        """
        return _ordered_mnist(self.files, self.num_labelled, self.pool, split)


def _task(task: Task, pixels: Preprocessing, shifts: str) -> Task:
    """Return a task of images as bytes by `pixels`: standardised, less the mean of its training images, or in 0 … 1.

    Shifts of its test images are added.
    """
    shifted = shifted_images(task.test.x.numpy(), shifts, "shifts of an official test set")
    sources_of_shifts = {"shifts of the test images": array_checksum(*shifted.values())} if shifted else {}
    images = task.train.x.numpy()  # (N, 1, 28, 28)
    if pixels == "mean_image":
        mean_image = images.mean(axis=0, dtype=np.float64)  # (1, 28, 28); sums of bytes are exact
        transform = partial(centred_pixels, mean_image=mean_image)
        statistics = {"pixel_mean": float(mean_image.mean()) / 256}
    elif pixels == "unit":
        transform, statistics = partial(standardised_pixels, mean=np.zeros(1), sd=np.ones(1)), {}
    else:
        mean, sd = pixel_statistics(images)
        transform = partial(standardised_pixels, mean=mean, sd=sd)
        statistics = {"pixel_mean": float(mean[0]), "pixel_sd": float(sd[0])}
    return replace(
        task,
        train=Examples(transform(task.train.x.numpy()), task.train.y),
        test=Examples(transform(task.test.x.numpy()), task.test.y),
        ood={name: transform(x.numpy()) for name, x in task.ood.items()},
        shifts={name: Shift(transform(x)) for name, x in shifted.items()},
        sources={**task.sources, **sources_of_shifts},
        statistics=statistics,
        standardised=(0, 2, 3) if pixels == "standardised" else (),
        raw=RawInputs("pixels", transform),
    )


def _pixels(name: str, files: tuple[RemoteFile, ...], ood_names: tuple[str, ...], num_train: int, split: int) -> Task:
    """Return the same task with images as bytes."""
    train_x, train_y, test_x, test_y, *ood = fetch(files, name)
    labels = read_idx(train_y)
    picked = chosen_of_official(labels, num_train, name, split)
    return Task(
        signature=Signature((1, 28, 28), 10, "categorical"),
        train=Examples(_images(train_x)[picked], class_labels(labels[picked])),
        test=Examples(_images(test_x), class_labels(read_idx(test_y))),
        ood={ood_name: _images(path) for ood_name, path in zip(ood_names, ood, strict=True)},
        sources=sources(files),
    )


def _ordered_mnist(files: tuple[RemoteFile, ...], num_train: int, pool: int, split: int) -> Task:
    """Return the first images of the split's class-balanced order with their labels, pixels 0 … 1, no OOD set.

    Raises:
        BadInput: The squares do not fill an image.
    """
    if 28 % pool:
        raise BadInput(f"pool={pool} does not divide 28 pixels: take 1, 2 or 4")
    task = _pixels("mnist", files, (), num_train, split)
    train, test = (Examples(avg_pool2d(part.x / 255, pool), part.y) for part in (task.train, task.test))
    return replace(
        task, signature=replace(task.signature, input_shape=(1, 28 // pool, 28 // pool)), train=train, test=test
    )


def _grey(task: Task, num_ood: int) -> Task:
    """Return the task with pixels as level/255, from 0 to 1."""
    return replace(
        task,
        signature=replace(task.signature, likelihood="discretised"),
        train=Examples(task.train.x / 255, task.train.y),
        test=Examples(task.test.x / 255, task.test.y),
        ood={name: x[:num_ood] / 255 for name, x in task.ood.items() if num_ood},
    )


def _binary(task: Task, num_ood: int) -> Task:
    """Return the task with pixels to be drawn from; test and OOD images are drawn once for all."""
    task = _grey(task, num_ood)
    return replace(
        task,
        signature=replace(task.signature, likelihood="bernoulli"),
        test=Examples(binary_pixels(task.test.x, "test"), task.test.y),
        ood={name: binary_pixels(x, "ood", name) for name, x in task.ood.items()},
    )


def _images(path: Path) -> Tensor:
    """Read images as bytes, (N, 1, 28, 28)."""
    return torch.from_numpy(read_idx(path, (28, 28))[:, None].copy())


datasets = {
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "kmnist": Kmnist,
    "binary_mnist": BinaryMnist,
    "binary_fashion_mnist": BinaryFashionMnist,
    "grey_mnist": GreyMnist,
    "grey_fashion_mnist": GreyFashionMnist,
    "semi_mnist": SemiMnist,
    "labelled_mnist": LabelledMnist,
}
