"""Fluent Speech Commands, Audio SNIPS and IEMOCAP: intents, slots as longest runs, and folds by session."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.data import IemocapData, PlainCorpus
from fithubert.data import Intent, Slot
from fithubert.data.corpora.semantics import (
    VOICES,
    parse_slots,
    read_fluent_speech_commands,
    read_iemocap,
    read_snips,
)
from fithubert.data.manifest import Manifest
from fithubert.files import read_json
from tests.data.corpora.miniatures import (
    SLOT_TYPES,
    write_fluent_speech_commands,
    write_iemocap,
    write_snips,
    write_text,
)


def read(path: Path) -> Manifest:
    return read_snips(PlainCorpus(source="snips", path=path)).manifest


def test_commands_have_their_intents_and_splits(tmp_path: Path) -> None:
    root = write_fluent_speech_commands(tmp_path)
    manifest = read_fluent_speech_commands(PlainCorpus(source="fluent_speech_commands", path=root)).manifest
    assert manifest.count_by("split", "kind") == {"train/command": 8, "dev/command": 8, "test/command": 8}
    assert [manifest.select(split).speakers for split in ("train", "dev", "test")] == [("spk0",), ("spk1",), ("spk2",)]
    command = next(u for u in manifest if u.id == "train-3")
    assert command.intent == Intent("activate", "music", "none")
    assert command.text == "switch the music on please"
    assert [len({getattr(u.intent, slot) for u in manifest}) for slot in ("action", "object", "location")] == [3, 3, 2]
    assert len(manifest.read(command)) == command.num_samples


def test_snips_has_voices_of_its_own_in_each_split_and_its_own_label_space(tmp_path: Path) -> None:
    manifest = read(write_snips(tmp_path))
    assert manifest.count_by("split", "kind") == {"train/command": 6, "dev/command": 6, "test/command": 6}
    assert manifest.select("train").speakers == ("Ivy", "Salli")
    assert sum(len(voices) for _, voices in VOICES.values()) == 16
    assert len(manifest.read(manifest.utterances[0])) == manifest.utterances[0].num_samples
    second = next(u for u in manifest if u.id == "Ivy-snips-train-1")
    assert second.text == "add rock and roll to my list"
    assert second.slots == (
        Slot("genre", "rock and roll", 1, 3), Slot("owner", "my", 5, 1), Slot("playlist", "list", 6, 1),
    )  # fmt: skip
    assert len(manifest.inventories["slots"]) + 1 == 28 + 2 * len(SLOT_TYPES) + 3
    write_text(tmp_path / "SNIPS" / "slots.txt", "O", *SLOT_TYPES, *(f"type{number}" for number in range(33)))
    assert len(read(tmp_path).inventories["slots"]) + 1 == 109


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["five", "old", "&", ",", "?"]), st.sampled_from(["O", "time", "city"]))))
def test_slots_point_at_their_words_and_cover_every_labelled_one(tokens: list[tuple[str, str]]) -> None:
    words, slots = parse_slots([token for token, _ in tokens], [label for _, label in tokens])
    kept = [("and" if token == "&" else token, label) for token, label in tokens if token not in ",?"]
    assert list(words) == [word for word, _ in kept]
    labels = ["O"] * len(words)
    for slot in slots:
        assert slot.value == " ".join(words[slot.first_word : slot.first_word + slot.num_words])
        labels[slot.first_word : slot.first_word + slot.num_words] = [slot.name] * slot.num_words
    assert labels == [label for _, label in kept]


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A name that public readers stumble over.
    return write_iemocap(tmp_path_factory.mktemp("Session-corpora"))


@pytest.mark.parametrize("fold", range(1, 6))
def test_the_fold_s_session_is_test_and_the_speaker_is_who_speaks(iemocap: Path, fold: int) -> None:
    manifest = read_iemocap(IemocapData(path=iemocap, fold=fold)).manifest
    assert manifest.count_by("split") == {"train": 32, "dev": 8, "test": 10}
    assert manifest.select("test").speakers == (f"Ses0{fold}F", f"Ses0{fold}M")
    assert len(manifest.speakers) == 10
    assert Counter(u.style for u in manifest) == {"neutral": 10, "happy": 20, "angry": 10, "sad": 10}
    excited = next(u for u in manifest if u.id == "Ses02F_impro01_M000")
    assert (excited.style, excited.speaker) == ("happy", "Ses02M")
    assert not any(u.id.endswith("M002") for u in manifest)
    assert len(manifest.read(excited)) == excited.num_samples


def test_the_dev_split_is_drawn_as_torch_draws_it_from_the_official_order(iemocap: Path) -> None:
    lists = iemocap / "meta_data"
    corpus = read_iemocap(IemocapData(path=iemocap, fold=2, lists=lists))
    official = [row["path"] for row in read_json(lists / "Session2" / "train_meta_data.json")["meta_data"]]
    torch.manual_seed(0)
    train, dev = torch.utils.data.random_split(official, [32, 8])  # type: ignore[arg-type]
    assert {u.audio for u in corpus.manifest.select("train")} == set(train)
    assert {u.audio for u in corpus.manifest.select("dev")} == set(dev)
    assert corpus.skipped == ()
    by_path = read_iemocap(IemocapData(path=iemocap, fold=2))
    assert {u.audio for u in by_path.manifest.select("dev")} != set(dev)
    assert "not the official split" in by_path.skipped[0].reason
