"""Speech Commands: the hash split, twelve classes, silence from noise, the separate test set."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.speech_commands import list_archives, read_speech_commands, split_of_speaker
from fithubert.data.manifest import Manifest
from fithubert.data.utterance import KEYWORDS, OTHER_WORD, SILENCE
from fithubert.errors import UserError
from tests.data.corpora.miniatures import write_speech_commands


def read(path: Path) -> Manifest:
    return read_speech_commands(PlainCorpus(source="speech_commands", path=path)).manifest


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech_commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def manifest(root: Path) -> Manifest:
    return read(root)


def test_every_split_has_the_twelve_classes(manifest: Manifest) -> None:
    counts = {split: Counter(u.keyword for u in manifest.select(split)) for split in ("train", "dev", "test")}
    # Two training speakers, one dev speaker; three whole seconds of two noises, in dev half a second later.
    assert counts["train"] == {**dict.fromkeys(KEYWORDS, 2), OTHER_WORD: 4, SILENCE: 6}
    assert counts["dev"] == {**dict.fromkeys(KEYWORDS, 1), OTHER_WORD: 2, SILENCE: 4}
    assert counts["test"] == dict.fromkeys((*KEYWORDS, OTHER_WORD, SILENCE), 2)


def test_speakers_of_train_and_dev_differ_and_a_tenth_is_left_out(manifest: Manifest) -> None:
    assert manifest.select("train").speakers == ("00001eef", "00003dde")
    assert manifest.select("dev").speakers == ("0003fccf",)
    assert split_of_speaker("00005ccd_nohash_3.wav") is None
    splits = Counter(split_of_speaker(f"{number:08x}_nohash_0.wav") for number in range(4000))
    shares = {split: count / 4000 for split, count in splits.items()}
    assert shares == pytest.approx({"train": 0.8, "dev": 0.1, None: 0.1}, abs=0.02)


def test_silence_is_a_second_of_a_noise_file(root: Path, manifest: Manifest) -> None:
    silence = [u for u in manifest.select("dev") if u.keyword == SILENCE]
    assert {u.first_sample for u in silence} == {8000, 24000}
    for utterance in silence:
        whole, _ = soundfile.read(root / utterance.audio, dtype="float32")
        first = utterance.first_sample or 0
        torch.testing.assert_close(manifest.read(utterance), torch.from_numpy(whole[first : first + 16_000]))
    assert all(u.num_samples == 16_000 and u.speaker is None for u in silence)


def test_names_that_end_twice_are_kept_apart(manifest: Manifest) -> None:
    ids = [u.id for u in manifest.select("test") if u.keyword == "yes"]
    assert [i.rsplit("/", 1)[1] for i in ids] == ["1b4c9b89_nohash_0", "1b4c9b89_nohash_1.wav"]
    assert {u.speaker for u in manifest.select("test") if u.keyword != SILENCE} == {"1b4c9b89"}


@pytest.mark.parametrize(
    "missing",
    [
        "speech_commands_v0.01",
        "speech_commands_v0.01/_background_noise_",
        "speech_commands_v0.01/left",
        "speech_commands_test_set_v0.01",
        "speech_commands_test_set_v0.01/_silence_",
    ],
)
def test_a_missing_folder_is_named_with_where_it_comes_from(tmp_path: Path, missing: str) -> None:
    root = write_speech_commands(tmp_path)
    shutil.rmtree(root / missing)
    with pytest.raises(UserError, match=rf"{missing}.*: no such folder; Speech Commands v0.01 comes from .*download"):
        read(root)


def test_the_first_archive_has_a_published_digest() -> None:
    first, second = list_archives(PlainCorpus(source="speech_commands", path=Path("x")))
    assert len(first.sha256 or "") == 64
    assert second.sha256 is None
    assert [a.url.rsplit("/", 1)[1] for a in (first, second)] == [f"{a.folder}.tar.gz" for a in (first, second)]
