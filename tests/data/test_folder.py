"""A folder of recordings as a corpus: good files of every kind, bad files of every kind."""

import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fithubert.config.data import FolderData
from fithubert.data.folder import import_folder
from fithubert.data.manifest import load_manifest, manifest_path
from fithubert.data.prepare import prepare_corpus
from fithubert.errors import UserError


def tone(seconds: float, rate_hz: int = 16_000, hz: float = 440.0, channels: int = 1) -> np.ndarray:
    samples = 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)
    return np.repeat(samples[:, None], channels, axis=1)


def write(path: Path, samples: np.ndarray, rate_hz: int = 16_000, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "recordings"
    for index in range(4):
        write(root / "ann" / f"a{index}.wav", tone(1 + 0.1 * index, hz=300 + index))
        write(root / "bob" / "day one" / f"b{index}.flac", tone(1 + 0.1 * index, hz=500 + index))
    return root


def run(root: Path, tmp_path: Path, **options: object):
    return import_folder(FolderData(path=root, **options), tmp_path / "work" / "data", jobs=2)


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "channels"),
    [
        (".wav", 44_100, 2), (".flac", 48_000, 6), (".ogg", 22_050, 1), (".mp3", 44_100, 2), (".opus", 48_000, 1),
        (".wav", 8_000, 1), (".wav", 44_101, 1), (".WAV", 96_000, 1), (".aiff", 22_050, 2), (".caf", 16_000, 1),
        (".au", 48_000, 1),
    ],
)  # fmt: skip
def test_any_format_rate_and_number_of_channels_becomes_16_khz_mono(
    folder: Path, tmp_path: Path, suffix: str, rate_hz: int, channels: int
) -> None:
    options = {".opus": {"format": "OGG", "subtype": "OPUS"}, ".WAV": {"format": "WAV"}}.get(suffix, {})
    write(folder / "carl" / f"c{suffix}", tone(35.0, rate_hz, channels=channels), rate_hz, **options)
    imported = run(folder, tmp_path)
    assert imported.skipped == ()
    mine = [u for u in imported.manifest if u.speaker == "carl"]
    assert 2 <= len(mine) <= 3
    waveform = np.concatenate([imported.manifest.read(u).numpy() for u in sorted(mine, key=lambda u: u.id)])
    assert len(waveform) == pytest.approx(35 * 16_000, abs=2_500)
    # No seam at a block's edge: away from the ends the tone is a pure one of the same pitch and level.
    middle = waveform[8_000 : 8_000 + 32 * 16_000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) / 32 == pytest.approx(440, abs=0.1)
    peak = np.argmax(spectrum)
    rest = np.concatenate([spectrum[: peak - 40], spectrum[peak + 40 :]])
    assert np.sum(rest**2) < (1e-2 if suffix in (".mp3", ".opus", ".ogg") else 1e-5) * np.sum(spectrum**2)


def test_speakers_splits_and_files_are_kept_and_a_second_run_writes_the_same(folder: Path, tmp_path: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    first = run(folder, tmp_path)
    assert first.manifest.speakers == ("ann", "bob")
    assert first.manifest.count_by("split") == {"dev": 1, "test": 1, "train": 6}
    data = tmp_path / "work" / "data"
    files = {p: p.read_bytes() for p in data.rglob("*") if p.is_file()}
    (data / ".audio.99-0123abcd.part").mkdir()
    again = run(folder, tmp_path)
    assert again.manifest == first.manifest
    assert {p: p.read_bytes() for p in data.rglob("*") if p.is_file()} == files
    assert not (data / ".audio.99-0123abcd.part").exists()
    assert load_manifest(manifest_path(data)).fingerprint == first.manifest.fingerprint
    assert run(folder, tmp_path, seed=7).manifest.fingerprint != first.manifest.fingerprint
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before


def test_bad_files_are_listed_with_the_reason_and_the_rest_is_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "text.wav").write_text("this is no audio")
    (folder / "empty.flac").touch()
    write(folder / "no_samples.wav", np.zeros((0, 1)))
    write(folder / "silent.wav", np.zeros(16_000))
    write(folder / "short.wav", tone(0.02))
    nan = tone(1.0)
    nan[100] = np.nan
    write(folder / "nan.wav", nan, subtype="FLOAT")
    whole = write(folder / "cut.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)).read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (folder / "copy.wav").write_bytes((folder / "ann" / "a0.wav").read_bytes())
    (folder / "a_link.wav").symlink_to(folder / "ann" / "a1.wav")
    (folder / "gone.wav").symlink_to(folder / "nothing.wav")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "phone.m4a").write_bytes(b"....ftypM4A ")
    (folder / "notes.md").write_text("not a recording")
    imported = run(folder, tmp_path)
    reasons = {s.path: s.reason for s in imported.skipped}
    expected = {
        "text.wav": "not readable as audio", "empty.flac": "empty file", "no_samples.wav": "shorter than one frame",
        "silent.wav": "silent", "short.wav": "shorter than one frame", "nan.wav": "NaN", "cut.flac": "",
        "copy.wav": "the same audio as ann/a0.wav", "ann/a1.wav": "the same audio as a_link.wav",
        "gone.wav": "a link to a file that does not exist", "elsewhere": "links to folders are not followed",
        "phone.m4a": "m4a is not read; convert it: ffmpeg -i phone.m4a phone.wav",
    }  # fmt: skip
    assert all(text in reasons[path] for path, text in expected.items())
    assert len(reasons) == len(expected)
    assert len(imported.manifest) == 8
    on_disk = {p.name for p in (tmp_path / "work" / "data" / "audio").glob("[!.]*")}
    assert on_disk == {Path(u.audio).name for u in imported.manifest}


def test_a_long_recording_is_cut_where_it_is_quiet(folder: Path, tmp_path: Path) -> None:
    samples = tone(100.0)
    for pause in (17.0, 35.0, 52.0, 68.0, 86.0):
        samples[round(pause * 16_000) : round((pause + 0.5) * 16_000)] = 0
    write(folder / "dora" / "long.wav", samples)
    imported = run(folder, tmp_path)
    mine = sorted((u for u in imported.manifest if u.speaker == "dora"), key=lambda u: u.id)
    assert sum(u.num_samples for u in mine) == 1_600_000
    assert len({u.split for u in mine}) == 1
    assert all(5 < u.seconds <= 20 for u in mine)
    assert [np.abs(imported.manifest.read(u).numpy()[-10:]).max() for u in mine[:4]] == [0, 0, 0, 0]


def test_recordings_that_are_links_into_a_cache_are_read_with_their_transcripts(folder: Path, tmp_path: Path) -> None:
    (folder / "ann" / "a0.txt").write_text("Hello")
    expected = run(folder, tmp_path).manifest
    for number, path in enumerate(p for p in sorted(folder.rglob("*.*")) if p.is_file()):
        path.rename(tmp_path / f"{number:02x}")
        path.symlink_to(tmp_path / f"{number:02x}")
    linked = run(folder, tmp_path)
    assert linked.manifest == expected
    assert linked.skipped == ()


def test_hidden_recordings_and_folders_are_passed_over_and_counted(folder: Path, tmp_path: Path) -> None:
    expected = run(folder, tmp_path).manifest
    for name in (".Trash-1000/files/x.wav", ".git/annex/x.wav", "__MACOSX/ann/._a0.wav", "ann/._a0.wav"):
        write(folder / name, tone(1.0, hz=900))
    (folder / ".DS_Store").touch()
    imported = run(folder, tmp_path)
    assert imported.manifest == expected
    assert [(s.path, s.reason) for s in imported.skipped] == [(".", "4 hidden recordings or folders are passed over")]


def test_transcripts_come_from_a_table_from_lists_and_from_files_beside(folder: Path, tmp_path: Path) -> None:
    (folder / "ann" / "a0.txt").write_text("Beside, it's 5 o\N{RIGHT SINGLE QUOTATION MARK}clock.\n")
    (folder / "ann" / "ann.trans.txt").write_text("a1 FROM THE LIST\na2 ANOTHER\n")
    table = tmp_path / "table.tsv"
    table.write_text("path\ttext\n./ann/a2.wav\tFrom the table\nbob\\day one\\b0.flac\tToo\nno.wav\tNo\n")
    write(folder / "dora" / "long.wav", tone(50.0))
    (folder / "dora" / "long.txt").write_text("too long to keep")
    imported = run(folder, tmp_path, transcripts=table)
    texts = {u.id.rsplit("-", 1)[0]: u.text for u in imported.manifest if u.text}
    assert texts == {
        "ann-a0": "beside it's 5 o'clock", "ann-a1": "from the list", "ann-a2": "from the table",
        "bob-day-one-b0": "too",
    }  # fmt: skip
    reasons = {s.path: s.reason for s in imported.skipped}
    assert reasons[str(table)] == "2 of 3 lines matched; first unmatched: line 4 'no.wav'"
    assert "transcript left out" in reasons["dora/long.wav"]
    assert len(reasons) == 2


def test_librispeech_folders_name_the_speaker(tmp_path: Path) -> None:
    root = tmp_path / "LibriSpeech"
    for split, speaker in (("train-clean-100", "19"), ("dev-clean", "84")):
        write(root / split / speaker / "198" / f"{speaker}-198-0000.flac", tone(1.0, hz=200 + int(speaker)))
    assert run(root, tmp_path).manifest.speakers == ("19", "84")


def test_nothing_usable_a_missing_folder_and_a_folder_in_the_output_are_errors(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "nothing"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no recordings"):
        run(empty, tmp_path)
    (empty / "text.wav").write_text("no audio")
    with pytest.raises(UserError, match=r"no usable recording; 1 skipped, the first: text\.wav"):
        run(empty, tmp_path)
    assert not (tmp_path / "work" / "data" / "audio").exists()
    with pytest.raises(UserError, match="is not a folder"):
        run(tmp_path / "missing", tmp_path)
    with pytest.raises(UserError, match="contain one another"):
        import_folder(FolderData(path=folder), folder)
    assert not list(folder.glob("manifests"))


def test_a_loud_float_recording_is_lowered_and_not_clipped(folder: Path, tmp_path: Path) -> None:
    write(folder / "eve" / "loud.wav", tone(1.0) * 30_000, subtype="FLOAT")
    imported = run(folder, tmp_path)
    waveform = next(imported.manifest.read(u) for u in imported.manifest if u.speaker == "eve")
    assert waveform.abs().max().item() == pytest.approx(1.0, abs=1e-3)
    assert waveform.square().mean().sqrt().item() == pytest.approx(0.5**0.5, abs=0.01)


def test_the_metrics_say_what_the_folder_became(folder: Path, tmp_path: Path) -> None:
    (folder / "text.wav").write_text("this is no audio")
    metrics = prepare_corpus(FolderData(path=folder), tmp_path / "work" / "data")
    assert (metrics.source, metrics.utterances, metrics.splits["train"]["sentence"]) == ("folder", 8, 6)
    assert [entry.path for entry in metrics.skipped] == ["text.wav"]
    assert metrics.notes is None


def test_recordings_of_low_rates_are_noted(folder: Path, tmp_path: Path) -> None:
    for name, rate_hz in (("one", 8_000), ("two", 11_025)):
        write(folder / "eve" / f"{name}.wav", tone(1.0, rate_hz, hz=rate_hz / 20), rate_hz)
    write(folder / "eve" / "silent.wav", np.zeros(8_000), 8_000)
    (note,) = prepare_corpus(FolderData(path=folder), tmp_path / "work" / "data").notes or ()
    assert note.startswith("2 recordings have a rate below 16 kHz (the lowest 8000 Hz)")


def test_a_name_that_is_not_utf_8_is_read(folder: Path, tmp_path: Path) -> None:
    source = write(folder / "plain.wav", tone(1.0, hz=900))
    try:
        source.rename(Path(str(folder) + "/odd\udcff.wav"))
    except OSError:
        pytest.skip("the file system takes only UTF-8 names")
    imported = run(folder, tmp_path)
    assert len(imported.manifest) == 9
    load_manifest(manifest_path(tmp_path / "work" / "data"))


def test_a_full_disk_is_named_and_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UserError, match="the disk is full"):
        run(folder, tmp_path)
    assert not [p for p in (tmp_path / "work").rglob("*") if p.is_file()]
    assert not (tmp_path / "work" / "data" / "audio").exists()
