"""Libri2Mix: mixtures with the turns of their RTTM or Kaldi segments, also after the corpus has moved."""

import shutil
from pathlib import Path

import pytest

from fithubert.config.data import Libri2MixData
from fithubert.data.corpora.libri2mix import read_libri2mix
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from tests.data.corpora.miniatures import write_libri2mix, write_text


def read(path: Path, labels: Path | None = None) -> Manifest:
    return read_libri2mix(Libri2MixData(path=path, labels=labels)).manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_libri2mix(tmp_path / "corpora")


def test_mixtures_have_two_speakers_and_their_turns(root: Path) -> None:
    manifest = read(root)
    assert manifest.count_by("split", "kind") == {"train/mixture": 4, "dev/mixture": 4, "test/mixture": 4}
    mixture = next(u for u in manifest.select("train") if u.id == "20-1-0000_85-2-0001")
    assert [(t.speaker, t.start_seconds, pytest.approx(t.end_seconds)) for t in mixture.turns or ()] == [
        ("20", 0.05, 0.7),
        ("85", 0.4, 1.1),
    ]
    assert mixture.speaker is None
    assert mixture.audio == "wav16k/max/train-100/mix_both/20-1-0000_85-2-0001.wav"
    assert mixture.num_samples == len(manifest.read(mixture)) == 19_200


def test_segments_say_what_the_rttm_says(root: Path) -> None:
    by_rttm = read(root)
    for path in root.rglob("rttm"):
        path.unlink()
    by_segments = read(root)
    for ours, theirs in zip(by_rttm, by_segments, strict=True):
        pairs = zip(ours.turns or (), theirs.turns or (), strict=True)
        assert all(a.speaker == b.speaker and a.end_seconds == pytest.approx(b.end_seconds) for a, b in pairs)


def test_labels_may_lie_elsewhere_and_the_corpus_may_move(root: Path, tmp_path: Path) -> None:
    before = read(root)
    (root / "Libri2Mix" / "data").rename(tmp_path / "labels")
    moved = root.rename(tmp_path / "moved")
    assert read(moved, tmp_path / "labels").utterances == before.utterances


def test_audio_outside_the_corpus_is_where_wav_scp_says(root: Path, tmp_path: Path) -> None:
    (root / "Libri2Mix" / "wav16k").rename(tmp_path / "wav16k")
    for path in root.rglob("wav.scp"):
        path.write_text(path.read_text().replace(f"{root}/Libri2Mix", str(tmp_path)))
    manifest = read(root)
    assert manifest.utterances[0].audio.startswith(f"{tmp_path}/wav16k")
    assert len(manifest.read(manifest.utterances[0])) == 19_200


def test_what_is_missing_or_broken_is_one_line(root: Path) -> None:
    inner = root / "Libri2Mix"

    def expect(said: str) -> None:
        with pytest.raises(UserError, match=said) as error:
            read(root)
        assert "\n" not in str(error.value)

    next((inner / "wav16k" / "max" / "dev").rglob("*.wav")).unlink()
    expect(r"dev/mix_both/.*wav: no such audio file; Libri2Mix comes from https://github.com/s3prl/LibriMix")
    write_text(inner / "data" / "dev" / "rttm", "SPEAKER 29-1-0000_94-2-0001 1 0.1")
    expect(r"dev/rttm: the line 'SPEAKER .*' does not give a speaker")
    write_text(inner / "data" / "dev" / "rttm", "SPEAKER 29-1-0000_94-2-0001 1 0.1 0.5 <NA> <NA> 29 <NA>")
    expect(r"dev/wav.scp: names 30-1-0000_95-2-0001, which has no turns")
    (inner / "data" / "train" / "wav.scp").unlink()
    expect(r"data/train/wav.scp: no such file; the Kaldi folder of Libri2Mix comes from .*prepare_diarization.py")
    shutil.rmtree(inner / "data")
    expect(r"data/train/segments: no such file")
