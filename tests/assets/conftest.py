"""A file server on the loopback with every fault a real one can have, and small assets to fetch from it."""

from __future__ import annotations

import hashlib
import http.server
import threading
import time
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from crystalfm.assets.registry import Asset, read_asset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class FileServer:
    """Files by path, faults to play, and a log of what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)  # played before anything else, one a request
    truncate_at: list[int] = field(default_factory=list)  # bodies cut after so many bytes, one a request
    stall_at: int | None = None  # bodies stop after so many bytes until `resume` is set
    delay_seconds: float = 0.0
    etag: bool = True
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    resume: threading.Event = field(default_factory=threading.Event)
    base: str = ""

    @property
    def asked(self) -> list[str]:
        return [path for path, _ in self.requests]


class _Handler(http.server.BaseHTTPRequestHandler):
    play: FileServer

    def log_message(self, *args: Any) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        play = self.play
        span = self.headers.get("Range")
        play.requests.append((self.path, span))
        time.sleep(play.delay_seconds)
        if play.statuses:
            self.send_error(play.statuses.pop(0))
            return
        content = play.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        etag = f'"{sha256(content)[:16]}"'
        start = 0
        if span is not None and play.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(span.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if play.etag:
            self.send_header("ETag", etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self._body(content, start)

    def _body(self, content: bytes, start: int) -> None:
        play = self.play
        end = len(content)
        if play.truncate_at:
            end = min(end, start + play.truncate_at.pop(0))
        if play.stall_at is not None and start < play.stall_at < end:
            self.wfile.write(content[start : play.stall_at])
            self.wfile.flush()
            play.resume.wait(20)
            start = play.stall_at
        try:
            self.wfile.write(content[start:end])
        except ConnectionError:
            self.close_connection = True  # the reader was killed


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    play = FileServer()
    handler = type("Handler", (_Handler,), {"play": play})
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    play.base = f"http://127.0.0.1:{httpd.server_address[1]}/"
    yield play
    play.resume.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def content() -> bytes:
    return bytes(range(256)) * 4096  # one MiB, every byte value


@pytest.fixture
def url_table(server: FileServer, content: bytes) -> dict[str, Any]:
    """The registry table of a one-file asset that the server offers."""
    server.files["/data.bin"] = content
    return {
        "kind": "data",
        "title": "test data",
        "licence": "CC0",
        "citation": "nobody",
        "files": [{"name": "data.bin", "size": len(content), "sha256": sha256(content)}],
        "url": {"base": server.base},
    }


@pytest.fixture
def url_asset(url_table: dict[str, Any]) -> Asset:
    return read_asset("tiny", url_table)


@pytest.fixture
def make_wheel() -> Callable[..., Path]:
    """Write a small but installable-looking wheel ``tinydata 1.0``."""

    def make(folder: Path, members: dict[str, bytes]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tinydata-1.0-py3-none-any.whl"
        info = "tinydata-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return path

    return make


@pytest.fixture
def wheel_asset() -> Callable[..., Asset]:
    """Describe an asset that lies inside a wheel."""

    def describe(wheel: Path, files: dict[str, bytes], **changes: Any) -> Asset:
        place = {
            "distribution": "tinydata",
            "version": "1.0",
            "filename": wheel.name,
            "size": wheel.stat().st_size,
            "sha256": sha256(wheel.read_bytes()),
            "folder": "tinydata/data/",
        }
        table = {
            "kind": "weights",
            "title": "test weights",
            "licence": "MIT",
            "citation": "nobody",
            "files": [{"name": n, "size": len(d), "sha256": sha256(d)} for n, d in files.items()],
            "wheel": {**place, **changes},
        }
        return read_asset("tiny", table)

    return describe


@pytest.fixture
def hub_asset() -> Asset:
    table = {
        "kind": "weights",
        "title": "test model",
        "licence": "MIT",
        "citation": "nobody",
        "files": [{"name": "config.json"}],
        "hub": {"repo": "someone/tiny-model", "approx_bytes": 100},
    }
    return read_asset("tiny", table)
