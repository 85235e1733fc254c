"""LibriSpeech: splits, transcripts, phones by the lexicon, and one line for whatever is missing."""

import shutil
from pathlib import Path

import pytest

from fithubert.config.data import LibriSpeechData
from fithubert.config.params import Params, load_params
from fithubert.data.corpora.librispeech import FILES, list_archives, read_librispeech
from fithubert.data.corpora.registry import import_corpus
from fithubert.data.manifest import load_manifest, manifest_path
from fithubert.data.utterance import CHARACTERS, STRESSED_PHONES
from fithubert.errors import UserError
from fithubert.stages.prepare import prepare
from fithubert.workspace import Workspace
from tests.data.corpora.miniatures import PHONES, write_audio, write_lexicon, write_librispeech, write_text

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


def test_label_spaces_are_the_official_ones(corpus: Path) -> None:
    assert len(STRESSED_PHONES) == len(set(STRESSED_PHONES)) == 71
    assert len(CHARACTERS) == 28
    spaces = read_librispeech(LibriSpeechData(path=corpus)).manifest.inventories
    # With the blank 74 and 32 outputs.
    assert {name: len(symbols) + 1 for name, symbols in spaces.items()} == {"phones": 74, "characters": 32}


def test_the_corpus_itself_or_its_parent_may_be_named(corpus: Path) -> None:
    for path in (corpus, corpus / "LibriSpeech"):
        assert len(read_librispeech(LibriSpeechData(path=path)).manifest) == 24


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


def test_a_file_of_another_length_has_another_fingerprint(corpus: Path) -> None:
    before = read_librispeech(LibriSpeechData(path=corpus)).manifest
    write_audio(corpus / "LibriSpeech" / "dev-clean" / "12" / "7" / "12-7-0000.flac", 0.7)
    after = read_librispeech(LibriSpeechData(path=corpus)).manifest
    assert before.fingerprint != after.fingerprint


def test_without_a_lexicon_there_are_no_phones_and_the_report_says_so(corpus: Path, tmp_path: Path) -> None:
    shutil.rmtree(corpus / "lexicon")
    params = Params(data=LibriSpeechData(path=corpus), students={}, superb={"models": ()})
    metrics = prepare(params, Workspace(tmp_path / "work"))
    assert metrics["source"] == "librispeech"
    assert metrics["splits"]["train"]["speakers"] == 2
    (note,) = metrics["skipped"]
    assert note["path"] == "lexicon"
    assert "s3prl/g2p" in note["reason"]
    manifest = Workspace(tmp_path / "work").load_manifest()
    assert not any(u.pronunciation for u in manifest)


def test_what_is_missing_or_broken_is_one_line(corpus: Path, tmp_path: Path) -> None:
    inner = corpus / "LibriSpeech"

    def expect(said: str, **options: object) -> None:
        with pytest.raises(UserError, match=said) as error:
            read_librispeech(LibriSpeechData(path=corpus, **options))
        assert "\n" not in str(error.value)

    expect(r"LibriSpeech/train-other-500: no such folder; LibriSpeech comes from https://www.openslr.org/12",
           train=("train-other-500",))  # fmt: skip
    expect(rf"nowhere/{FILES[0]}: no such lexicon file; it comes from", lexicon=tmp_path / "nowhere")
    write_text(corpus / "lexicon" / FILES[1], "THREE TH R IY1")
    expect(r"neither lexicon has 'FOUR' of 10-7-0001")
    write_text(corpus / "lexicon" / FILES[1], "THREE TH R II")
    expect(r"line 1: 'II' is not one of the 71 phones")
    write_lexicon(corpus / "lexicon")
    audio = inner / "test-clean" / "14" / "7" / "14-7-0002.flac"
    audio.write_bytes(b"fLaC but no more")
    expect(r"14-7-0002.flac: not readable as audio")
    write_text(inner / "dev-clean" / "12" / "7" / "12-7.trans.txt", "12-7-0000 ONE")
    expect(r"12-7.trans.txt: has no line for 12-7-0001")
    with pytest.raises(UserError, match=r"gone: data.path is not a folder; it should hold LibriSpeech"):
        read_librispeech(LibriSpeechData(path=tmp_path / "gone"))


def test_a_corpus_in_the_folder_that_prepare_empties_is_refused(tmp_path: Path) -> None:
    write_librispeech(tmp_path / "data" / "audio")
    with pytest.raises(UserError, match="which prepare empties"):
        import_corpus(LibriSpeechData(path=tmp_path / "data" / "audio"), tmp_path / "data")
    assert (tmp_path / "data" / "audio" / "LibriSpeech").is_dir()


def test_archives_are_those_of_the_subsets_with_published_digests() -> None:
    archives = list_archives(LibriSpeechData(path=Path("x")))
    assert [a.folder for a in archives] == [f"LibriSpeech/{s}" for s in ("train-clean-100", "dev-clean", "test-clean")]
    assert all(len(a.sha256 or "") == 64 and a.url.startswith("http://www.openslr.org/") for a in archives)


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
