"""Arrays and images of one's own: npz files without pickles, folders of images, and the tasks that they make."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from bdlbench.core import memory
from bdlbench.core.errors import BadInput, one_line
from bdlbench.core.foreign import shown
from bdlbench.core.options import short
from bdlbench.data.downloads import import_torchvision
from bdlbench.data.given import images_of
from bdlbench.data.splits import (
    Bytes,
    Index,
    Reals,
    class_labels,
    column_statistics,
    pixel_statistics,
    standardised_pixels,
)
from bdlbench.data.task import Examples, RawInputs, Signature, Task

Colour = Literal["rgb", "grey"]
CHANNELS: dict[Colour, int] = {"rgb": 3, "grey": 1}

MOST_PIXELS = 1 << 26
"""A single image of more pixels is refused before it is decoded: 64 megapixels, more than cameras make."""

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for: formats that only hold pixels."""

DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of more than 8 bits, which it would cut to 8 without a word."""


# npz


def read_npz(path: Path, number_bytes: int = 0) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file. Nothing is unpickled, and nothing is unpacked that memory does not hold.

    Args:
        path: The file.
        number_bytes: How many bytes of memory each number takes at least in what follows; 0 for those of its type.

    Returns:
        Arrays of numbers, truth values or texts by name.

    Raises:
        BadInput: It is not a whole npz file, an array holds Python objects, or memory does not hold all of them.
    """
    name = shown(path)
    try:
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise BadInput(f"{name} is one array without a name, an npy: save it by np.savez")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            titles = [member.filename.removesuffix(".npy") for member in members]
            needed = 0
            for title, member in zip(titles, members, strict=True):
                if titles.count(title) > 1:
                    raise BadInput(f"{name} has two arrays {short(title)!r}")
                with archive.open(member) as stream:
                    shape, dtype = _npy_header(stream)
                    held = member.file_size - stream.tell()
                if dtype.hasobject:
                    better = "save it as numbers or text"
                    raise BadInput(
                        f"{name}: array {short(title)} holds Python objects, which are not unpickled: {better}"
                    )
                size = math.prod(shape) * dtype.itemsize
                if size > held:
                    raise BadInput(f"{name}: array {short(title)} {shape} is cut short: {held:,} of {size:,} bytes")
                needed += max(size, math.prod(shape) * number_bytes)
            memory.refuse(needed, f"{name}: its arrays")
            arrays = {}
            for title, member in zip(titles, members, strict=True):
                with archive.open(member) as stream:
                    arrays[title] = npy.read_array(stream, allow_pickle=False)
            return arrays
    except BadInput:
        raise
    except Exception as error:  # for foreign bytes zipfile, zlib, ast and NumPy raise errors of many types
        why = one_line(error)
        raise BadInput(f"{name} is no whole npz file, as np.savez writes it: {why}") from None


def _npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array has the format {version}, which holds names of fields")
    shape, _, dtype = readers[version](stream)
    return tuple(int(length) for length in shape), dtype


def numbers(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return an array of bytes as it is, and one of other real numbers as float64.

    Args:
        array: Any array.
        where: File and name, for messages.

    Returns:
        The array.

    Raises:
        BadInput: It holds texts, complex numbers, records or dates.
    """
    if array.dtype.kind not in "biuf":
        raise BadInput(f"{where} holds {array.dtype}, not real numbers")
    return array if array.dtype == np.uint8 else array.astype(np.float64)


def as_images(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return images with channels in front.

    Args:
        array: (N, H, W), (N, C, H, W) or (N, H, W, C).
        where: File and name, for messages.

    Returns:
        (N, C, H, W), bytes or floats as they were.

    Raises:
        BadInput: They have another number of axes.
    """
    if array.ndim == 3:
        return array[:, None]
    if array.ndim != 4:
        raise BadInput(f"{where} has shape {array.shape}: images are (N, H, W), (N, C, H, W) or (N, H, W, C)")
    last = array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)
    return array.transpose(0, 3, 1, 2) if last else array


# folders of images


@dataclass(frozen=True)
class Pictures:
    """The images of one folder.

    Attributes:
        pixels: (N, C, H, W).
        labels: The place of each image's folder among the sorted names of folders, (N,).
        classes: These names.
    """

    pixels: Bytes
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def read_classes(folder: Path, size: tuple[int, int] | None, colour: Colour) -> Pictures:
    """Read a folder that has one folder of images for each class, by torchvision's `ImageFolder`.

    Args:
        folder: The folder. Hidden folders in it do not count.
        size: Height and width that each image is resized to, bilinearly; None where all have one size already.
        colour: "rgb" or "grey".

    Returns:
        The images, ordered by class and name.

    Raises:
        BadInput: There are no folders, one has no image, an image is damaged, too large, of more than 8 bits, or of
            another size.
    """
    name = shown(folder)
    classes = class_folders(folder)
    if not classes:
        held = "images, but no folders" if images_of(folder) else "no folders"
        raise BadInput(f"{name} holds {held}: put the images of each class into a folder of its own")
    import_torchvision()
    from torchvision.datasets import ImageFolder

    class Visible(ImageFolder):  # type: ignore[misc]
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            return classes, {title: i for i, title in enumerate(classes)}

    samples = [(Path(path), label) for path, label in Visible(str(folder), allow_empty=True).samples]
    samples = [(path, label) for path, label in samples if not path.name.startswith(".")]
    labels = np.array([label for _, label in samples], dtype=np.int64)
    for i, title in enumerate(classes):
        if not (labels == i).any():
            raise BadInput(f"{name}: the class folder {short(title)!r} holds no image: remove it, or put some there")
    return Pictures(decoded([path for path, _ in samples], size, colour), labels, tuple(classes))


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def decoded(paths: Sequence[Path], size: tuple[int, int] | None, colour: Colour) -> Bytes:
    """Decode images.

    Args:
        paths: Their files.
        size: Height and width that each is resized to, bilinearly; None where all have one size already.
        colour: "rgb" or "grey".

    Returns:
        (N, C, H, W) bytes.

    Raises:
        BadInput: An image is damaged, too large, of more than 8 bits, or of another size than the first.
    """
    found = np.zeros((0, 0, 0, 0), dtype=np.uint8)
    for i, path in enumerate(paths):
        pixels = _pixels(path, size, colour)  # (C, H, W)
        if not i:
            memory.refuse(len(paths) * pixels.size * 5, f"{len(paths):,} images of {pixels.shape} pixels")
            found = np.empty((len(paths), *pixels.shape), dtype=np.uint8)
        if pixels.shape != found.shape[1:]:
            (_, h, w), (_, first_h, first_w) = pixels.shape, found.shape[1:]
            raise BadInput(
                f"{shown(path)} has {w}×{h} pixels, {shown(paths[0])} {first_w}×{first_h}: say image_folder.size"
            )
        found[i] = pixels
    return found


def _pixels(path: Path, size: tuple[int, int] | None, colour: Colour) -> Bytes:
    """Decode one image, (C, H, W)."""
    from PIL import Image

    name = shown(path)
    if not path.is_file():
        raise BadInput(f"{name} is no regular file")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise BadInput(f"{name} has {width:,}×{height:,} pixels: at most {MOST_PIXELS:,} are decoded")
            if image.mode in DEEP:
                raise BadInput(f"{name} has more than 8 bits for each pixel ({image.mode}): convert it to 8 bits")
            plain = image.convert("L" if colour == "grey" else "RGB")
            if size is not None and (height, width) != size:
                plain = plain.resize(size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(plain, dtype=np.uint8).reshape(*plain.size[::-1], CHANNELS[colour])
    except BadInput:
        raise
    except Exception as error:  # for foreign bytes Pillow raises errors of many types
        raise BadInput(f"{name} is no whole image: {one_line(error)}") from None
    return pixels.transpose(2, 0, 1)


# tasks


@dataclass(frozen=True)
class Target:
    """What is predicted of each example.

    Attributes:
        values: Classes (N,) int64 from 0, or numbers (N,) float64.
        names: The classes, in order; () for numbers.
    """

    values: NDArray[Any]
    names: tuple[Any, ...] = ()

    @property
    def classes(self) -> int:
        """How many classes there are; 0 for numbers."""
        return len(self.names)


def array_task(
    x: NDArray[Any],
    axes: tuple[int, ...],
    target: Target,
    parts: Mapping[str, Index],
    sources: Mapping[str, str],
    where: str,
) -> Task:
    """Make the task of images or sequences.

    Args:
        x: Inputs (N, *S): bytes as pixels, or real numbers.
        axes: The axes over which means and standard deviations of the training inputs are taken.
        target: What is predicted.
        parts: The rows of "train" and "test", and of "validation" where there is one.
        sources: SHA-256 by name, for the record.
        where: What they were read from, for messages.

    Returns:
        The task.

    Raises:
        BadInput: The training inputs do not vary, or a number is not finite.
    """
    train = parts["train"]
    if x.dtype == np.uint8 and x.ndim == 4:
        if (x[train].min((0, 2, 3)) == x[train].max((0, 2, 3))).any():
            raise BadInput(f"{where}: a channel of the training images does not vary, so it cannot be standardised")
        mean, sd = pixel_statistics(x[train])
        inputs = partial(standardised_pixels, mean=mean, sd=sd)
        raw = RawInputs("pixels", inputs, classes=target.names)
        statistics = {
            f"{w}[{c}]": float(v) for w, of in (("pixel_mean", mean), ("pixel_sd", sd)) for c, v in enumerate(of)
        }
    else:
        known = x[train].astype(np.float64)
        if not np.isfinite(x).all():
            raise BadInput(f"{where}: the inputs hold numbers that are not finite: images and sequences lack none")
        mean, sd = known.mean(axes, keepdims=True)[0], known.std(axes, keepdims=True)[0]
        sd = np.where(sd > 0, sd, 1.0)
        inputs = partial(_scaled, mean=mean, sd=sd)
        raw = RawInputs("numbers", inputs, classes=target.names)
        statistics = {"average_mean": float(mean.mean()), "average_sd": float(sd.mean())}
    y, y_mean, y_sd = class_labels(target.values) if target.classes else None, 0.0, 1.0
    if y is None:
        (y_mean,), (y_sd,) = (s.tolist() for s in column_statistics(target.values[train, None]))
        y = torch.from_numpy((target.values - y_mean) / y_sd).to(torch.float32)
        statistics |= {"target_mean": y_mean, "target_sd": y_sd}
    made = {name: Examples(inputs(x[rows]), y[torch.from_numpy(rows)]) for name, rows in parts.items()}
    return Task(
        signature=Signature(tuple(x.shape[1:]), target.classes or 1, "categorical" if target.classes else "gaussian"),
        train=made["train"],
        test=made["test"],
        sources=dict(sources),
        y_mean=y_mean,
        y_sd=y_sd,
        statistics=statistics,
        standardised=axes,
        validation=made.get("validation"),
        raw=raw,
    )


def _scaled(x: NDArray[Any], mean: Reals, sd: Reals) -> Tensor:
    return torch.from_numpy((x.astype(np.float64) - mean) / sd).to(torch.float32)
