"""Fluent Speech Commands: published splits, intents, and one line for whatever is missing."""

import shutil
from pathlib import Path

import pytest

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.fluent_speech_commands import read_fluent_speech_commands
from fithubert.data.manifest import Intent, Manifest
from fithubert.errors import UserError
from tests.data.corpora.miniatures import write_fluent_speech_commands, write_text


def read(path: Path) -> Manifest:
    return read_fluent_speech_commands(PlainCorpus(source="fluent_speech_commands", path=path)).manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_fluent_speech_commands(tmp_path / "corpora")


def test_commands_have_their_intents_and_splits(root: Path) -> None:
    manifest = read(root)
    assert manifest.count_by("split", "kind") == {"train/command": 8, "dev/command": 8, "test/command": 8}
    assert [manifest.select(split).speakers for split in ("train", "dev", "test")] == [("spk0",), ("spk1",), ("spk2",)]
    command = next(u for u in manifest if u.id == "train-3")
    assert command.intent == Intent("activate", "music", "none")
    assert command.text == "switch the music on please"
    assert [len({getattr(u.intent, slot) for u in manifest}) for slot in ("action", "object", "location")] == [3, 3, 2]
    assert len(manifest.read(command)) == command.num_samples
    assert read(root / "fluent_speech_commands_dataset") == manifest


def test_what_is_missing_or_broken_is_one_line(root: Path, tmp_path: Path) -> None:
    inner = root / "fluent_speech_commands_dataset"

    def expect(said: str, path: Path = root) -> None:
        with pytest.raises(UserError, match=said) as error:
            read(path)
        assert "\n" not in str(error.value)

    (inner / "wavs" / "speakers" / "spk1" / "valid-4.wav").unlink()
    expect(r"spk1/valid-4.wav: no such audio file; Fluent Speech Commands comes from https://fluent.ai")
    write_text(inner / "data" / "test_data.csv", ",path,speakerId,transcription,action", "0,wavs/x.wav,spk2,Go,go")
    expect(r"test_data.csv: not the list that was published")
    (inner / "data" / "valid_data.csv").unlink()
    expect(r"data/valid_data.csv: no such file; Fluent Speech Commands comes from")
    shutil.rmtree(inner)
    expect(r"fluent_speech_commands_dataset: no such folder")
