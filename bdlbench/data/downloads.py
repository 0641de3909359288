"""The store of data files: where they lie, how they are verified and downloaded, and how their formats are read.

A data set declares its files (`RemoteFile`, with a SHA-256) in its own module, as the class attribute `files`. `fetch`
returns their verified paths and downloads absent ones; `status` tells the state of each file; `read_idx` and
`read_cifar` parse them with NumPy alone, so nothing is ever unpickled.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import math
import os
import sys
import tarfile
import tempfile
import threading
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray

from bdlbench.core.clock import now
from bdlbench.core.errors import DataUnavailable
from bdlbench.core.files import sha256, write_atomic

FileState = Literal["verified", "present, no checksum known", "absent", "wrong size", "wrong checksum", "bundled"]
AT_HAND: tuple[FileState, ...] = ("verified", "present, no checksum known", "bundled")
"""States in which a data set can be loaded without a download."""

ByteArray = NDArray[np.uint8]

PATIENCE_SECONDS = 10.0
"""How long a download may wait for silent or slow servers, divided among its mirrors."""

SLOWEST_BYTES_PER_SECOND = 10_000
"""A server that sends less uses up the patience: the largest file, of 170 MB, takes at most five hours."""

LOOK_EVERY = 0.1
"""Seconds between looks at the speed of a download."""

MOST_BYTES = 1 << 30
"""A download that is longer is not one of ours."""

CIFAR_PIXELS = 3 * 32 * 32
"""Bytes of one image in CIFAR's binary form: the red, green and blue planes."""

_FAILURES = (
    OSError,  # network, disk, a damaged gzip
    HTTPException,
    ValueError,  # an address, or a length, that is none
    EOFError,
    KeyError,  # the archive lacks the member
    tarfile.TarError,
    zlib.error,
)

_declared: list[torch.library.Library] = []  # kept, because a Library's operators vanish with it


@dataclass(frozen=True)
class Origin:
    """Where a download comes from.

    Attributes:
        urls: Mirrors in the order tried. Each ends in the name of a file, .gz or .tar.gz.
        md5: MD5 of the download itself; may be None where the SHA-256 of the unpacked file is known.
        sha256: SHA-256 of the download itself; may be None likewise.
    """

    urls: tuple[str, ...]
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """One file of the store.

    Attributes:
        path: Relative to the store; inside a .tar.gz it is also the name of the member.
        role: What it holds, in words for messages ("MNIST training images").
        size: In bytes.
        sha256: SHA-256 of the unpacked file as it lies in the store. None where it is not known: `status` then says so,
            and only the checksum of the download vouches for the file.
        origin: Where it is downloaded from.
    """

    path: str
    role: str
    size: int
    sha256: str | None
    origin: Origin


def root() -> Path:
    """Return the folder of the store: `$BDLBENCH_DATA` where set, else the user's cache folder. It need not exist."""
    chosen = os.environ.get("BDLBENCH_DATA")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("bdlbench"))


def status(files: Sequence[RemoteFile]) -> list[tuple[str, FileState]]:
    """Return (path in the store, state) of each file; one row "bundled" for a data set that declares none."""
    return [(file.path, state(file)) for file in files] or [("nothing to download", "bundled")]


def state(file: RemoteFile) -> FileState:
    """Return the present state of `file` in the store.

    Its checksum is computed once per process while the file is unchanged.
    """
    path = root() / file.path
    if not path.is_file():
        return "absent"
    if path.stat().st_size != file.size:
        return "wrong size"
    if file.sha256 is None:
        return "present, no checksum known"
    return "verified" if checksum(path) == file.sha256 else "wrong checksum"


def fetch(files: Sequence[RemoteFile], name: str) -> list[Path]:
    """Return the verified path of each file of data set `name`, downloading absent files where possible.

    Raises:
        DataUnavailable: A file is absent and cannot be downloaded, or it is cut short, empty or altered.
    """
    states = [state(file) for file in files]
    for file, found in zip(files, states, strict=True):
        _refuse_broken(file, found, name)
    absent = [file for file, found in zip(files, states, strict=True) if found == "absent"]
    for origin in dict.fromkeys(file.origin for file in absent):
        _download(origin, [file for file in absent if file.origin == origin], name)
    return [root() / file.path for file in files]


def sources(files: Sequence[RemoteFile]) -> dict[str, str]:
    """Return {path in the store: SHA-256} of the files on disk, for `Task.sources`."""
    return {file.path: checksum(root() / file.path) for file in files}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hex, remembered in this process while its size and time of change stay the same.

    Raises:
        DataUnavailable: The file cannot be read.
    """
    try:
        found = path.stat()
        return _hashed(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise DataUnavailable(f"{path} cannot be read: {error.strerror}") from error


def array_checksum(*arrays: NDArray[np.generic]) -> str:
    """Return the SHA-256 in hex of the dtype, shape and bytes of each array in turn.

    Args:
        *arrays: NumPy arrays.

    Returns:
        64 hexadecimal digits.
    """
    parts = (f"{a.dtype.str}{a.shape}".encode() + np.ascontiguousarray(a).tobytes() for a in arrays)
    return sha256(b"".join(parts))


def read_idx(path: Path, item_shape: tuple[int, ...] = ()) -> ByteArray:
    """Read the unsigned bytes of an uncompressed idx file: (N, *item_shape); labels have no item shape.

    Format: four bytes 0, 0, 8 (unsigned byte), number of axes; each axis as a big-endian int32; the data (LeCun).

    Raises:
        DataUnavailable: The magic number or the shape differs, or bytes are missing or left over.
    """
    raw = np.fromfile(path, dtype=np.uint8)
    axes = 1 + len(item_shape)
    start = 4 + 4 * axes
    if raw.size < start or raw[:4].tolist() != [0, 0, 8, axes]:
        raise DataUnavailable(f"{path} does not start as an idx file of bytes with {axes} axes")
    shape = tuple(int(n) for n in raw[4:start].view(">i4"))
    if shape[1:] != item_shape:
        raise DataUnavailable(f"{path} holds items of shape {shape[1:]}, not {item_shape}")
    if math.prod(shape) != raw.size - start:
        raise DataUnavailable(f"{path} declares {math.prod(shape):,} bytes of data and holds {raw.size - start:,}")
    return raw[start:].reshape(shape)


def read_cifar(path: Path, classes: int = 10) -> tuple[ByteArray, ByteArray]:
    """Read images (N, 3, 32, 32) and labels (N,) of one file in the binary form of CIFAR-10 or CIFAR-100.

    Format: https://www.cs.toronto.edu/~kriz/cifar.html. An image of CIFAR-10 has its label in front; one of CIFAR-100
    its coarse label, which is passed over, and its fine one.

    Args:
        path: The file.
        classes: 10 or 100.

    Returns:
        Images and labels.

    Raises:
        DataUnavailable: The file is not a whole number of examples, or has a label that is none of the classes.
    """
    raw, labels = np.fromfile(path, dtype=np.uint8), 1 if classes == 10 else 2
    row = labels + CIFAR_PIXELS
    if raw.size == 0 or raw.size % row:
        raise DataUnavailable(f"{path} is not a whole number of CIFAR-{classes} examples of {row:,} bytes")
    rows = raw.reshape(-1, row)
    found = rows[:, labels - 1]
    if found.max() >= classes:
        raise DataUnavailable(f"{path} holds the label {found.max()}: CIFAR-{classes} has labels 0 to {classes - 1}")
    return rows[:, labels:].reshape(-1, 3, 32, 32), found


def imported(name: str) -> Any:
    """Import a module of another library when it is needed, and ignore warnings during its import.

    Args:
        name: The module.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.partition(".")[0] in ("torch_uncertainty", "laplace"):
            import_torchvision()  # they import it indirectly; its build may not match torch's
        return importlib.import_module(name)


def import_torchvision() -> ModuleType:
    """Import torchvision, even where its build does not match torch's.

    torchvision's wheels on PyPI are built against the CUDA torch. Beside a CPU-only torch their extension does not
    load, and `import torchvision` stops because it registers shapes for two operators that the extension would have
    defined. None of its operators is needed here, so the two are then declared (never implemented) and the import is
    tried again. The plain import must come first: a matching build defines the operators itself, and defining them
    twice is an error.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    return importlib.import_module("torchvision")


@cache
def _hashed(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse_broken(file: RemoteFile, found: FileState, name: str) -> None:
    path = root() / file.path
    if found == "wrong size":
        size = path.stat().st_size
        problem = f"holds {size:,} bytes instead of {file.size:,}"
        if size < file.size:
            problem = f"is cut short: {size:,} of {file.size:,} bytes"
        if size == 0:
            problem = (
                f"is an empty file in place of {file.size:,} bytes: other files of that set may be here, these are not"
            )
    elif found == "wrong checksum":
        problem = f"fails its checksum: SHA-256 {checksum(path)[:12]}…, expected {str(file.sha256)[:12]}…"
    else:
        return
    raise _unavailable(file, name, problem, f"move it away and run: python -m bdlbench data {name}")


def _unavailable(file: RemoteFile, name: str, problem: str, remedy: str) -> DataUnavailable:
    return DataUnavailable(f"{name} needs the {file.role}, but {root() / file.path} {problem}; {remedy}")


def _download(origin: Origin, files: Sequence[RemoteFile], name: str) -> None:
    """Download `files`, which all come from `origin`, into the store: verified first, then written atomically.

    Where the download itself already lies in the store, it is unpacked and no network is used.
    """
    first, packed = files[0], _packed(origin, files)
    known = f" (SHA-256 {first.sha256})" if first.sha256 else ""
    remedy = f"set BDLBENCH_DATA to a folder that holds {first.path}{known}"
    if not all(_writable((root() / file.path).parent) for file in files):
        remedy = f"{remedy}, or to a writable one and run: python -m bdlbench data {name}"
        there = f" ({packed} is there, to be unpacked)" if packed else ""
        raise _unavailable(first, name, f"is absent{there}, and that place is not writable", remedy)
    if packed is not None:
        try:
            for file in files:
                write_atomic(root() / file.path, _verified(file, _unpacked(packed, file.path)))
            return
        except _FAILURES as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            remedy = f"put a whole one there, or move it away and run: python -m bdlbench data {name}"
            raise _unavailable(first, name, f"is absent and {packed} does not give it ({reason})", remedy) from error
    try:
        with tempfile.TemporaryDirectory(prefix="bdlbench-") as scratch:
            archive = _retrieved(origin, Path(scratch))
            for file in files:
                write_atomic(root() / file.path, _verified(file, _unpacked(archive, file.path)))
    except _FAILURES as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f"{remedy}, or run with a network: python -m bdlbench data {name}"
        raise _unavailable(first, name, f"is absent and could not be downloaded ({reason})", remedy) from error


def _packed(origin: Origin, files: Sequence[RemoteFile]) -> Path | None:
    """Return the download where a person has put it into the store, beside one of its files or at the top.

    None where it is not. The checksum of each file vouches for it, or that of the download where a file's is not known.
    """
    names = {url.rsplit("/", 1)[-1] for url in origin.urls} | {f"{Path(file.path).name}.gz" for file in files[:1]}
    places = dict.fromkeys([*((root() / file.path).parent for file in files), root()])
    for path in (place / name for place in places for name in sorted(names)):
        if path.is_file() and all(file.sha256 or checksum(path) == origin.sha256 for file in files):
            return path
    return None


def _writable(folder: Path) -> bool:
    """Tell whether `folder` can be made or written to. Without any write bit it counts as read-only, even for root."""
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK) and bool(nearest.stat().st_mode & 0o222)


def _retrieved(origin: Origin, folder: Path) -> Path:
    """Download into `folder` from the first mirror that delivers the whole file; else raise the last mirror's error."""
    for position, url in enumerate(origin.urls, start=1):
        archive = folder / url.rsplit("/", 1)[-1]
        try:
            _receive(url, archive, PATIENCE_SECONDS / len(origin.urls))
            for kind, right in (("md5", origin.md5), ("sha256", origin.sha256)):
                with archive.open("rb") as stream:
                    found = hashlib.file_digest(stream, kind).hexdigest() if right else right
                if found != right:
                    raise OSError(f"{url} fails its checksum: {kind} {str(found)[:12]}…")
            return archive
        except _FAILURES:
            if position == len(origin.urls):
                raise
    raise OSError("no address to download from")


def _receive(url: str, path: Path, patience: float) -> None:
    """Write what a server sends into a file.

    A time limit of urllib, of requests or of pooch is one for each read, which a byte a second never exceeds, neither
    in the headers nor in the body. So a thread of its own reads, and this one looks at the clock.

    Raises:
        TimeoutError: The server is silent for `patience` seconds, or so slow that it has cost as much.
        OSError: Nothing answers, the answer is an error, or it ends before the length that was announced.
        HTTPException: The answer is no HTTP.
    """
    asked = Request(url, headers={"User-Agent": "bdlbench"})
    received, ended, failed = 0, threading.Event(), list[BaseException]()

    def read() -> None:
        nonlocal received
        try:
            # addresses stand in the code; redirects to file: are refused by urllib
            with urlopen(asked, timeout=patience) as response:  # nosec B310
                while piece := response.read1(1 << 16):
                    received += file.write(piece)
                    if received > MOST_BYTES:
                        raise OSError(f"{url} does not end: more than {MOST_BYTES:,} bytes")
                announced = response.headers.get("Content-Length")
            if announced is not None and int(announced) != received:
                raise OSError(f"{url} is cut short: {received:,} of {int(announced):,} bytes")
        except BaseException as error:
            if isinstance(error, HTTPError):  # it holds the answer, whose connection ends with it
                error.close()
            failed.append(error.with_traceback(None))  # which would hold this frame, and so the connection
        finally:
            ended.set()

    with path.open("wb") as file:  # closed when it is given up, so that the thread ends at its next piece
        started = now()
        threading.Thread(target=read, daemon=True).start()
        while not ended.wait(LOOK_EVERY):
            seconds = now() - started
            if seconds > patience + received / SLOWEST_BYTES_PER_SECOND:
                slow = f"is too slow: {received:,} bytes" if received else "timed out: nothing of the file"
                raise TimeoutError(f"{url} {slow} in {seconds:.0f} s")
    if failed:
        raise failed.pop()  # not kept here: no cycle of error and frame holds the connection


def _unpacked(archive: Path, member: str) -> bytes:
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(member)
            if stream is None:
                raise OSError(f"{member} is no file in {archive.name}")
            return stream.read()
    raw = archive.read_bytes()
    return gzip.decompress(raw) if archive.suffix == ".gz" else raw


def _verified(file: RemoteFile, content: bytes) -> bytes:
    if len(content) != file.size:
        raise OSError(f"the download holds {len(content):,} bytes instead of {file.size:,}")
    if file.sha256 not in (None, sha256(content)):
        raise OSError(f"the download fails its checksum: SHA-256 {sha256(content)[:12]}…")
    return content
