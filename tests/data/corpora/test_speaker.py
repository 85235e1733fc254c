"""VoxCeleb1 by its lists and trials, dev from the training speakers; Libri2Mix with the turns of RTTM or segments."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fithubert.config.base import validate
from fithubert.config.data import Libri2MixData, VoxCelebData
from fithubert.data.corpora.speaker import read_libri2mix, read_voxceleb1
from fithubert.data.manifest import Manifest
from fithubert.data.prepare import read_corpus
from fithubert.errors import UserError
from tests.data.corpora.miniatures import write_audio, write_libri2mix, write_voxceleb1


def read(path: Path, task: str) -> Manifest:
    return read_voxceleb1(VoxCelebData(path=path, task=task)).manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_voxceleb1(tmp_path / "corpora")


def test_identification_follows_the_flags_over_all_speakers(root: Path) -> None:
    manifest = read(root, "sid")
    assert manifest.count_by("split") == {"train": 12, "dev": 12, "test": 12}
    assert len(manifest.select("train").speakers) == 6
    assert {u.id.split("/")[1] for u in manifest.select("test")} == {"ccccccccccc"}
    assert all(u.speaker == u.id[:7] for u in manifest)
    assert len(manifest.read(manifest.utterances[0])) == manifest.utterances[0].num_samples


def test_verification_trains_on_every_speaker_of_dev_and_tries_the_listed_pairs(root: Path) -> None:
    manifest = read(root, "asv")
    assert manifest.select("train").speakers == ("id10001", "id10002", "id10003", "id10004")
    assert manifest.select("verification").speakers == ("id10270", "id10271")
    trials = {u.id: u.trials for u in manifest.select("verification") if u.trials}
    assert trials == {
        "id10270/aaaaaaaaaaa/00001": ("id10270/bbbbbbbbbbb/00002", "id10271/aaaaaaaaaaa/00001"),
        "id10271/aaaaaaaaaaa/00001": ("id10271/ccccccccccc/00001", "id10270/aaaaaaaaaaa/00001"),
    }


def test_dev_trials_are_balanced_and_between_videos_that_training_lacks(root: Path) -> None:
    manifest = read(root, "asv")
    by_id = {u.id: u for u in manifest}
    trained = {u.id.rsplit("/", 1)[0] for u in manifest.select("train")}
    same = Counter()
    for utterance in manifest.select("dev"):
        assert utterance.id.rsplit("/", 1)[0] not in trained
        for other in utterance.trials or ():
            assert by_id[other].split == "dev"
            assert other.rsplit("/", 1)[0] != utterance.id.rsplit("/", 1)[0]
            same[by_id[other].speaker == utterance.speaker] += 1
    assert same[True] == same[False] == 8
    assert read(root, "asv") == manifest


def test_one_merged_folder_is_the_same_corpus(root: Path) -> None:
    tasks = {task: [(u.id, u.split) for u in read(root, task)] for task in ("sid", "asv")}
    inner = root / "VoxCeleb1"
    for split in ("dev", "test"):
        shutil.copytree(inner / split / "wav", inner / "wav", dirs_exist_ok=True)
        shutil.rmtree(inner / split)
    (inner / "veri_test_class.txt").rename(inner / "iden_split.txt")
    assert {task: [(u.id, u.split) for u in read(root, task)] for task in tasks} == tasks


@pytest.mark.parametrize("task", ["sid", "asv"])
def test_long_recordings_of_train_become_crops(root: Path, task: str) -> None:
    long = "id10001/aaaaaaaaaaa/00001"
    write_audio(root / "VoxCeleb1" / "dev" / "wav" / f"{long}.wav", 9.0)
    whole = read(root, task)
    cropped = read_voxceleb1(VoxCelebData(path=root, task=task, crops=3)).manifest
    crops = [u for u in cropped if u.id.startswith(long)]
    if next(u for u in whole if u.id == long).split != "train":
        assert cropped == whole
        return
    assert [u.id for u in crops] == [f"{long}/crop{k}" for k in range(3)]
    assert {(u.num_samples, u.split, u.speaker) for u in crops} == {(128_000, "train", "id10001")}
    assert len({u.first_sample for u in crops}) == 3
    recording = whole.read(next(u for u in whole if u.id == long))
    for u in crops:
        assert u.first_sample is not None
        assert (cropped.read(u) == recording[u.first_sample :][:128_000]).all()
    assert [u for u in cropped if u not in crops] == [u for u in whole if u.id != long]
    assert read_voxceleb1(VoxCelebData(path=root, task=task, crops=3)).manifest == cropped


def test_silences_are_cut_out_of_verification(root: Path, tmp_path: Path) -> None:
    """The middle second of every file is silent; what is short then is left out, and long recordings are crops."""
    for path in (root / "VoxCeleb1").rglob("*.wav"):
        samples, rate = soundfile.read(write_audio(path, 3.6, seed=int(path.parts[-3][-3:])))
        samples[20_000:36_000] = 0
        soundfile.write(path, samples, rate, subtype="PCM_16")
    whole = read_corpus(VoxCelebData(path=root, task="asv")).manifest
    trained = whole.select("train").utterances
    short, long = (Path(root / "VoxCeleb1" / u.audio) for u in (trained[0], trained[1]))
    held_out = Path(root / "VoxCeleb1" / whole.select("dev").utterances[1].audio)
    write_audio(short, 1.9)
    write_audio(held_out, 1.9)
    write_audio(long, 11.0)
    corpus = read_corpus(VoxCelebData(path=root, task="asv", gain_db=-3.0, trim_silence=True, crops=2))
    manifest = corpus.manifest
    assert {u.trimmed for u in manifest} == {True}
    by_id = {u.id: u for u in manifest}
    assert set(by_id) == {u.id for u in whole} - {
        trained[0].id, trained[1].id, whole.select("dev").utterances[1].id
    } | {f"{trained[1].id}/crop{k}" for k in range(2)}  # fmt: skip
    assert all(trial in by_id for u in manifest for trial in u.trials or ())
    assert "at most 2 s without its silences (2 such recordings" in corpus.skipped[0].reason
    for utterance in manifest:
        assert len(manifest.read(utterance)) == utterance.num_samples
        crop = "/crop" in utterance.id
        assert utterance.num_samples == 128_000 if crop else 41_000 < utterance.num_samples < 44_000
    other = read_corpus(VoxCelebData(path=root, task="asv", gain_db=-3.0)).manifest
    assert other.fingerprint != manifest.fingerprint
    tried = Path(root / "VoxCeleb1" / manifest.select("verification").utterances[0].audio)
    soundfile.write(tried, np.zeros(16_000), 16_000)
    with pytest.raises(UserError, match="is silent; get it again"):
        read_corpus(VoxCelebData(path=root, task="asv", trim_silence=True))
    with pytest.raises(UserError, match="trim_silence: SUPERB's sid keeps silences"):
        validate(VoxCelebData, {"path": root, "task": "sid", "trim_silence": True}, "params")


def read_mixtures(path: Path, labels: Path | None = None) -> Manifest:
    return read_libri2mix(Libri2MixData(path=path, labels=labels)).manifest


@pytest.fixture
def mixtures(tmp_path: Path) -> Path:
    return write_libri2mix(tmp_path / "corpora")


def test_mixtures_have_two_speakers_and_their_turns(mixtures: Path) -> None:
    manifest = read_mixtures(mixtures)
    assert manifest.count_by("split", "kind") == {"train/mixture": 4, "dev/mixture": 4, "test/mixture": 4}
    mixture = next(u for u in manifest.select("train") if u.id == "20-1-0000_85-2-0001")
    assert [(t.speaker, t.start_seconds, pytest.approx(t.end_seconds)) for t in mixture.turns or ()] == [
        ("20", 0.05, 0.7),
        ("85", 0.4, 1.1),
    ]
    assert mixture.speaker is None
    assert mixture.audio == "wav16k/max/train-100/mix_both/20-1-0000_85-2-0001.wav"
    assert mixture.num_samples == len(manifest.read(mixture)) == 19_200


def test_segments_say_what_the_rttm_says(mixtures: Path) -> None:
    by_rttm = read_mixtures(mixtures)
    for path in mixtures.rglob("rttm"):
        path.unlink()
    by_segments = read_mixtures(mixtures)
    for ours, theirs in zip(by_rttm, by_segments, strict=True):
        pairs = zip(ours.turns or (), theirs.turns or (), strict=True)
        assert all(a.speaker == b.speaker and a.end_seconds == pytest.approx(b.end_seconds) for a, b in pairs)


def test_labels_may_lie_elsewhere_and_the_corpus_may_move(mixtures: Path, tmp_path: Path) -> None:
    before = read_mixtures(mixtures)
    (mixtures / "Libri2Mix" / "data").rename(tmp_path / "labels")
    moved = mixtures.rename(tmp_path / "moved")
    assert read_mixtures(moved, tmp_path / "labels").utterances == before.utterances


def test_audio_outside_the_corpus_is_where_wav_scp_says(mixtures: Path, tmp_path: Path) -> None:
    (mixtures / "Libri2Mix" / "wav16k").rename(tmp_path / "wav16k")
    for path in mixtures.rglob("wav.scp"):
        path.write_text(path.read_text().replace(f"{mixtures}/Libri2Mix", str(tmp_path)))
    manifest = read_mixtures(mixtures)
    assert manifest.utterances[0].audio.startswith(f"{tmp_path}/wav16k")
    assert len(manifest.read(manifest.utterances[0])) == 19_200
