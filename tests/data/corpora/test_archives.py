"""Archives from a local server: resumed, verified, unpacked whole or not at all, and never outside their folder."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fithubert.config.data import LibriSpeechData
from fithubert.config.params import Params
from fithubert.data.corpora import Archive, content, fetch_archive
from fithubert.data.corpora.content import LEXICON_FILES
from fithubert.data.prepare import download_corpus
from fithubert.errors import UserError
from fithubert.stages.prepare import prepare
from fithubert.workspace import Workspace
from tests.data.corpora.miniatures import write_librispeech, write_text
from tests.http_server import Server, serve

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as running:
        yield running


def archive_of(
    server: Server, name: str, member: str = "", folder: str = "corpus", sha256: str | None = None
) -> Archive:
    digest = hashlib.sha256(server.files[name]).hexdigest()
    return Archive(f"{server.address}/{name}", sha256 or digest, member, folder)


def pack(**files: bytes) -> bytes:
    """A tar.gz of these files; `__` in a name stands for `/`, and `UP` for `..`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/").replace("UP", ".."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def pack_link(name: str, to: str) -> bytes:
    """A tar.gz of a link to a file, and of a file that is written through it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, to
        tar.addfile(member)
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return packed.getvalue()


def pack_folder(folder: Path, name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(folder, name)
    return packed.getvalue()


def test_an_interrupted_download_goes_on_and_is_unpacked(server: Server, tmp_path: Path) -> None:
    server.files["a.tar.gz"] = pack(Top__sub__one=bytes(range(256)) * 20, Top__README=b"not wanted")
    archive = archive_of(server, "a.tar.gz", "Top/sub", "Top/sub")
    server.break_after = 100
    with pytest.raises(UserError, match="the same command resumes there"):
        fetch_archive(archive, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz.partial"]
    server.break_after = None
    assert fetch_archive(archive, tmp_path) == tmp_path / "Top" / "sub"
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == ["Top/sub/one"]
    assert server.asked == [("a.tar.gz", None), ("a.tar.gz", "bytes=100-")]
    fetch_archive(archive, tmp_path)
    assert len(server.asked) == 2


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["a.tar.gz"] = pack(one=b"1")
    with pytest.raises(UserError, match="wrong SHA-256"):
        fetch_archive(archive_of(server, "a.tar.gz", sha256="0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pack(one=bytes(5000))[:-9], id="truncated"),
        pytest.param(b"no archive", id="text"),
        pytest.param(pack(UP__evil=b"1"), id="escaping"),
        pytest.param(pack(good=b"1", sub__UP__UP__UP__evil=b"1"), id="escaping-from-within"),
        pytest.param(pack(__tmp__evil=b"1"), id="absolute"),
        pytest.param(pack_link("good", "../../evil"), id="link"),
    ],
)
def test_a_broken_or_escaping_archive_leaves_nothing(server: Server, tmp_path: Path, content: bytes) -> None:
    server.files["a.tar.gz"] = content
    with pytest.raises(UserError, match="not a sound archive"):
        fetch_archive(archive_of(server, "a.tar.gz"), tmp_path / "corpora")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert not (tmp_path / "corpora" / "corpus").exists()


def test_an_archive_without_its_folder_is_named(server: Server, tmp_path: Path) -> None:
    server.files["a.tar.gz"] = pack(Other__one=b"1")
    with pytest.raises(UserError, match="holds no Top/sub"):
        fetch_archive(archive_of(server, "a.tar.gz", "Top/sub"), tmp_path)
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("named", ["corpora", "corpora/LibriSpeech"])
def test_librispeech_is_downloaded_and_prepared(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    inner = write_librispeech(tmp_path / "original", utterances=1) / "LibriSpeech"
    for folder in inner.iterdir():
        server.files[f"{folder.name}.tar.gz"] = pack_folder(folder, f"LibriSpeech/{folder.name}")
    digests = {f"{server.address}/{n}": hashlib.sha256(c).hexdigest() for n, c in server.files.items()}
    for name in LEXICON_FILES:
        server.files[name] = (tmp_path / "original" / "lexicon" / name).read_bytes()
    monkeypatch.setattr(content, "_LEXICON_ADDRESS", server.address)
    monkeypatch.setattr(content, "_BOOKS_ADDRESS", server.address)
    monkeypatch.setattr(content.librispeech, "_CHECKSUMS", digests)
    params = Params(data=LibriSpeechData(path=tmp_path / named), students={}, superb={"models": ()})
    metrics = prepare(params, Workspace(tmp_path / "work"), download=True)
    assert metrics.utterances == 6
    assert metrics.skipped == ()
    assert sorted(p.name for p in (tmp_path / "corpora").iterdir()) == ["LibriSpeech", "lexicon"]
    assert len(server.asked) == 3 + 2
    download_corpus(params.data)
    assert len(server.asked) == 3 + 2


def test_an_interrupted_download_of_the_lexicon_resumes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_librispeech(tmp_path, utterances=1)
    contents = {name: (root / "lexicon" / name).read_bytes() for name in LEXICON_FILES}
    monkeypatch.setattr(content, "_LEXICON_ADDRESS", server.address)
    (root / "lexicon").rename(root / "elsewhere")
    config = LibriSpeechData(path=root / "LibriSpeech")
    with pytest.raises(UserError, match=r"404.*; put librispeech-lexicon-200k.* into .*/lexicon, or run without"):
        download_corpus(config)
    server.files |= contents
    server.break_after = 10
    with pytest.raises(UserError, match=r"the same command resumes there\); put"):
        download_corpus(config)
    server.break_after = None
    download_corpus(config)
    assert {p.name: p.read_bytes() for p in (root / "lexicon").iterdir()} == contents
    assert (LEXICON_FILES[0], "bytes=10-") in server.asked
    asked = len(server.asked)
    download_corpus(config.model_copy(update={"lexicon": root / "elsewhere"}))
    assert len(server.asked) == asked


def test_one_subset_is_downloaded_with_the_list_of_speakers(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = write_librispeech(tmp_path / "original", ("test-clean",), utterances=1)
    write_text(original / "LibriSpeech" / "SPEAKERS.TXT", "10 | F | test-clean | 8.0 | One")
    server.files["test-clean.tar.gz"] = pack_folder(original / "LibriSpeech", "LibriSpeech")
    for name in LEXICON_FILES:
        server.files[name] = (original / "lexicon" / name).read_bytes()
    monkeypatch.setattr(content, "_LEXICON_ADDRESS", server.address)
    monkeypatch.setattr(content, "_BOOKS_ADDRESS", server.address)
    monkeypatch.setattr(content.librispeech, "_CHECKSUMS", {})
    place = ["--source", "librispeech", "--path", str(tmp_path / "corpora"), "--subset", "test-clean"]
    pytest.importorskip("typer")
    from typer.testing import CliRunner

    from fithubert.cli import app

    done = CliRunner().invoke(
        app, ["--params", str(ROOT / "params.yaml"), "--workspace", str(tmp_path), "prepare", *place, "--download"]
    )
    assert (done.exit_code, done.output.splitlines()[-2:]) == (
        0,
        ["2 utterances, 0.00 h, 2 speakers", "test 2, 0.00 h"],
    )
    assert sorted(p.name for p in (tmp_path / "corpora" / "LibriSpeech").iterdir()) == ["SPEAKERS.TXT", "test-clean"]
    assert Workspace(tmp_path).load_manifest().count_by("split") == {"test": 2}
