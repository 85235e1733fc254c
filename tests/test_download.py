"""Downloads are whole or absent, and go on where they were interrupted."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fithubert.download import download
from fithubert.errors import UserError

CONTENT = bytes(range(256)) * 2000


class Server(HTTPServer):
    """Serves CONTENT; breaks off after `break_after` bytes of an answer, and knows ranges where `ranges`."""

    break_after: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if self.path != "/file":
            self.send_error(404)
        elif begin >= len(CONTENT):
            self.send_error(416)
        else:
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(CONTENT) - begin))
            self.end_headers()
            self.wfile.write(CONTENT[begin:][: self.server.break_after])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def address(server: Server, name: str = "file") -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.break_after, server.ranges = 100_000, ranges
    with pytest.raises(UserError, match=r"ended after 100,000 of 512,000 bytes; the same command goes on"):
        download(address(server), tmp_path / "there" / "file")
    assert not (tmp_path / "there" / "file").exists()
    server.break_after = None
    download(address(server), tmp_path / "there" / "file", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "there" / "file").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


def test_a_complete_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(CONTENT)
    download(address(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another SHA-256"):
        download(address(server), tmp_path / "file", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/absent: cannot be downloaded \(HTTP Error 404"):
        download(address(server, "absent"), tmp_path / "file")
