"""The scans of handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bdlbench.core import memory
from bdlbench.core.options import option
from bdlbench.data.downloads import RemoteFile, array_checksum
from bdlbench.data.shifts import OPTION_HELP, shifted_images
from bdlbench.data.splits import binary_pixels, chosen, class_labels, permutation, stratified_split
from bdlbench.data.task import Examples, RawInputs, Shift, Signature, Task

NUM_PHOTOS = 1000
NEAR_FROM = 8  # digits_near holds back this class and those above it


@dataclass(frozen=True)
class Digits:
    """8×8 scans of the digits 0–9, scikit-learn's 1,797; far OOD: patches of photographs.

    Split: stratified, 1,347 for training and 450 for testing, fixed by the split's number. Preprocessing: grey/16, so
    that a pixel is 0 … 1; nothing is standardised. Input (1, 8, 8). num_train: that many from the beginning of the
    split's own class-balanced order, so larger sets contain smaller ones. OOD: "photos", 1,000 of the 8,480
    non-overlapping 8×8 patches of scikit-learn's two photographs (china.jpg, flower.jpg), grey as the mean of the three
    channels over 255; the same patches for every split. The photographs are JPEG files, so another decoder may differ
    in the last bit: the checksum in the sources would show it. shifts: the test images as bytes, shifted as
    `data.shifts` says, "rotation 1" to "contrast 5"; a split's noise is its own.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 1,347", low=0)
    shifts: str = option("none", OPTION_HELP, later=True)
    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: There are fewer training examples than num_train, the split is negative, or shifts are unknown.
        """
        images, labels = _scans()
        train, test = stratified_split(labels, "digits", split)
        train = chosen(train, self.num_train, "digits")
        task = _task(images, labels, train, test, {"photos": _photos()}, classes=10)
        return _with_shifts(task, images[test], self.shifts, split)


@dataclass(frozen=True)
class DigitsNear:
    """8×8 scans of the digits 0–7; near OOD: the digits 8 and 9, far OOD: patches of photographs.

    Split: that of `digits`, without the digits 8 and 9 in both parts. Preprocessing and num_train as for `digits`. 8
    classes. OOD: "near", all 354 eights and nines of the whole set, the same for every split: none is ever trained on,
    so both parts of the split serve; "photos" as for `digits`. shifts as for `digits`.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all", low=0)
    shifts: str = option("none", OPTION_HELP, later=True)
    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: There are fewer training examples than num_train, the split is negative, or shifts are unknown.
        """
        images, labels = _scans()
        train, test = (part[labels[part] < NEAR_FROM] for part in stratified_split(labels, "digits", split))
        train = chosen(train, self.num_train, "digits_near")
        ood = {"near": _inputs(images[labels >= NEAR_FROM]), "photos": _photos()}
        task = _task(images, labels, train, test, ood, classes=NEAR_FROM)
        return _with_shifts(task, images[test], self.shifts, split)


@dataclass(frozen=True)
class BinaryDigits:
    """8×8 scans of the digits 0–9 as binary images, for models of their density; far OOD: patches of photographs.

    Split and OOD set as for `digits`. Training pixels are grey/16, of which a model draws a binary image each time it
    sees them (dynamic binarisation). Test and OOD images are one such draw, the same for every run. Labels are kept.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 1,347", low=0)
    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: There are fewer training examples than num_train, or the split is negative.
        """
        task = Digits(self.num_train).load(split)
        return replace(
            task,
            signature=replace(task.signature, likelihood="bernoulli"),
            raw=None,  # test images are drawn once for all, and a set that is added would not be
            test=Examples(binary_pixels(task.test.x, "binary_digits", "test", split), task.test.y),
            ood={name: binary_pixels(x, "binary_digits", name) for name, x in task.ood.items()},
        )


@dataclass(frozen=True)
class SemiDigits:
    """8×8 scans of the digits 0–9 of which few keep their label, for semi-supervised models; others have −1.

    Split and pixels as for `digits`; no OOD set. The images that keep their label are those that
    `num_train=<num_labelled>` picks of `digits`, so classes are balanced and larger sets contain smaller ones. All
    other training images come without a label. copies: how often each labelled image occurs in the training set, which
    is the weight of its term in the objective and its share of every epoch.
    """

    num_labelled: int = option(50, "training images with a label, class-balanced as far as possible", low=1, high=1346)
    copies: int = option(4, "how often each labelled image occurs in the training set", low=1)
    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The split is negative.
        """
        task = Digits().load(split)
        x, y = task.train.x, task.train.y
        memory.refuse(4 * self.num_labelled * self.copies * x[0].numel(), f"semi_digits: {self.copies:,} copies")
        first = torch.arange(self.num_labelled).repeat(self.copies)
        order = torch.cat([first, torch.arange(self.num_labelled, len(y))])
        unknown = torch.full((len(y) - self.num_labelled,), -1)
        return replace(
            task,
            signature=replace(task.signature, likelihood="semi_categorical"),
            train=Examples(x[order], torch.cat([y[first], unknown])),
            ood={},
        )


@dataclass(frozen=True)
class BinaryPhotos:
    """8×8 patches of two photographs as binary images, for models of their density; far OOD: scans of digits.

    The 8,480 non-overlapping grey patches of scikit-learn's two photographs, of which `digits` takes its OOD set.
    Split: stratified by photograph, 6,360 for training and 2,120 for testing; the label is the photograph (0 china.jpg,
    1 flower.jpg). Training pixels are grey, of which a model draws a binary image each time it sees them (dynamic
    binarisation). Test and OOD images are one such draw, the same for every run. num_train: that many from the
    beginning of the split's own class-balanced order. OOD: "digits", all 1,797 scans, the same for every split.
    """

    num_train: int = option(0, "training patches, class-balanced as far as possible; 0 takes all 6,360", low=0)
    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: There are fewer training patches than num_train, or the split is negative.
        """
        patches, scans = _patches(), _inputs(_scans()[0])
        labels = np.repeat(np.arange(2), len(patches) // 2)
        train, test = stratified_split(labels, "binary_photos", split)
        train = chosen(train, self.num_train, "binary_photos")
        x = _inputs(patches)
        return Task(
            signature=Signature((1, 8, 8), 2, "bernoulli"),
            train=Examples(x[train], class_labels(labels[train])),
            test=Examples(binary_pixels(x[test], "binary_photos", "test", split), class_labels(labels[test])),
            ood={"digits": binary_pixels(scans, "binary_photos", "digits")},
            sources={
                "scikit-learn photos, all patches": array_checksum(x.numpy()),
                "scikit-learn digits": array_checksum(scans.numpy()),
            },
        )


def _scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return scans (1797, 8, 8), grey/16, and their digits (1797,)."""
    from sklearn.datasets import load_digits  # slow to import, and not needed to list this entry

    bunch = load_digits()
    return bunch.images / 16, bunch.target


def _photos() -> Tensor:
    """Return some grey patches of photographs from 0 to 1, (1000, 1, 8, 8)."""
    patches = _patches()
    return _inputs(patches[permutation(len(patches), "photos")[:NUM_PHOTOS]])


def _patches() -> NDArray[np.float64]:
    """Return all grey patches of both photographs, one photograph after the other, from 0 to 1: (8480, 8, 8)."""
    from sklearn.datasets import load_sample_images

    photos = np.stack(load_sample_images().images)  # (2, H, W, 3) bytes
    count, height, width = photos.shape[0], photos.shape[1] // 8, photos.shape[2] // 8
    grey: NDArray[np.float64] = photos[:, : 8 * height, : 8 * width].sum(axis=-1) / (3 * 255)
    return grey.reshape(count, height, 8, width, 8).swapaxes(2, 3).reshape(-1, 8, 8)


def _inputs(images: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32)).unsqueeze(1)


def _task(
    images: NDArray[np.float64],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    ood: dict[str, Tensor],
    classes: int,
) -> Task:
    return Task(
        signature=Signature((1, 8, 8), classes, "categorical"),
        train=Examples(_inputs(images[train]), class_labels(labels[train])),
        test=Examples(_inputs(images[test]), class_labels(labels[test])),
        ood=ood,
        sources={
            "scikit-learn digits": array_checksum(images, labels),
            "scikit-learn photos": array_checksum(ood["photos"].numpy()),
        },
        raw=RawInputs("pixels", lambda pixels: torch.from_numpy(pixels).float() / 255),
    )


def _with_shifts(task: Task, images: NDArray[np.float64], shifts: str, split: int) -> Task:
    """Add shifts of the test images (N, 8, 8)."""
    found = shifted_images((images * 255).round().astype(np.uint8)[:, None], shifts, "digits", split)
    sources = {"shifts of the test images": array_checksum(*found.values())} if found else {}
    return replace(
        task,
        shifts={name: Shift(torch.from_numpy(x).float() / 255) for name, x in found.items()},
        sources={**task.sources, **sources},
    )


datasets = {
    "digits": Digits,
    "digits_near": DigitsNear,
    "binary_digits": BinaryDigits,
    "binary_photos": BinaryPhotos,
    "semi_digits": SemiDigits,
}
