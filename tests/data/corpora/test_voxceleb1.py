"""VoxCeleb1: identification by the flags of its list, verification by its trials, dev from the training speakers."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fithubert.config.base import validate
from fithubert.config.data import VoxCelebData
from fithubert.data.corpora.registry import read_corpus
from fithubert.data.corpora.voxceleb1 import read_voxceleb1
from fithubert.data.manifest import Manifest, load_manifest
from fithubert.errors import UserError
from tests.data.corpora.miniatures import write_audio, write_text, write_voxceleb1


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


def test_a_manifest_with_trials_is_read_back(root: Path, tmp_path: Path) -> None:
    manifest = read(root, "asv")
    manifest.save(tmp_path / "data" / "manifests" / "corpus.parquet")
    assert load_manifest(tmp_path / "data" / "manifests" / "corpus.parquet") == manifest


def test_one_merged_folder_is_the_same_corpus(root: Path) -> None:
    tasks = {task: [(u.id, u.split) for u in read(root, task)] for task in ("sid", "asv")}
    inner = root / "VoxCeleb1"
    for split in ("dev", "test"):
        shutil.copytree(inner / split / "wav", inner / "wav", dirs_exist_ok=True)
        shutil.rmtree(inner / split)
    (inner / "veri_test_class.txt").rename(inner / "iden_split.txt")
    assert {task: [(u.id, u.split) for u in read(root, task)] for task in tasks} == tasks


def test_what_is_missing_or_broken_is_one_line(root: Path, tmp_path: Path) -> None:
    inner = root / "VoxCeleb1"

    def expect(task: str, said: str) -> None:
        with pytest.raises(UserError, match=said) as error:
            read(root, task)
        assert "\n" not in str(error.value)

    listed = (inner / "voxceleb1_test_v2.txt").read_text().splitlines()
    write_text(
        inner / "voxceleb1_test_v2.txt", *listed, "1 id10270/aaaaaaaaaaa/00001.wav id10271/ccccccccccc/00001.wav"
    )
    expect("asv", "contradicts its speakers")
    write_text(inner / "voxceleb1_test_v2.txt", "1 id10270/aaaaaaaaaaa/00001.wav")
    expect("asv", "is not `0|1")
    (inner / "voxceleb1_test_v2.txt").unlink()
    expect("asv", r"voxceleb1_test_v2.txt: no such file; the trial list comes from https://www.openslr.org/49")
    (inner / "dev" / "wav" / "id10002" / "bbbbbbbbbbb" / "00002.wav").unlink()
    expect("sid", r"id10002/bbbbbbbbbbb/00002.wav: no such audio file; VoxCeleb1 comes from")
    shutil.rmtree(inner / "dev" / "wav" / "id10002")
    expect("sid", r"names id10002/aaaaaaaaaaa/00001.wav, and there is no folder id10002")
    write_text(inner / "veri_test_class.txt", "1 id10001/../secret.wav")
    expect("sid", r"id10001/../secret.wav: leads out of its folder")
    write_text(inner / "veri_test_class.txt", "4 id10001/aaaaaaaaaaa/00001.wav")
    expect("sid", r"is not `1|2|3")
    (inner / "veri_test_class.txt").unlink()
    expect("sid", r"iden_split.txt: no such file; the identification list comes from .*/meta/iden_split.txt")
    shutil.rmtree(inner / "test")
    expect("sid", r"test/wav: no such folder")


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
