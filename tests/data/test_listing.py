"""Recordings wherever they lie: what is found, what is left out and why."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from fithubert.data.audio import read_recording
from fithubert.data.listing import list_recordings
from fithubert.errors import UserError
from tests.fakes import write_folder, write_noise


def test_folders_and_files_are_found_once_and_in_order(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "in")
    alone = write_noise(tmp_path / "alone.wav", 1.0)
    listing = list_recordings([alone, root, root / "r01.flac"])
    names = [u.id for u in listing.recordings]
    assert len(names) == 13
    assert names == sorted(set(names))
    assert str(root / "nested" / "deeper" / "r00.wav") in names
    assert listing.skipped == ()
    for utterance in listing.recordings:
        assert len(listing.recordings.read(utterance)) == utterance.num_samples


def test_a_file_named_in_two_ways_is_one_recording_and_a_link_has_a_name_of_its_own(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "rec" / "a.wav", 1.0)
    (tmp_path / "other").symlink_to(tmp_path / "rec")
    detour = tmp_path / "rec" / ".." / "rec"
    for places in ([detour / "a.wav", path], [path, detour / "a.wav"], [tmp_path / "rec", detour]):
        assert [u.id for u in list_recordings(places).recordings] == [str(path)]
    assert len(list_recordings([tmp_path / "other", tmp_path / "rec"]).recordings) == 1
    (tmp_path / "rec" / "b.wav").symlink_to(path)
    assert [Path(u.id).name for u in list_recordings([tmp_path / "rec"]).recordings] == ["a.wav", "b.wav"]


def test_hidden_recordings_are_counted_but_read_if_they_are_named(tmp_path: Path) -> None:
    write_noise(tmp_path / "good.wav", 1.0)
    hidden = write_noise(tmp_path / "._good.wav", 1.0)
    write_noise(tmp_path / "__MACOSX" / "x.wav", 1.0)
    listing = list_recordings([tmp_path])
    assert (len(listing.recordings), listing.skipped, listing.hidden) == (1, (), 2)
    assert len(list_recordings([tmp_path, hidden]).recordings) == 2


def test_a_recording_of_more_than_16_bits_is_heard_as_it_is(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "fine.wav", 1.0, subtype="FLOAT")
    (utterance,) = (recordings := list_recordings([path]).recordings)
    np.testing.assert_array_equal(recordings.read(utterance).numpy(), soundfile.read(path, dtype="float32")[0])
    assert (read_recording(path) * 32768 % 1).abs().max() > 0


def test_silent_files_are_kept_and_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    """The reasons are those of a folder's import (test_folder)."""
    write_noise(tmp_path / "good.wav", 1.0)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "link.wav").symlink_to(tmp_path / "nothing.wav")
    listing = list_recordings([tmp_path])
    assert [Path(u.id).name for u in listing.recordings] == ["good.wav", "silent.wav"]
    (link, text) = listing.skipped
    assert (Path(link.path).name, link.reason) == ("link.wav", "a link to a file that does not exist")
    assert text.reason.startswith("not readable as audio")


def test_the_fingerprint_knows_names_and_contents(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.wav", 1.0)
    before = list_recordings([path]).recordings.fingerprint
    assert list_recordings([path]).recordings.fingerprint == before
    assert list_recordings([path.rename(tmp_path / "b.wav")]).recordings.fingerprint != before
    write_noise(tmp_path / "c.wav", 1.0).rename(path)
    assert list_recordings([path]).recordings.fingerprint != before


def test_a_place_that_is_not_there_and_one_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        list_recordings([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no recordings here"):
        list_recordings([tmp_path])


def test_a_file_that_changes_after_it_was_listed_is_named(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.wav", 1.0)
    (utterance,) = (recordings := list_recordings([path]).recordings)
    write_noise(path, 2.0)
    with pytest.raises(UserError, match=r"a\.wav: the file has changed"):
        recordings.read(utterance)
    write_noise(path, 0.5)
    with pytest.raises(UserError, match=r"a\.wav: the file has changed"):
        list(recordings.read_blocks(utterance))
    path.unlink()
    with pytest.raises(UserError, match=r"a\.wav: the file has changed"):
        recordings.read(utterance)
