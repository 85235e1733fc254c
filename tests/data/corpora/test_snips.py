"""Audio SNIPS: voices of their own in each split, slots as longest runs, 109 outputs for 39 types."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.layout import Layout
from fithubert.data.corpora.snips import VOICES, _parse, read_snips
from fithubert.data.manifest import Manifest, Slot
from fithubert.errors import UserError
from tests.data.corpora.miniatures import SLOT_TYPES, write_snips, write_text


def read(path: Path) -> Manifest:
    return read_snips(PlainCorpus(source="snips", path=path)).manifest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_snips(tmp_path / "corpora")


def test_each_split_has_voices_of_its_own(root: Path) -> None:
    manifest = read(root)
    assert manifest.count_by("split", "kind") == {"train/command": 6, "dev/command": 6, "test/command": 6}
    assert manifest.select("train").speakers == ("Ivy", "Salli")
    assert sum(len(voices) for _, voices in VOICES.values()) == 16
    assert len(manifest.read(manifest.utterances[0])) == manifest.utterances[0].num_samples


def test_slots_are_longest_runs_of_one_label(root: Path) -> None:
    commands = {u.id: u for u in read(root)}
    first, second = commands["Ivy-snips-train-0"], commands["Ivy-snips-train-1"]
    assert first.words == ("play", "jazz", "please")
    assert first.slots == (Slot("genre", "jazz", 1, 1),)
    assert second.text == "add rock and roll to my list"
    assert second.slots == (
        Slot("genre", "rock and roll", 1, 3),
        Slot("owner", "my", 5, 1),
        Slot("playlist", "list", 6, 1),
    )


def test_the_label_space_is_the_corpus_s_own(root: Path) -> None:
    assert len(read(root).inventories["slots"]) + 1 == 28 + 2 * len(SLOT_TYPES) + 3
    write_text(root / "SNIPS" / "slots.txt", "O", *SLOT_TYPES, *(f"type{number}" for number in range(33)))
    assert len(read(root).inventories["slots"]) + 1 == 109


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["five", "old", "&", ",", "?"]), st.sampled_from(["O", "time", "city"]))))
def test_slots_point_at_their_words_and_cover_every_labelled_one(tokens: list[tuple[str, str]]) -> None:
    layout = Layout(Path("x"), "Audio SNIPS", "nowhere")
    words, slots = _parse(layout, "n", [t for t, _ in tokens], [label for _, label in tokens], ["time", "city"])
    kept = [("and" if token == "&" else token, label) for token, label in tokens if token not in ",?"]
    assert list(words) == [word for word, _ in kept]
    labels = ["O"] * len(words)
    for slot in slots:
        assert slot.value == " ".join(words[slot.first_word : slot.first_word + slot.num_words])
        labels[slot.first_word : slot.first_word + slot.num_words] = [slot.name] * slot.num_words
    assert labels == [label for _, label in kept]


def test_what_is_missing_or_broken_is_one_line(root: Path) -> None:
    inner = root / "SNIPS"

    def expect(said: str) -> None:
        with pytest.raises(UserError, match=said) as error:
            read(root)
        assert "\n" not in str(error.value)

    write_text(inner / "slots.txt", "O", "genre", "owner", "playlist", "number")
    expect(r"slots.txt: lacks the slot 'time' of Ivy-snips-train-2; get it again from https://github.com/aws-samples")
    write_text(inner / "slots.txt", "O", *SLOT_TYPES)
    (inner / "all.iob.snips.txt").write_text("Ivy-snips-train-0 BOS go EOS\tO O\n")
    expect(r"the line of Ivy-snips-train-0 is not `NAME BOS WORDS")
    (inner / "all.iob.snips.txt").write_text("Ivy-snips-train-0 BOS go EOS\tO O X\n")
    expect(r"all.iob.snips.txt: has no line for Ivy-snips-train-1")
    (inner / "all.iob.snips.txt").unlink()
    expect(r"all.iob.snips.txt: no such file; Audio SNIPS comes from")
    (inner / "slots.txt").unlink()
    expect(r"slots.txt: no such file")
    shutil.rmtree(inner / "valid")
    write_snips(root)
    for path in (inner / "valid").iterdir():
        path.rename(path.with_suffix(".mp3"))
    expect(r"SNIPS/valid: holds no wav files of Aditi, Amy")
