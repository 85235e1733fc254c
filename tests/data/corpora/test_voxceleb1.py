"""VoxCeleb1: identification by the flags of its list, verification by its trials, dev from the training speakers."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from fithubert.config.corpora import VoxCelebData
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
