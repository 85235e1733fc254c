"""IEMOCAP: folds by session, four emotions, the official dev split by the order of its lists."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from fithubert.config.data import IemocapData
from fithubert.data.corpora.iemocap import read_iemocap
from fithubert.errors import UserError
from fithubert.files import read_json
from tests.data.corpora.miniatures import write_iemocap, write_text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # A name that public readers stumble over.
    return write_iemocap(tmp_path / "Session-corpora")


@pytest.mark.parametrize("fold", range(1, 6))
def test_the_fold_s_session_is_test(root: Path, fold: int) -> None:
    manifest = read_iemocap(IemocapData(path=root, fold=fold)).manifest
    assert manifest.count_by("split") == {"train": 32, "dev": 8, "test": 10}
    assert manifest.select("test").speakers == (f"Ses0{fold}F", f"Ses0{fold}M")
    assert len(manifest.speakers) == 10
    assert Counter(u.style for u in manifest) == {"neutral": 10, "happy": 20, "angry": 10, "sad": 10}


def test_excitement_is_happiness_and_the_speaker_is_who_speaks(root: Path) -> None:
    manifest = read_iemocap(IemocapData(path=root)).manifest
    excited = next(u for u in manifest if u.id == "Ses02F_impro01_M000")
    assert (excited.style, excited.speaker) == ("happy", "Ses02M")
    assert not any(u.id.endswith("M002") for u in manifest)
    assert len(manifest.read(excited)) == excited.num_samples


def test_the_dev_split_is_drawn_as_torch_draws_it_from_the_official_order(root: Path) -> None:
    lists = root / "meta_data"
    corpus = read_iemocap(IemocapData(path=root, fold=2, lists=lists))
    official = [row["path"] for row in read_json(lists / "Session2" / "train_meta_data.json")["meta_data"]]
    torch.manual_seed(0)
    train, dev = torch.utils.data.random_split(official, [32, 8])  # type: ignore[arg-type]
    assert {u.audio for u in corpus.manifest.select("train")} == set(train)
    assert {u.audio for u in corpus.manifest.select("dev")} == set(dev)
    assert corpus.skipped == ()
    by_path = read_iemocap(IemocapData(path=root, fold=2))
    assert {u.audio for u in by_path.manifest.select("dev")} != set(dev)
    assert "not the official split" in by_path.skipped[0].reason


def test_what_is_missing_or_broken_is_one_line(root: Path, tmp_path: Path) -> None:
    inner, lists = root / "IEMOCAP", root / "meta_data"

    def expect(said: str, **options: object) -> None:
        with pytest.raises(UserError, match=said) as error:
            read_iemocap(IemocapData(path=root, **options))
        assert "\n" not in str(error.value)

    write_text(lists / "Session1" / "train_meta_data.json", '{"meta_data": [{"path": "Session2/other.wav"}]}')
    expect(r"train_meta_data.json: names Session2/other.wav", lists=lists)
    write_text(lists / "Session1" / "train_meta_data.json", '{"meta_data": [{}]}')
    expect(r"train_meta_data.json: has no `meta_data`", lists=lists)
    expect(r"Session1/train_meta_data.json: no such file; the order of the official split comes from", lists=tmp_path)
    next((inner / "Session3").rglob("*_F000.wav")).unlink()
    expect(r"F000.wav: no such audio file; IEMOCAP comes from https://sail.usc.edu/iemocap")
    for path in (inner / "Session4" / "dialog" / "EmoEvaluation").iterdir():
        path.unlink()
    expect(r"Session4/dialog/EmoEvaluation: holds no txt files")
    shutil.rmtree(inner / "Session5")
    (inner / "Session4").rename(inner / "Session5")
    expect(r"Session4/dialog/EmoEvaluation: no such folder")
