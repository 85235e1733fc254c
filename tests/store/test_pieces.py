"""Recordings longer than a limit run in windows: the same states, a row for each window, and bounded memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from fithubert.data import audio
from fithubert.data.listing import list_recordings
from fithubert.errors import UserError
from fithubert.models.runtime import ReadOut
from fithubert.models.windows import Windows, stream
from fithubert.store.recordings import FeatureSettings, WrittenFeatures, write_features
from fithubert.store.table import FeatureTable, parts_of
from tests.fakes import write_folder, write_noise
from tests.models.shapes import strong, tiny
from tests.store.fakes import FakeModel, contents

#: Recordings of 2 s and more are cut; the context is more than a frame of the fake model needs.
CUT = Windows(whole_seconds=2.0, window_seconds=0.5, context_seconds=0.1)


def write(folder: Path, out: Path, model: Any = None, **options: Any) -> WrittenFeatures:
    settings = FeatureSettings(**{"windows": CUT, "part_minutes": (0.1, 0.1), **options})
    return write_features(model or FakeModel(), list_recordings([folder]), out, settings)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_windows_of_a_local_model_are_the_whole_recording_in_the_file(tmp_path: Path, dtype: str) -> None:
    folder, model = write_folder(tmp_path / "in"), FakeModel()
    write(folder, tmp_path / "cut.parquet", model, dtype=dtype)
    write(folder, tmp_path / "whole.parquet", dtype=dtype, windows=Windows())
    assert max(length for _, length in model.batches) <= 2 * 16_000
    cut, whole = (FeatureTable(tmp_path / f"{name}.parquet") for name in ("cut", "whole"))
    assert cut.info.windows == CUT
    assert replace(cut.info, windows=None) == whole.info
    assert (cut.ids, cut.num_frames) == (whole.ids, whole.num_frames)
    for name in whole.ids:
        for layer, states in whole.read(name).hidden_states.items():
            assert torch.equal(cut.read(name).hidden_states[layer], states)
            assert torch.equal(cut.read(name, [layer]).hidden_states[layer], states)
    # So does somebody with pandas, who joins the rows of a recording.
    joined, rows = (pandas.read_parquet(tmp_path / f"{name}.parquet") for name in ("cut", "whole"))
    for _, row in rows.iterrows():
        own = joined[(joined.path == row.path) & (joined.layer == row.layer)]
        assert (own.seconds == row.seconds).all()
        assert own.first_frame.tolist() == [0, *np.cumsum(own.frames)[:-1]]
        assert own.frames.max() <= (25 if row.seconds > 2 else 100)
        np.testing.assert_array_equal(np.concatenate(own.features.tolist()), row.features)
    assert len(joined) > len(rows)
    assert _read_deviation(tmp_path / "cut.parquet")["relative_error"] == {"0": 0.0, "1": 0.0, "2": 0.0}
    assert _read_deviation(tmp_path / "whole.parquet") is None
    assert not parts_of(tmp_path / "cut.parquet").exists()
    assert all(name.startswith("part-") for name in contents(tmp_path / "cut.parquet"))


def _read_deviation(out: Path) -> Any:
    """What the metadata of every part says."""
    found = [pq.read_schema(part).metadata.get(b"fithubert.deviation") for part in sorted(out.iterdir())]
    assert len(set(found)) == 1
    return None if found[0] is None else json.loads(found[0])


def test_the_metadata_has_the_error_of_windows_on_the_start_of_a_recording(tmp_path: Path) -> None:
    folder, model = tmp_path / "in", ReadOut(strong(tiny("fithubert")), "thin")
    write_noise(folder / "a.wav", 1.0)
    write_noise(folder / "b.wav", 3.0)
    done = write(folder, tmp_path / "f.parquet", model, dtype="float16")
    waveform = audio.read_recording(folder / "b.wav")[:16_000]
    whole = model(waveform[None], torch.tensor([16_000])).hidden_states[0][0]
    joined = torch.cat([states[0] for states in stream(model, [waveform], 0.5, 0.1, [0])])
    error = float((joined - whole).norm() / whole.norm())
    assert error > 1e-4
    deviation = _read_deviation(tmp_path / "f.parquet")
    assert (deviation["recording"], deviation["seconds"]) == (str(folder / "b.wav"), 1.0)
    assert deviation["relative_error"] == {"0": pytest.approx(error, 0.01)}
    assert done.deviation is not None
    assert done.deviation.describe().endswith("% on 1 s")


def test_progress_comes_with_every_window_and_a_finished_part_counts_at_once(tmp_path: Path) -> None:
    folder, said = tmp_path / "in", []
    write_noise(folder / "a.wav", 1.0)
    write_noise(folder / "b.wav", 3.0)
    settings = FeatureSettings(windows=CUT, part_minutes=(0.01, 0.01))

    def write_again() -> None:
        write_features(
            FakeModel(), list_recordings([folder]), tmp_path / "f.parquet", settings, lambda *at: said.append(at)
        )

    write_again()
    measured, written = said[:4], said[4:]
    assert {done for done, _ in measured} == {0.0}  # Before and after each pass that measures the deviation.
    steps = [done for done, _ in written]
    assert len(steps) == 7
    assert steps == sorted(set(steps))
    assert said[-1] == (4.0, 4.0)
    (tmp_path / "f.parquet").rename(parts_of(tmp_path / "f.parquet"))
    (parts_of(tmp_path / "f.parquet") / "part-00001.parquet").unlink()
    said.clear()
    write_again()
    assert said[4:] == written
    assert said[4][0] == pytest.approx(1.0, abs=0.02)


def test_windows_that_no_recording_needs_change_nothing_and_others_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    write(folder, tmp_path / "one.parquet", windows=Windows())
    write(folder, tmp_path / "two.parquet", windows=Windows(10.0, 1.0, 0.0))
    assert contents(tmp_path / "one.parquet") == contents(tmp_path / "two.parquet")
    with pytest.raises(UserError, match="holds features in other windows"):
        write(folder, tmp_path / "one.parquet")


def test_memory_holds_a_window_of_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for seed in range(60):
            file.write(0.1 * np.random.default_rng(seed).standard_normal(160_000))
    blocks: list[int] = []
    read = soundfile.SoundFile.read

    def count(self: Any, *arguments: Any, **options: Any) -> Any:
        samples = read(self, *arguments, **options)
        blocks.append(len(samples))
        return samples

    monkeypatch.setattr(audio.soundfile.SoundFile, "read", count)
    model = FakeModel()
    # A window has 60,000 bytes, and the recording more than `window_bytes`: two windows are written together.
    sizes = {"window_bytes": 200_000, "row_group_bytes": 150_000}
    write(path, tmp_path / "f.parquet", model, windows=Windows(), layers=(2,), **sizes)
    assert max(blocks) <= 30 * 16_000
    measured, batches = model.batches[:3], model.batches[3:]
    assert max(length for _, length in measured) == 120 * 16_000  # The whole of two windows, then both.
    assert len(batches) == 10
    assert max(length for _, length in batches) <= 81 * 16_000
    features = FeatureTable(tmp_path / "f.parquet")
    assert features.num_frames == (29_999,)
    tail = audio.read_recording(path)[29_989 * 320 :]
    expected = FakeModel()(tail[None], torch.tensor([len(tail)])).hidden_states[2][0]
    assert torch.equal(features.read(0).hidden_states[2][-10:], expected)
    (part,) = (tmp_path / "f.parquet").iterdir()
    groups = [pq.read_metadata(part).row_group(group) for group in range(pq.read_metadata(part).num_row_groups)]
    assert [group.num_rows for group in groups] == [2] * 5


def test_a_file_that_changed_and_a_state_that_is_no_number_are_named(tmp_path: Path) -> None:
    path = write_noise(tmp_path / "a.wav", 3.0)
    listing = list_recordings([path])
    write_noise(path, 2.5)
    with pytest.raises(UserError, match=r"a\.wav: the file has changed"):
        write_features(FakeModel(), listing, tmp_path / "f.parquet", FeatureSettings(windows=CUT))
    broken = FakeModel()
    broken.weights[1][:] = np.nan
    with pytest.raises(UserError, match=r"a\.wav: layer 1 of fake is NaN or infinite"):
        write(path, tmp_path / "g.parquet", broken)
