"""Downloads that are cut, wrong or slow, from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bdlbench.core.errors import DataUnavailable
from bdlbench.data import downloads
from tests.faults.conftest import Tell

pytestmark = pytest.mark.slow

CONTENT = bytes(range(256)) * 40
PATIENCE = 1.0

FAULTS = {
    "cut": "half of what it announces, then the connection is closed",
    "wrong": "other bytes of the same size",
    "longer": "more bytes than the file has",
    "slow": "a byte every 50 ms",
    "slow in its headers": "a byte of the headers every 50 ms",
    "slow in its chunks": "a byte of the size of a chunk every 50 ms",
    "silent": "nothing",
    "an error": "status 500",
    "a page": "a page of HTML, as of a hotel",
    "no HTTP": "bytes that are no HTTP",
}
"""What the server sends."""


class Unwilling(BaseHTTPRequestHandler):
    """Sends what the address asks for."""

    def do_GET(self) -> None:
        way = self.path.split("/")[1].replace("%20", " ")
        head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(CONTENT)}\r\n\r\n".encode()
        with suppress(OSError):
            if way == "cut":
                self.wfile.write(head + CONTENT[: len(CONTENT) // 2])
            elif way == "wrong":
                self.wfile.write(head + CONTENT[::-1])
            elif way == "longer":
                self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT + b"more")
            elif way == "slow":
                self.slowly(head, CONTENT)
            elif way == "slow in its headers":
                self.slowly(b"", head + CONTENT)
            elif way == "slow in its chunks":
                self.slowly(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 4000)
            elif way == "silent":
                time.sleep(3 * PATIENCE)
            elif way == "an error":
                self.send_error(500)
            elif way == "a page":
                self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Please log in</html>")
            else:
                self.wfile.write(b"220 mail.example.org ESMTP\r\n")

    def slowly(self, first: bytes, rest: bytes) -> None:
        self.wfile.write(first)
        for i in range(len(rest)):
            self.wfile.write(rest[i : i + 1])
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Unwilling)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_fails(fault: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell) -> None:
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "store"))
    monkeypatch.setattr(downloads, "PATIENCE_SECONDS", PATIENCE)
    origin = downloads.Origin((f"{server}/{fault.replace(' ', '%20')}/part",))
    file = downloads.RemoteFile("set/part", "made-up bytes", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), origin)
    began = time.monotonic()
    with pytest.raises(DataUnavailable) as caught:
        downloads.fetch([file], "made_up")
    assert time.monotonic() - began < 10 * PATIENCE
    assert "\n" not in str(caught.value) and "set/part" in str(caught.value)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    tell(
        f"a download is {fault}" if fault in ("cut", "wrong", "longer", "slow", "silent") else f"a download: {fault}",
        f"the server sends {FAULTS[fault]}",
        "the next mirror is asked; one line where none is left; no file is written",
        downloads.DataUnavailable.exit_code,
    )
