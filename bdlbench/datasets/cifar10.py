"""CIFAR-10 in its binary form, whole and in part.

The SHA-256 of batches 1, 2 and 5 were computed from local files. Those of batches 3 and 4 and of the test batch are the
ones that torchvision's Ruby sibling (ankane/torchvision-ruby) lists, which agree with ours for 1, 2 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from bdlbench.core.options import option
from bdlbench.data.downloads import ByteArray, Origin, RemoteFile, array_checksum, fetch, read_cifar, sources
from bdlbench.data.splits import chosen_of_official, class_labels, pixel_statistics, random_pixels, standardised_pixels
from bdlbench.data.task import Examples, RawInputs, Signature, Task

NUM_UNIFORM = 2000

_ORIGIN = Origin(
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
        origin=_ORIGIN,
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


@dataclass(frozen=True)
class Cifar10:
    """32×32 colour photographs of ten kinds of thing, CIFAR-10: 50,000 and 10,000; far OOD: noise.

    Split: the official test batch is always the test set. The number of the split only changes which training examples
    num_train picks: the beginning of that split's class-balanced order, so larger sets contain smaller ones.
    Preprocessing: (pixel/255 − mean)/sd for each channel, with the numbers taken from the training images used; no
    augmentation. Input (3, 32, 32).
    OOD: "uniform", 2,000 images of independent uniform pixels 0 … 255, always the same, under the same transform.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 50,000", low=0)
    files: ClassVar[tuple[RemoteFile, ...]] = _BATCHES

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file is absent and cannot be downloaded.
            BadInput: There are fewer training examples than num_train.
        """
        return _task("cifar10", self.files, self.num_train, split)


@dataclass(frozen=True)
class Cifar10Part:
    """Part of CIFAR-10: trained on batches 1 and 2, tested on batch 5; NEVER compared with full-data numbers.

    Split: 20,000 official training images for training and 10,000 other official TRAINING images for testing. The
    official test set is not touched, so no published CIFAR-10 number has this protocol. Everything else is as for
    `cifar10`.
    """

    num_train: int = option(0, "training examples, class-balanced as far as possible; 0 takes all 20,000", low=0)
    files: ClassVar[tuple[RemoteFile, ...]] = (_BATCHES[0], _BATCHES[1], _BATCHES[4])

    def load(self, split: int) -> Task:
        """Load one split.

        Raises:
            DataUnavailable: A file is absent and cannot be downloaded.
            BadInput: There are fewer training examples than num_train.
        """
        return _task("cifar10_part", self.files, self.num_train, split)


def _task(name: str, files: tuple[RemoteFile, ...], num_train: int, split: int) -> Task:
    """Return the task of training batches and of the test batch, which is the last of `files`."""
    *train, test = fetch(files, name)
    images, labels = _joined(train)
    picked = chosen_of_official(labels, num_train, name, split)
    mean, sd = pixel_statistics(images[picked])
    test_images, test_labels = read_cifar(test)
    uniform = random_pixels((NUM_UNIFORM, 3, 32, 32), "uniform")
    return Task(
        signature=Signature((3, 32, 32), 10, "categorical"),
        train=Examples(standardised_pixels(images[picked], mean, sd), class_labels(labels[picked])),
        test=Examples(standardised_pixels(test_images, mean, sd), class_labels(test_labels)),
        ood={"uniform": standardised_pixels(uniform, mean, sd)},
        sources={**sources(files), "uniform": array_checksum(uniform)},
        statistics={
            f"{what}[{c}]": float(v[c]) for what, v in (("pixel_mean", mean), ("pixel_sd", sd)) for c in range(3)
        },
        standardised=(0, 2, 3),
        raw=RawInputs("pixels", partial(standardised_pixels, mean=mean, sd=sd)),
    )


def _joined(paths: Sequence[Path]) -> tuple[ByteArray, ByteArray]:
    batches = [read_cifar(path) for path in paths]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


datasets = {"cifar10": Cifar10, "cifar10_part": Cifar10Part}
