"""Downloads are whole or absent, and resume after an interruption."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fithubert.downloads import download
from fithubert.errors import UserError
from tests.http_server import Server, serve

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        running.files["file"] = CONTENT
        yield running


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_resumes(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.break_after, server.ranges = 100_000, ranges
    with pytest.raises(UserError, match=r"ended after 100,000 of 512,000 bytes; the same command resumes"):
        download(f"{server.address}/file", tmp_path / "there" / "file")
    assert not (tmp_path / "there" / "file").exists()
    server.break_after = None
    download(f"{server.address}/file", tmp_path / "there" / "file", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "there" / "file").read_bytes() == CONTENT
    assert server.asked == [("file", None), ("file", "bytes=100000-")]
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


def test_a_complete_part_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(CONTENT)
    download(f"{server.address}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_digest_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wrong SHA-256"):
        download(f"{server.address}/file", tmp_path / "file", "0" * 64)
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/absent: cannot be downloaded \(HTTP Error 404"):
        download(f"{server.address}/absent", tmp_path / "file")
