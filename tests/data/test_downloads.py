"""The store: every guard is tripped once, and downloads are real ones, from a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from bdlbench import catalog
from bdlbench.cli import main as cli
from bdlbench.core.errors import DataUnavailable
from bdlbench.data import downloads
from bdlbench.data.downloads import Origin, RemoteFile

CONTENT = bytes(range(200))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def remote(path: str = "set/raw/part", known: bool = True, origin: Origin | None = None) -> RemoteFile:
    nowhere = Origin(("http://127.0.0.1:9/part.gz",))  # the discard port: refused at once
    return RemoteFile(path, "made-up bytes", len(CONTENT), sha256(CONTENT) if known else None, origin or nowhere)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    folder = tmp_path / "store"
    monkeypatch.setenv("BDLBENCH_DATA", str(folder))
    return folder


@pytest.fixture
def place(home: Path) -> Callable[[bytes], Path]:
    """Writes bytes where `remote()` lies."""

    def write(content: bytes) -> Path:
        path = home / "set/raw/part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that it is served under."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(file: RemoteFile) -> str:
    with pytest.raises(DataUnavailable) as caught:
        downloads.fetch([file], "made_up")
    message = str(caught.value)
    assert "\n" not in message
    assert str(downloads.root() / file.path) in message
    assert "python -m bdlbench data made_up" in message
    return message


def test_the_store_is_named_by_the_environment_or_the_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert downloads.root() == home
    monkeypatch.setenv("BDLBENCH_DATA", "")
    assert downloads.root().name == "bdlbench"


def test_a_good_file_is_given_and_named_by_its_checksum(home: Path, place: Callable[[bytes], Path]) -> None:
    path = place(CONTENT)
    assert downloads.fetch([remote()], "made_up") == [path]
    assert downloads.status([remote()]) == [("set/raw/part", "verified")]
    assert downloads.sources([remote()]) == {"set/raw/part": sha256(CONTENT)}


def test_a_file_without_a_known_checksum_is_said_to_have_none(home: Path, place: Callable[[bytes], Path]) -> None:
    path = place(CONTENT)
    assert downloads.status([remote(known=False)]) == [("set/raw/part", "present, no checksum known")]
    assert downloads.fetch([remote(known=False)], "made_up") == [path]


def test_a_set_without_files_is_bundled() -> None:
    assert [state for _, state in downloads.status(())] == ["bundled"]


def test_an_absent_file_is_refused_where_no_server_answers(home: Path) -> None:
    assert downloads.status([remote()]) == [("set/raw/part", "absent")]
    message = refusal(remote())
    assert "absent" in message and "URLError" in message
    assert "set BDLBENCH_DATA to a folder that holds set/raw/part" in message
    assert not home.exists()


def test_no_address_at_all_is_a_refusal_too(home: Path) -> None:
    assert "address" in refusal(remote(origin=Origin(())))


def test_an_altered_file_is_refused(place: Callable[[bytes], Path]) -> None:
    place(CONTENT[::-1])
    assert downloads.status([remote()]) == [("set/raw/part", "wrong checksum")]
    message = refusal(remote())
    assert f"SHA-256 {sha256(CONTENT[::-1])[:12]}…, expected {sha256(CONTENT)[:12]}…" in message


@pytest.mark.parametrize("where", ["set/raw/part.gz", "part.gz"])
def test_a_download_that_lies_in_the_store_is_unpacked_without_a_network(home: Path, where: str) -> None:
    packed = home / where
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress(CONTENT))
    assert downloads.fetch([remote()], "made_up") == [home / "set/raw/part"]
    assert (home / "set/raw/part").read_bytes() == CONTENT
    assert packed.exists()


def test_an_archive_that_lies_in_the_store_is_unpacked(home: Path) -> None:
    home.mkdir()
    origin = Origin(("http://127.0.0.1:9/all.tar.gz",))
    with tarfile.open(home / "all.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("set/raw/part")
        member.size = len(CONTENT)
        tar.addfile(member, io.BytesIO(CONTENT))
    assert downloads.fetch([remote(origin=origin)], "made_up")[0].read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(CONTENT)[:-9], gzip.compress(CONTENT[::-1])])
def test_a_damaged_download_in_the_store_is_named(home: Path, content: bytes) -> None:
    packed = home / "set/raw/part.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(content)
    assert str(packed) in refusal(remote())
    assert files_below(home) == [packed]


def test_a_download_in_a_store_that_cannot_be_written_is_named(home: Path) -> None:
    packed = home / "set/raw/part.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress(CONTENT))
    packed.parent.chmod(0o555)
    assert str(packed) in refusal(remote())
    packed.parent.chmod(0o755)


def test_nothing_vouches_for_a_download_without_a_checksum(home: Path) -> None:
    packed = home / "set/raw/part.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress(CONTENT))
    assert "URLError" in refusal(remote(known=False))
    origin = Origin(("http://127.0.0.1:9/part.gz",), sha256=sha256(packed.read_bytes()))
    assert downloads.fetch([remote(known=False, origin=origin)], "made_up")[0].read_bytes() == CONTENT


def test_a_file_that_changes_is_hashed_again(place: Callable[[bytes], Path]) -> None:
    path = place(CONTENT)
    assert downloads.checksum(path) == sha256(CONTENT)
    place(CONTENT[::-1])
    os.utime(path, ns=(1, 1))
    assert downloads.checksum(path) == sha256(CONTENT[::-1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CONTENT[:50], "50 of 200 bytes"),
        (b"", "200 bytes"),
        (CONTENT + b"!", "201 bytes"),
    ],
)
def test_a_file_of_the_wrong_size_is_refused(place: Callable[[bytes], Path], content: bytes, words: str) -> None:
    place(content)
    assert downloads.status([remote()]) == [("set/raw/part", "wrong size")]
    assert words in refusal(remote())


def test_an_unwritable_store_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    home.chmod(0o555)  # the superuser could write here, and is not to
    assert "writable" in refusal(remote())
    home.chmod(0o755)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "a file/store"))
    assert "writable" in refusal(remote())


def test_an_unreadable_file_is_refused(tmp_path: Path, refused: Any) -> None:
    with refused("nothing", "No such file or directory", error=DataUnavailable):
        downloads.checksum(tmp_path / "nothing")


class Unwilling(BaseHTTPRequestHandler):
    """Answers with HTTP as each path says; `/chunked/…` and others are good or bad in one way."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        way = self.path.split("/")[1]
        status = {"missing": 404, "broken": 500}.get(way, 302 if way in WHERE else 200)
        self.send_response(status)
        if way in WHERE:
            self.send_header("Location", WHERE[way])
        elif way not in ("endless", "unannounced"):
            self.send_header("Content-Length", "much" if way == "nonsense" else str(len(CONTENT)))
        self.end_headers()
        if status != 200:
            return
        with suppress(OSError):  # the other side has left
            for piece in self.pieces(way):
                self.wfile.write(piece)

    @staticmethod
    def pieces(way: str) -> Iterator[bytes]:
        if way == "slow":
            for byte in CONTENT:
                yield bytes([byte])
                time.sleep(0.02)
        elif way == "endless":
            for _ in range(400):
                yield CONTENT * 100
        elif way == "silent":
            yield CONTENT[:7]
            time.sleep(1)
        else:
            yield {"cut": CONTENT[:50], "another": CONTENT[::-1]}.get(way, CONTENT)


WHERE = {"file": "file:///etc/passwd", "round": "/round/part", "elsewhere": "http://[nowhere", "moved": "/good/part"}


@pytest.fixture
def unwilling() -> Iterator[str]:
    """The address of a server of the kind `Unwilling`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unwilling)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("slow", "/slow/part is too slow"),  # never silent for as long as a read may be
        ("silent", "/silent/part"),  # it times out, or is too slow by what it sent first: whichever clock is earlier
        ("endless", "/endless/part does not end"),
        ("cut", "/cut/part is cut short: 50 of 200 bytes"),
        ("another", "/another/part fails its checksum"),
        ("nonsense", ""),
        ("file", "file:///etc/passwd"),
        ("round", "redirect"),
        ("elsewhere", ""),
        ("missing", "404"),
        ("broken", "500"),
    ],
)
def test_a_server_that_does_not_deliver_is_one_line_and_exit_code_2(
    home: Path,
    unwilling: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    way: str,
    words: str,
) -> None:
    """A server of one byte a second was waited for without end; each is left in seconds, and nothing stays behind."""
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(downloads, "PATIENCE_SECONDS", 0.4)
    monkeypatch.setattr(downloads, "MOST_BYTES", 1_000_000)
    origin = Origin((f"{unwilling}/{way}/part",), sha256=sha256(CONTENT))
    monkeypatch.setattr(catalog.load("datasets", "mnist"), "files", (remote(origin=origin),))
    started = time.monotonic()
    assert cli.main(["data", "mnist"]) == 2
    assert time.monotonic() - started < 3
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith("bdlbench: ") and words in said.err and "set/raw/part" in said.err, said.err
    assert not files_below(home) and not list(scratch.iterdir())


@pytest.mark.parametrize("way", ["good", "moved", "unannounced"])
def test_a_server_that_delivers_after_one_that_does_not(
    home: Path, unwilling: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE_SECONDS", 0.4)
    urls = tuple(f"{unwilling}/{one}/part" for one in ("slow", "cut", way))
    assert downloads.fetch([remote(origin=Origin(urls, sha256=sha256(CONTENT)))], "made_up") == [home / "set/raw/part"]
    assert (home / "set/raw/part").read_bytes() == CONTENT
    assert files_below(home) == [home / "set/raw/part"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".tar.gz"])
def test_downloads_are_unpacked_verified_and_kept(home: Path, served: tuple[Path, str], suffix: str) -> None:
    folder, address = served
    packed = {"": CONTENT, ".gz": gzip.compress(CONTENT), ".tar.gz": tar("set/raw/part", CONTENT)}[suffix]
    (folder / f"part{suffix}").write_bytes(packed)
    urls = (f"{address}/missing{suffix}", f"{address}/part{suffix}")  # the first mirror answers 404
    file = remote(origin=Origin(urls, md5(packed), sha256(packed)))
    assert downloads.fetch([file], "made_up") == [home / "set/raw/part"]
    assert files_below(home) == [home / "set/raw/part"]
    assert (home / "set/raw/part").read_bytes() == CONTENT


def test_a_bad_mirror_does_not_spoil_the_next(home: Path, served: tuple[Path, str]) -> None:
    for mirror, content in (("bad", CONTENT[::-1]), ("good", CONTENT)):
        (served[0] / mirror).mkdir()
        (served[0] / mirror / "part").write_bytes(content)
    urls = tuple(f"{served[1]}/{mirror}/part" for mirror in ("bad", "good"))
    downloads.fetch([remote(origin=Origin(urls, sha256=sha256(CONTENT)))], "made_up")
    assert (home / "set/raw/part").read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", ["md5", "sha256", "content", "size", "member", "gzip"])
def test_a_wrong_download_leaves_nothing_behind(home: Path, served: tuple[Path, str], wrong: str) -> None:
    content = {"content": CONTENT[::-1], "size": CONTENT[1:]}.get(wrong, CONTENT)
    packed = {"member": tar("another", CONTENT), "gzip": gzip.compress(CONTENT)[:-12]}.get(
        wrong, gzip.compress(content)
    )
    name = "part.tar.gz" if wrong == "member" else "part.gz"
    (served[0] / name).write_bytes(packed)
    origin = Origin(
        urls=(f"{served[1]}/{name}",),
        md5="0" * 32 if wrong == "md5" else md5(packed),
        sha256="0" * 64 if wrong == "sha256" else None,
    )
    assert "downloaded" in refusal(remote(origin=origin))
    assert not files_below(home.parent / "store")


def test_a_folder_in_place_of_a_member_is_refused(home: Path, served: tuple[Path, str]) -> None:
    with tarfile.open(served[0] / "part.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("set/raw/part")
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    assert "part.tar.gz" in refusal(remote(origin=Origin((f"{served[1]}/part.tar.gz",))))


def tar(member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()


def test_idx_files_are_read_back(tmp_path: Path) -> None:
    images, path = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), tmp_path / "idx"
    path.write_bytes(idx(images))
    np.testing.assert_array_equal(downloads.read_idx(path, (3, 4)), images)
    path.write_bytes(idx(images.ravel()))
    np.testing.assert_array_equal(downloads.read_idx(path), images.ravel())


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lambda b: b"\x01" + b[1:], ["idx", "3 axes"]),
        (lambda b: b[:10], ["idx", "3 axes"]),
        (lambda b: b[:2] + b"\x0d" + b[3:], ["bytes", "3 axes"]),  # floats
        (lambda b: b[:-1], ["24 bytes", "23"]),
        (lambda b: b + b"!", ["24 bytes", "25"]),
        (lambda b: b[:11] + b"\x04\x00\x00\x00\x03" + b[16:], ["(4, 3)", "(3, 4)"]),
    ],
)
def test_damaged_idx_files_are_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], names: list[str], refused: Any
) -> None:
    path = tmp_path / "idx"
    path.write_bytes(damage(idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))))
    with refused("idx", *names, error=DataUnavailable):
        downloads.read_idx(path, (3, 4))


def test_cifar_batches_are_read_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    path = tmp_path / "batch.bin"
    path.write_bytes(b"".join(bytes([label]) + image.tobytes() for label, image in zip((7, 0), images, strict=True)))
    got, labels = downloads.read_cifar(path)
    np.testing.assert_array_equal(got, images)
    np.testing.assert_array_equal(labels, [7, 0])


@pytest.mark.parametrize(
    ("content", "names"),
    [(b"", ["3,073 bytes"]), (bytes(3072), ["3,073 bytes"]), (b"\x0a" + bytes(3072), ["label 10", "0 to 9"])],
)
def test_damaged_cifar_batches_are_refused(tmp_path: Path, content: bytes, names: list[str], refused: Any) -> None:
    path = tmp_path / "batch.bin"
    path.write_bytes(content)
    with refused("batch.bin", *names, error=DataUnavailable):
        downloads.read_cifar(path)


def test_cifar_100_has_its_fine_label_behind_the_coarse_one(tmp_path: Path, refused: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    path = tmp_path / "train.bin"
    path.write_bytes(b"".join(bytes([19, fine]) + x.tobytes() for fine, x in zip((99, 0), images, strict=True)))
    got, labels = downloads.read_cifar(path, 100)
    np.testing.assert_array_equal(got, images)
    np.testing.assert_array_equal(labels, [99, 0])
    path.write_bytes(bytes([0, 100]) + bytes(3072))
    with refused("train.bin", "label 100", "0 to 99", error=DataUnavailable):
        downloads.read_cifar(path, 100)
    path.write_bytes(bytes(3073))
    with refused("train.bin", "CIFAR-100", "3,074 bytes", error=DataUnavailable):
        downloads.read_cifar(path, 100)


def test_array_checksums_see_values_shape_and_type() -> None:
    a = np.arange(6)
    others = (a + 1, a.reshape(2, 3), a.astype(np.int32))
    assert len({downloads.array_checksum(x) for x in (a, *others)}) == 4
    assert downloads.array_checksum(a[::-1][::-1]) == downloads.array_checksum(a)


@pytest.mark.slow
def test_the_store_needs_no_torchvision() -> None:
    code = "import sys, bdlbench.data.downloads; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ}).returncode == 0


def test_torchvision_imports_beside_this_torch() -> None:
    assert downloads.import_torchvision() is downloads.import_torchvision()
    assert callable(importlib.import_module("torchvision.transforms").Resize)


class FakeImports:
    """Stands in for `importlib`: the first import stops as that of a build for another torch does."""

    def __init__(self, message: str) -> None:
        self.message, self.calls = message, 0

    def import_module(self, name: str) -> ModuleType:
        self.calls += 1
        if self.calls == 1:
            sys.modules["torchvision.half"] = ModuleType("half imported")
            raise RuntimeError(self.message)
        assert not [m for m in sys.modules if m.split(".")[0] == "torchvision"]
        return ModuleType(name)


@pytest.fixture
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Torchvision as if never imported; gives the schemas that are declared meanwhile."""
    defined: list[str] = []

    class Library:
        def __init__(self, namespace: str, kind: str) -> None:
            assert (namespace, kind) == ("torchvision", "FRAGMENT")

        def define(self, schema: str) -> None:
            defined.append(schema.split("(")[0])

    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(downloads, "_declared", [])
    monkeypatch.setattr(torch.library, "Library", Library)
    yield defined
    sys.modules.pop("torchvision.half", None)


def test_a_torchvision_built_for_another_torch_is_helped(
    no_torchvision: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "importlib", FakeImports("operator torchvision::nms does not exist"))
    assert downloads.import_torchvision().__name__ == "torchvision"
    assert no_torchvision == ["nms", "qnms"]
    assert len(downloads._declared) == 1


def test_any_other_failure_of_the_import_is_left_alone(
    no_torchvision: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "importlib", FakeImports("something else"))
    with pytest.raises(RuntimeError, match="else"):
        downloads.import_torchvision()
    assert no_torchvision == []
