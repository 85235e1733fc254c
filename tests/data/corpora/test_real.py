"""Real speech: the splits and labels of every task, the audio that is made of it, and one line for what is missing."""

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from fithubert.config.data import RealData
from fithubert.config.params import load_params
from fithubert.config.superb import TaskBudget
from fithubert.data import Intent, Slot, Utterance
from fithubert.data.corpora.real import CMU_PHONES, EMOTIONS, FOLDS, pronounce, read_real
from fithubert.data.corpora.real_audio import find_speech
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.data.prepare import import_corpus
from fithubert.errors import UserError
from fithubert.superb.run import LEARNERS, run_task
from pipeline.compose import compose
from tests.data.corpora.real_miniature import KEYWORDS, MEN, WOMEN, write_real
from tests.superb.fakes import noise_features

ROOT = Path(__file__).parents[3]
#: The folder of real speech, if this machine has it.
REAL = next((p / "shared/data/real" for p in ROOT.parents if (p / "shared/data/real").is_dir()), None)
SPLITS = ("train", "dev", "test")
BUDGET = TaskBudget(steps=2, batch=2, eval_every=2, learning_rates=(1e-2,), head_width=8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_real(tmp_path / "real")


def make(root: Path, data: Path, **options: object) -> Manifest:
    """The corpus as prepare writes it."""
    return import_corpus(RealData(path=root, **options), data).manifest


def list_speakers(rows: list[Utterance]) -> dict[str, set[str | None]]:
    speakers: dict[str, set[str | None]] = defaultdict(set)
    for row in rows:
        speakers[row.split].add(row.speaker)
    return speakers


def check_disjoint(rows: list[Utterance]) -> None:
    speakers = list_speakers(rows)
    assert not any(speakers[a] & speakers[b] for a in speakers for b in speakers if a < b)


def test_sentences_are_split_by_speaker_with_the_same_share_of_both_sexes(root: Path) -> None:
    manifest = read_real(RealData(path=root)).manifest
    spoken = [u for u in manifest.select(kind="sentence") if u.text]
    check_disjoint(spoken)
    speakers = list_speakers(spoken)
    assert {split: len(names) for split, names in speakers.items()} == {"train": 2 + 1, "dev": 4, "test": 4}
    assert all(len(names & set(sex)) == len(names) // 2 for names in speakers.values() for sex in (WOMEN, MEN))
    assert "21" in speakers["train"]
    first = next(u for u in spoken if u.id == "11-1-0001")
    assert (first.words, first.pronunciation) == (("two", "two", "one"), ("T", "UW", "T", "UW", "W", "AH", "N"))
    assert manifest.inventories["phones"] == CMU_PHONES
    assert len(CMU_PHONES) == 39
    again = read_real(RealData(path=root, seed=2)).manifest
    assert list_speakers([u for u in again.select(kind="sentence") if u.text]) != speakers


def test_speakers_are_identified_in_another_chapter_or_later(root: Path) -> None:
    manifest = read_real(RealData(path=root)).manifest.for_task("sid")
    rows = [u for split in SPLITS for u in manifest.select(split, "sentence")]
    speakers = list_speakers(rows)
    assert speakers["train"] == speakers["test"] == {*WOMEN, *MEN}
    assert "11" in speakers["dev"]
    assert {u.id for u in rows if u.speaker == "11" and u.split == "test"} == {"11-2-0001", "11-2-0002"}
    assert {u.id for u in rows if u.speaker == "20" and u.split != "train"} == {"20-1-0003"}


def test_trials_are_within_a_sex_and_of_speakers_who_are_not_trained_on(root: Path) -> None:
    manifest = read_real(RealData(path=root)).manifest.for_task("asv")
    rows = manifest.select(("train", "dev", "verification"), "sentence").utterances
    check_disjoint(list(rows))
    assert {"31", "32", "41", "42"} < list_speakers(list(rows))["verification"]
    known = {u.id: u for u in rows}
    for split, most in (("dev", 2 * 7), ("verification", 2 * 7 + 2 + 1)):
        pairs = [(u, known[other]) for u in rows if u.split == split for other in u.trials or ()]
        assert all(int(a.speaker or 0) % 2 == int(b.speaker or 0) % 2 and b.split == split for a, b in pairs)
        assert {a.speaker == b.speaker for a, b in pairs} == {True, False}
        assert len({frozenset((a.id, b.id)) for a, b in pairs}) == len(pairs) <= 2 * most * (most - 1) / 2
    # A speaker of one sentence is tried against one of each test speaker of the same sex.
    assert len(known["41-1-0000"].trials or ()) == 2 + 1


def test_the_other_parts_have_their_own_splits_and_labels(root: Path) -> None:
    manifest = read_real(RealData(path=root, fold=5)).manifest
    words = [u for u in manifest if u.keyword]
    check_disjoint(words)
    assert {u.keyword for u in words} == set(KEYWORDS)
    spoken = [u for u in manifest if u.style]
    assert list_speakers(spoken)["test"] == {f"emodb-{name}" for name in FOLDS[4]}
    assert list_speakers(spoken)["dev"] == {f"emodb-{name}" for name in FOLDS[0]}
    assert {u.style for u in spoken} == {EMOTIONS["W"], EMOTIONS["N"]}
    orders = [u for u in manifest if u.slots]
    assert {split: sum(u.split == split for u in orders) for split in SPLITS} == {"train": 7, "dev": 1, "test": 2}
    first = next(u for u in orders if u.id == "speech_to_intent/00")
    assert first.text == "eight ounce latte soy milk"
    assert first.slots == (
        Slot("size", "eight ounce", 0, 2), Slot("coffeeDrink", "latte", 2, 1), Slot("milkAmount", "soy milk", 3, 2),
    )  # fmt: skip
    assert first.intent == Intent("eight ounce", "latte", "none")


def test_mixtures_and_lists_are_made_in_the_workspace_alone(root: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    made = make(root, tmp_path / "a" / "data")
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    mixtures = made.select(kind="mixture")
    assert set(mixtures.count_by("split")) == set(SPLITS)
    own = {split: list_speakers([u for u in made.select(split, "sentence") if u.text])[split] for split in SPLITS}
    for mixture in mixtures:
        turns = mixture.turns or ()
        assert len({t.speaker for t in turns} & own[mixture.split]) == 2
        assert all(0 <= t.start_seconds < t.end_seconds <= mixture.seconds for t in turns)
        assert len(made.read(mixture)) == mixture.num_samples
    lists = [u for u in made.for_task("qbe").select(kind="sentence") if u.words]
    assert {u.split for u in lists} == {"dev", "test"}
    asked = {u.audio for u in made.select(kind="query")}
    assert len(asked) == 2 * 2 * len(KEYWORDS)
    assert not [u for u in made.for_task("asr").select(kind="sentence") if u.id.startswith("list-")]
    # Another workspace has the same bytes, and a workspace may move.
    again = make(root, tmp_path / "b" / "data")
    assert again.fingerprint == made.fingerprint
    (tmp_path / "a").rename(tmp_path / "c")
    loaded = load_manifest(manifest_path(tmp_path / "c" / "data"))
    assert loaded == made
    assert len(loaded.read(mixtures.utterances[0])) == mixtures.utterances[0].num_samples


def test_every_task_can_be_scored(root: Path, tmp_path: Path) -> None:
    manifest = make(root, tmp_path / "data")
    features = noise_features(manifest)
    for task in LEARNERS:
        budget = BUDGET if task != "qbe" else TaskBudget(steps=0)
        scored = run_task(task, features, manifest, budget)
        assert scored.metrics, f"{task}: {scored.reason}"


def test_what_is_missing_is_listed_with_its_tasks_or_one_line(root: Path, tmp_path: Path) -> None:
    (unspoken,) = read_real(RealData(path=root)).skipped
    # The third sentence of every one of 18 chapters.
    assert "18 such sentences, not in pr" in unspoken.reason
    for part in ("emodb", "arabic_speech_commands", "librispeech_untranscribed", "lexicon"):
        shutil.rmtree(root / part)
    shutil.rmtree(root / "librispeech/LibriSpeech/train-clean-100")
    corpus = read_real(RealData(path=root))
    assert {entry.path: entry.reason.partition(", so ")[2] for entry in corpus.skipped} == {
        "arabic_speech_commands": "ks and qbe are not run",
        "emodb": "er is not run",
        "lexicon/cmudict.dict": "pr is not run",
    }
    assert not any(u.pronunciation for u in corpus.manifest)
    # As the archive of LibriSpeech is unpacked.
    (root / "librispeech" / "LibriSpeech").rename(root / "LibriSpeech")
    assert len(read_real(RealData(path=root)).manifest) == len(corpus.manifest)
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("11 | F | test-clean | 8.0 | Name")
    with pytest.raises(UserError, match=r"SPEAKERS.TXT: gives no sex of the speaker 12"):
        read_real(RealData(path=root))
    with pytest.raises(UserError, match=r"gone: real speech is not here, so nothing is run"):
        make(tmp_path / "gone", tmp_path / "data")


def test_unknown_words_are_pronounced_with_the_phones_of_the_dictionary() -> None:
    pytest.importorskip("espeakng_loader")
    said = pronounce({"a": "the squire's", "b": "northangers utrecht", "c": "here"}, {"the": ("DH", "AH")})
    assert {name: " ".join(phones) for name, phones in said.items()} == {
        "a": "DH AH S K W AY ER Z",
        "c": "HH IH R",
    }


def test_speech_is_what_is_loud_with_its_short_pauses() -> None:
    rng = np.random.default_rng(0)
    samples = 0.001 * rng.normal(size=48_000)
    for first, last in ((8_000, 12_000), (14_400, 20_800), (32_000, 40_000)):
        samples[first:last] += np.sin(np.arange(last - first) / 5)
    assert find_speech(samples) == [(8_000, 20_800), (32_000, 40_000)]
    assert find_speech(samples[:100]) == find_speech(np.zeros(16_000)) == []


def test_the_preset_names_the_folder_beside_the_project(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(compose(["data=real"]))
    data = load_params(tmp_path / "params.yaml").data
    assert isinstance(data, RealData)
    assert (data.path, data.fold) == (Path("../shared/data/real"), 1)


#: Task -> utterances of train, dev and test (of ASV verification) in the folder of real speech.
COUNTS = {
    "pr": (2066, 251, 669), "asr": (2067, 251, 669), "ks": (3600, 1200, 1200), "qbe": (0, 88, 88),
    "sid": (1899, 179, 542), "asv": (2067, 40, 448), "sd": (120, 24, 48), "er": (347, 81, 107),
    "ic": (429, 60, 130), "sf": (429, 60, 130),
}  # fmt: skip


@pytest.mark.slow
def test_the_folder_of_real_speech_has_the_counts_that_are_documented(tmp_path: Path) -> None:
    if REAL is None:
        pytest.skip("no folder shared/data/real: not run")
    manifest = make(REAL, tmp_path / "data")
    labelled = {
        "pr": lambda u: u.pronunciation, "asr": lambda u: u.kind == "sentence" and u.words, "ks": lambda u: u.keyword,
        "qbe": lambda u: u.query or (u.kind == "sentence" and u.words),
        "sid": lambda u: u.kind == "sentence" and u.speaker,
        "asv": lambda u: u.kind == "sentence" and u.speaker, "sd": lambda u: u.turns, "er": lambda u: u.style,
        "ic": lambda u: u.intent, "sf": lambda u: u.slots,
    }  # fmt: skip
    for task, counts in COUNTS.items():
        rows = [u for u in manifest.for_task(task) if labelled[task](u)]
        splits = ("train", "dev", "verification" if task == "asv" else "test")
        assert tuple(sum(u.split == s for u in rows) for s in splits) == counts, task
        if task in ("pr", "asr", "ks", "asv", "er"):
            check_disjoint([u for u in rows if u.split in splits])
    assert {len({t.speaker for t in u.turns or ()}) for u in manifest.select(kind="mixture")} == {2}
    assert {phone for u in manifest for phone in u.pronunciation or ()} == set(CMU_PHONES)
    assert len({u.keyword for u in manifest if u.keyword}) == 20
    assert len({u.style for u in manifest if u.style}) == 7
    # The list has 83 values; six of them differ by a leading space alone.
    assert len({slot.value for u in manifest for slot in u.slots or ()}) == 77
