"""QUESST 2014: English queries and documents, matches by the ground truth, 8 kHz read at 16 kHz."""

import shutil
from pathlib import Path

import pytest

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.quesst14 import list_archives, read_quesst14
from fithubert.data.manifest import Manifest, load_manifest
from fithubert.errors import UserError
from tests.data.corpora.miniatures import write_quesst14, write_text


def read(path: Path) -> Manifest:
    return read_quesst14(PlainCorpus(source="quesst14", path=path)).manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_quesst14(tmp_path / "corpora")


def test_english_queries_know_their_documents(root: Path, tmp_path: Path) -> None:
    manifest = read(root)
    assert manifest.count_by("split", "kind") == {"dev/query": 2, "test/document": 5, "test/query": 2}
    matches = {u.id: u.matches for u in manifest if u.kind == "query"}
    assert matches["quesst14_dev_0001"] == ("quesst14_00001", "quesst14_00004")
    assert matches["quesst14_eval_0002"] == ("quesst14_00002",)
    manifest.save(tmp_path / "data" / "manifests" / "corpus.parquet")
    assert load_manifest(tmp_path / "data" / "manifests" / "corpus.parquet") == manifest


def test_the_archive_has_the_published_digest() -> None:
    (archive,) = list_archives(PlainCorpus(source="quesst14", path=Path("x")))
    assert archive.url.endswith("/quesst14Database.tgz")
    assert len(archive.sha256 or "") == 64


def test_lengths_are_those_at_16_khz(root: Path) -> None:
    manifest = read(root)
    assert {u.num_samples for u in manifest if u.kind == "document"} == {12_800}
    assert [len(manifest.read(u)) for u in manifest] == [u.num_samples for u in manifest]


def test_what_is_missing_or_broken_is_one_line(root: Path) -> None:
    inner = root / "quesst14Database"

    def expect(said: str) -> None:
        with pytest.raises(UserError, match=said) as error:
            read(root)
        assert "\n" not in str(error.value)

    (inner / "Audio" / "quesst14_00002.wav").unlink()
    expect(r"Audio/quesst14_00002.wav: no such audio file; QUESST 2014 comes from https://speech.fit.vutbr.cz")
    (inner / "scoring" / "groundtruth_quesst14_eval" / "quesst14_eval.rttm").unlink()
    expect(r"groundtruth_quesst14_eval/quesst14_eval.rttm: no such file")
    write_text(inner / "scoring" / "language_key_dev.lst", "quesst14Database/dev_queries/one.wav")
    expect(r"language_key_dev.lst: not lines of `FILE LANGUAGE`")
    (inner / "scoring" / "language_key_dev.lst").unlink()
    expect(r"scoring/language_key_dev.lst: no such file")
    shutil.rmtree(inner)
    expect(r"quesst14Database: no such folder")
