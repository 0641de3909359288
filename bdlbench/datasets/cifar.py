"""CIFAR-10, whole and in part, and CIFAR-100, in their binary form.

The SHA-256 of batches 1, 2 and 5 were computed from local files. All others, also those of CIFAR-100, are the ones that
torchvision's Ruby sibling (ankane/torchvision-ruby) lists, which agree with ours for 1, 2 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
from bdlbench.data.downloads import Origin, RemoteFile, array_checksum, fetch, read_cifar, sources
from bdlbench.data.shifts import OPTION_HELP, shifted_images
from bdlbench.data.splits import (
    chosen_of_official,
    class_labels,
    pixel_statistics,
    random_pixels,
    standardised_pixels,
)
from bdlbench.data.task import Examples, RawInputs, Shift, Signature, Task

NUM_UNIFORM = 2000

_ORIGIN_10 = Origin(
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
_BATCHES = tuple(
    RemoteFile(
        path=f"cifar-10-batches-bin/{name}.bin",
        role=f"CIFAR-10 {words}",
        size=30_730_000,
        sha256=checksum,
        origin=_ORIGIN_10,
    )
    for name, words, checksum in (
        ("data_batch_1", "training batch 1", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
        ("data_batch_2", "training batch 2", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
        ("data_batch_3", "training batch 3", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
        ("data_batch_4", "training batch 4", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
        ("data_batch_5", "training batch 5", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
        ("test_batch", "test batch", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
    )
)
_ORIGIN_100 = Origin(
    urls=("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    md5="03b5dce01913d631647c71ecec9e9cb8",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)
_PARTS_100 = tuple(
    RemoteFile(
        path=f"cifar-100-binary/{name}.bin",
        role=f"CIFAR-100 {name} images",
        size=size,
        sha256=checksum,
        origin=_ORIGIN_100,
    )
    for name, size, checksum in (
        ("train", 153_700_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
        ("test", 30_740_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
    )
)


@dataclass(frozen=True)
class Cifar10:
    """32×32 colour photographs of ten kinds of thing, CIFAR-10: 50,000 and 10,000; far OOD: noise.

    Split: the official test batch is always the test set. The number of the split only changes which training examples
    num_train picks: the beginning of that split's class-balanced order, so larger sets contain smaller ones.
    Preprocessing: (pixel/255 − mean)/sd for each channel, with the numbers taken from the training images used; no
    augmentation. Input (3, 32, 32).
    OOD: "uniform", 2,000 images of independent uniform pixels 0 … 255, always the same, under the same transform.
    shifts: shifted test sets, each test image in every asked way at five severities, always the same and under the same
    transform; all 25 take 3 GB.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 50,000", low=0)
    shifts: str = option("none", OPTION_HELP, later=True)
    files: ClassVar[tuple[RemoteFile, ...]] = _BATCHES

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file is absent and cannot be downloaded.
            BadInput: There are fewer training examples than num_train, or shifts are unknown.
        """
        return _task("cifar10", 10, self.files, self.num_train, 0, self.shifts, split)


@dataclass(frozen=True)
class Cifar10Part:
    """Part of CIFAR-10: trained on batches 1 and 2, tested on batch 5; NEVER compared with full-data numbers.

    Split: 20,000 official training images for training and 10,000 other official TRAINING images for testing, or the
    first num_test of these. The official test set is not touched, so no published CIFAR-10 number has this protocol.
    Everything else is as for `cifar10`.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 20,000", low=0)
    num_test: int = option(0, "test images, the first of batch 5; 0 takes all 10,000", low=0, later=True)
    shifts: str = option("none", OPTION_HELP, later=True)
    files: ClassVar[tuple[RemoteFile, ...]] = (_BATCHES[0], _BATCHES[1], _BATCHES[4])

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file is absent and cannot be downloaded.
            BadInput: There are fewer examples than num_train or num_test, or shifts are unknown.
        """
        return _task("cifar10_part", 10, self.files, self.num_train, self.num_test, self.shifts, split)


@dataclass(frozen=True)
class Cifar100:
    """32×32 colour photographs of a hundred kinds of thing, CIFAR-100: 50,000 and 10,000; far OOD: noise.

    Labels are the hundred fine ones. Everything else is as for `cifar10`.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 50,000", low=0)
    shifts: str = option("none", OPTION_HELP)
    files: ClassVar[tuple[RemoteFile, ...]] = _PARTS_100

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file is absent and cannot be downloaded.
            BadInput: There are fewer training examples than num_train, or shifts are unknown.
        """
        return _task("cifar100", 100, self.files, self.num_train, 0, self.shifts, split)


def _task(
    name: str, classes: int, files: tuple[RemoteFile, ...], num_train: int, num_test: int, shifts: str, split: int
) -> Task:
    """Return the task of training files and of the test file, which is the last of `files`.

    num_train and num_test of 0 take all.
    """
    *train, test = (read_cifar(path, classes) for path in fetch(files, name))
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    picked = chosen_of_official(labels, num_train, name, split)
    mean, sd = pixel_statistics(images[picked])
    transform = partial(standardised_pixels, mean=mean, sd=sd)
    test_images, test_labels = (part[: num_test or None] for part in test)
    if len(test_labels) < num_test:
        raise BadInput(f"num_test={num_test} is more than the {len(test_labels):,} test images of {name}")
    uniform = random_pixels((NUM_UNIFORM, 3, 32, 32), "uniform")
    shifted = shifted_images(test_images, shifts, "shifts of an official test set")
    sources_of_shifts = {"shifts of the test images": array_checksum(*shifted.values())} if shifted else {}
    return Task(
        signature=Signature((3, 32, 32), classes, "categorical"),
        train=Examples(transform(images[picked]), class_labels(labels[picked])),
        test=Examples(transform(test_images), class_labels(test_labels)),
        ood={"uniform": transform(uniform)},
        shifts={kind: Shift(transform(x)) for kind, x in shifted.items()},
        sources={**sources(files), "uniform": array_checksum(uniform), **sources_of_shifts},
        statistics={
            f"{what}[{c}]": float(v[c]) for what, v in (("pixel_mean", mean), ("pixel_sd", sd)) for c in range(3)
        },
        standardised=(0, 2, 3),
        raw=RawInputs("pixels", transform),
    )


datasets = {"cifar10": Cifar10, "cifar10_part": Cifar10Part, "cifar100": Cifar100}
