"""Files and folders that a person gives by path: where they lie, and what identifies their content."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from bdlbench.core.errors import BadInput, DataUnavailable
from bdlbench.core.foreign import shown
from bdlbench.core.options import FileKind, short
from bdlbench.data import downloads

DIGITS = 16
"""How many hexadecimal digits of a SHA-256 an option holds: 64 bits, enough to tell the files of a person apart."""

MOST_FILES = 5_000_000
"""A folder of more images is not one data set."""

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The endings of images, as torchvision has them."""


def find(text: str, option: str) -> Path:
    """Return the file or folder that an option names.

    Args:
        text: Its path: absolute, or relative to the working folder or to the data store.
        option: The option, for messages: "csv.path".

    Returns:
        The path.

    Raises:
        DataUnavailable: There is nothing of that path.
    """
    places = [Path(text).expanduser(), downloads.root() / text]
    try:
        found = next((place for place in places if place.exists()), None)
    except (OSError, ValueError) as error:  # a name that is too long, or a folder that may not be entered
        raise DataUnavailable(f"{option}={text} cannot be read: {getattr(error, 'strerror', error)}") from None
    if found is None:
        raise DataUnavailable(f"{option}={text} does not exist, neither here nor in the store {downloads.root()}")
    return found


def content(path: Path) -> str:
    """Return the beginning of the SHA-256 of a file's content, or of the names and contents of a folder's images.

    Args:
        path: The file or folder.

    Returns:
        16 hexadecimal digits.

    Raises:
        DataUnavailable: It cannot be read.
    """
    return sha256(path)[:DIGITS]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, or of the sorted relative names and contents of a folder's images.

    Args:
        path: The file or folder.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataUnavailable: It cannot be read, or is neither a file nor a folder.
    """
    if path.is_file():
        return downloads.checksum(path)
    if not path.is_dir():
        raise DataUnavailable(f"{shown(path)} is neither a file nor a folder")
    whole = hashlib.sha256()
    for name, file in images_of(path).items():
        whole.update(f"{name}\0{downloads.checksum(file)}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def images_of(folder: Path) -> dict[str, Path]:
    """Return all images in a folder and below, without hidden ones, by their names relative to it, sorted.

    Args:
        folder: The folder.

    Returns:
        Paths by relative name, with / between parts.

    Raises:
        DataUnavailable: It cannot be read, or holds too many images.
        BadInput: What is called an image is no regular file.
    """
    found: dict[str, Path] = {}
    try:
        for path in folder.rglob("*"):  # it does not follow links to folders, so it ends
            name = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in name.parts)
            if hidden or path.suffix.lower() not in IMAGES or path.is_dir():
                continue
            if not path.is_file():  # a pipe would be read for ever
                raise BadInput(f"{shown(path)} is no regular file")
            found[name.as_posix()] = path
            if len(found) > MOST_FILES:
                raise DataUnavailable(f"{shown(folder)} holds more than {MOST_FILES:,} images: name a smaller folder")
    except OSError as error:
        raise DataUnavailable(f"{shown(folder)} cannot be read: {error.strerror}") from None
    return dict(sorted(found.items()))


def identified(text: str, wanted: str, option: str, kind: FileKind) -> str:
    """Return what identifies the content that an option names, for a cell.

    Args:
        text: The path; "" for none.
        wanted: The beginning of the SHA-256 where a person or a record gives it. The file is then not looked at before
            it is read.
        option: The option, for messages.
        kind: What it must be.

    Returns:
        16 hexadecimal digits, or "" without a path.

    Raises:
        DataUnavailable: There is nothing of that path.
        BadInput: It is of another kind, or `wanted` is no SHA-256.
    """
    if wanted and not (text and re.fullmatch(rf"[0-9a-fA-F]{{{DIGITS},64}}", wanted)):
        raise BadInput(f"{option}_sha256={short(wanted)} is not the beginning of a SHA-256, {DIGITS} digits, of a file")
    if wanted or not text:
        return wanted[:DIGITS].lower()
    return content(of_kind(find(text, option), option, kind))


def of_kind(path: Path, option: str, kind: FileKind) -> Path:
    """Return `path` itself.

    Raises:
        BadInput: It is not of the kind: a regular file with something in it, or a folder.
    """
    if kind == "folder":
        if not path.is_dir():
            raise BadInput(f"{option}={shown(path)} is a file: name a folder")
        return path
    if path.is_dir():
        raise BadInput(f"{option}={shown(path)} is a folder: name a file")
    if not path.is_file():
        raise BadInput(f"{option}={shown(path)} is no regular file")
    if not path.stat().st_size:
        raise BadInput(f"{option}={shown(path)} is empty")
    return path


def same(text: str, wanted: str, option: str) -> Path:
    """Return the file or folder that an option names, with the content that the option's SHA-256 asks for.

    A record names a file by its name and content. So a file is also looked for by its name alone, in the working folder
    and in the store.

    Args:
        text: Its path.
        wanted: The beginning of its SHA-256; any content where empty.
        option: The option, for messages.

    Returns:
        The path.

    Raises:
        DataUnavailable: It is absent, or its content is another.
    """
    name = Path(text).name
    places = dict.fromkeys([Path(text).expanduser(), downloads.root() / text, Path(name), downloads.root() / name])
    there = [place for place in places if place.exists()]
    for place in there:
        if content(place).startswith(wanted[:DIGITS]):
            return place
    if not there:
        raise DataUnavailable(
            f"{option}={text} (SHA-256 {wanted}…) is neither there, nor {name} here or in the store {downloads.root()}"
        )
    raise DataUnavailable(
        f"{option}={text} has another content than asked for: SHA-256 {content(there[0])}…, not {wanted}…"
    )
