"""LibriSpeech with phones by its lexicon, Speech Commands with twelve classes, and QUESST 2014 with its matches."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch

from fithubert.config.data import LibriSpeechData, PlainCorpus
from fithubert.config.params import Params, load_params
from fithubert.data import CHARACTERS, KEYWORDS, OTHER_WORD, SILENCE, STRESSED_PHONES
from fithubert.data.corpora import content
from fithubert.data.corpora.content import read_librispeech, read_quesst14, read_speech_commands, split_of_speaker
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.data.prepare import import_corpus
from fithubert.errors import UserError
from fithubert.stages.prepare import prepare
from fithubert.workspace import Workspace
from tests.data.corpora.miniatures import (
    PHONES,
    write_audio,
    write_librispeech,
    write_quesst14,
    write_speech_commands,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_librispeech(tmp_path / "corpora")


def test_subsets_become_splits_with_text_phones_and_speakers(corpus: Path) -> None:
    manifest = read_librispeech(LibriSpeechData(path=corpus)).manifest
    assert manifest.count_by("split") == {"train": 8, "dev": 8, "test": 8}
    assert manifest.select("train").speakers == ("10", "11")
    first = next(u for u in manifest if u.id == "10-7-0001")
    assert (first.split, first.kind, first.text) == ("train", "sentence", "two three four")
    assert first.words == ("two", "three", "four")
    assert first.pronunciation == tuple(f"{PHONES['TWO']} {PHONES['THREE']} {PHONES['FOUR']}".split())
    assert first.phones is None
    assert [len(manifest.read(u)) for u in manifest] == [u.num_samples for u in manifest]
    assert len({u.digest for u in manifest}) == len(manifest)
    # SUPERB's label spaces; with the blank 74 and 32 outputs.
    assert (len(STRESSED_PHONES), len(set(STRESSED_PHONES)), len(CHARACTERS)) == (71, 71, 28)
    assert {name: len(symbols) + 1 for name, symbols in manifest.inventories.items()} == {
        "phones": 74,
        "characters": 32,
    }
    assert read_librispeech(LibriSpeechData(path=corpus / "LibriSpeech")).manifest == manifest


def test_960_hours_are_three_training_subsets(tmp_path: Path) -> None:
    train = ("train-clean-100", "train-clean-360", "train-other-500")
    write_librispeech(tmp_path, (*train, "dev-clean", "test-clean"), utterances=1)
    manifest = read_librispeech(LibriSpeechData(path=tmp_path, train=train)).manifest
    assert manifest.count_by("split") == {"train": 6, "dev": 2, "test": 2}


@pytest.mark.parametrize("suffix", [".wav", ".ogg", ".opus"])
def test_recordings_may_be_in_another_format(tmp_path: Path, suffix: str) -> None:
    flac = read_librispeech(LibriSpeechData(path=write_librispeech(tmp_path / "flac"))).manifest
    root = write_librispeech(tmp_path / "other", suffix=suffix)
    other = read_librispeech(LibriSpeechData(path=root)).manifest
    assert [(u.id, u.split, u.text, u.num_samples) for u in other] == [
        (u.id, u.split, u.text, u.num_samples) for u in flac
    ]
    assert {Path(u.audio).suffix for u in other} == {suffix}
    assert len(other.read(other.utterances[0])) == other.utterances[0].num_samples
    # Of one recording in two formats, the published one counts.
    write_audio(root / "LibriSpeech" / "dev-clean" / "12" / "7" / "12-7-0000.flac", 0.6)
    again = read_librispeech(LibriSpeechData(path=root)).manifest
    assert [u.audio for u in again if u.audio.endswith(".flac")] == ["dev-clean/12/7/12-7-0000.flac"]
    assert len(again) == len(flac)


def test_the_manifest_refers_to_files_where_they_are(corpus: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in corpus.rglob("*")}
    data = tmp_path / "work" / "data"
    (data / "audio").mkdir(parents=True)
    write_audio(data / "audio" / "of-another-source.flac")
    with pytest.raises(UserError, match="audio: is not empty"):
        import_corpus(LibriSpeechData(path=corpus), data)
    # The mark of audio that a corpus made here.
    (data / "audio" / ".corpus").touch()
    made = import_corpus(LibriSpeechData(path=corpus), data).manifest
    loaded = load_manifest(manifest_path(data), data)
    assert loaded == made
    assert loaded.fingerprint == made.fingerprint
    assert loaded.root == corpus / "LibriSpeech"
    assert [path.name for path in (data / "audio").iterdir()] == [".corpus"]
    assert {p: p.stat().st_mtime_ns for p in corpus.rglob("*")} == before
    moved = corpus.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no such audio file; run `fithubert prepare` again"):
        loaded.read(loaded.utterances[0])
    assert read_librispeech(LibriSpeechData(path=moved)).manifest.fingerprint == made.fingerprint
    write_audio(moved / "LibriSpeech" / "dev-clean" / "12" / "7" / "12-7-0000.flac", 0.7)
    assert read_librispeech(LibriSpeechData(path=moved)).manifest.fingerprint != made.fingerprint


def test_without_a_lexicon_there_are_no_phones_and_the_report_says_so(corpus: Path, tmp_path: Path) -> None:
    shutil.rmtree(corpus / "lexicon")
    params = Params(data=LibriSpeechData(path=corpus), students={}, superb={"models": ()})
    metrics = prepare(params, Workspace(tmp_path / "work"))
    assert metrics.source == "librispeech"
    assert metrics.splits["train"]["speakers"] == 2
    (note,) = metrics.skipped
    assert note.path == "lexicon"
    assert "s3prl/g2p" in note.reason
    manifest = Workspace(tmp_path / "work").load_manifest()
    assert not any(u.pronunciation for u in manifest)


def test_a_corpus_in_the_folder_that_prepare_empties_is_refused(tmp_path: Path) -> None:
    write_librispeech(tmp_path / "data" / "audio")
    with pytest.raises(UserError, match="which prepare empties"):
        import_corpus(LibriSpeechData(path=tmp_path / "data" / "audio"), tmp_path / "data")
    assert (tmp_path / "data" / "audio" / "LibriSpeech").is_dir()


def test_archives_have_the_published_digests() -> None:
    books = content.list_librispeech_archives(LibriSpeechData(path=Path("x")))
    assert [a.folder for a in books] == [f"LibriSpeech/{s}" for s in ("train-clean-100", "dev-clean", "test-clean")]
    assert all(a.url.startswith("http://www.openslr.org/") for a in books)
    (queries,) = content.list_quesst14_archives(PlainCorpus(source="quesst14", path=Path("x")))
    assert queries.url.endswith("/quesst14Database.tgz")
    words = content.list_speech_commands_archives(PlainCorpus(source="speech_commands", path=Path("x")))
    assert [a.url.rsplit("/", 1)[1] for a in words] == [f"{a.folder}.tar.gz" for a in words]
    assert [len(a.sha256 or "") for a in (*books, queries, *words)] == [64, 64, 64, 64, 64, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('data={"source":"librispeech"}', r"data.librispeech.path: is required"),
        ('data={"source":"librispeech","path":"x","fold":1}', r"fold: unknown key; valid keys: path, gain_db, source"),
        ('data={"source":"snips","path":"x","fold":1}', r"fold: unknown key; valid keys: path, gain_db, source$"),
        ('data={"source":"librispeach","path":"x"}', r"librispeach"),
        ('data={"source":"librispeech","path":"x","train":["train-clean-10"]}', r"train-clean-100"),
        ('data={"source":"librispeech","path":"x","train":[],"dev":[],"test":[]}', r"all empty; name a subset"),
    ],
)
def test_wrong_parameters_are_one_line(change: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_params(ROOT / "params.yaml", [change])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speech_commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="module")
def manifest(root: Path) -> Manifest:
    return read_speech_commands(PlainCorpus(source="speech_commands", path=root)).manifest


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


def test_english_queries_know_their_documents_and_lengths_are_those_at_16_khz(tmp_path: Path) -> None:
    manifest = read_quesst14(PlainCorpus(source="quesst14", path=write_quesst14(tmp_path))).manifest
    assert manifest.count_by("split", "kind") == {"dev/query": 2, "test/document": 5, "test/query": 2}
    matches = {u.id: u.matches for u in manifest if u.kind == "query"}
    assert matches["quesst14_dev_0001"] == ("quesst14_00001", "quesst14_00004")
    assert matches["quesst14_eval_0002"] == ("quesst14_00002",)
    assert {u.num_samples for u in manifest if u.kind == "document"} == {12_800}
    assert [len(manifest.read(u)) for u in manifest] == [u.num_samples for u in manifest]
