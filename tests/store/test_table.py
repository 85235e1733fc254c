"""One Parquet file of features: what the model says, read by anyone, whatever happened while it was written."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch

import fithubert
from fithubert.data.audio import read_recording
from fithubert.data.listing import list_recordings
from fithubert.errors import UserError
from fithubert.models.readout import ReadOut
from fithubert.models.speech_model import SpeechOutput
from fithubert.store import recordings as room
from fithubert.store import table
from fithubert.store.recordings import WrittenFeatures, write_features
from fithubert.store.table import FeatureTable, load_features, parts_of
from tests.models.shapes import strong, tiny
from tests.recordings import write_folder, write_noise
from tests.store.fakes import FakeModel

#: Bounds of the minutes in a part.
SMALL_PARTS = (0.1, 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_SHARD_MINUTES", SMALL_PARTS)
    monkeypatch.setattr(table, "_ROW_GROUP_BYTES", 15_000)


def write(folder: Path, out: Path, model: Any = None, **options: Any) -> WrittenFeatures:
    return write_features(model or FakeModel(), list_recordings([folder]), out, **{"batch_seconds": 4.0, **options})


def hear_alone(model: Any, path: str) -> list[np.ndarray]:
    waveform = read_recording(Path(path))
    states = model(waveform[None], torch.tensor([len(waveform)])).hidden_states
    return [state[0].numpy() for state in states]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pandas_and_duckdb_read_what_the_model_says_of_each_recording_alone(
    folder: Path, tmp_path: Path, dtype: str
) -> None:
    out = tmp_path / "deep" / "features.parquet"
    done = write(folder, out, dtype=dtype)
    frame = pandas.read_parquet(out)
    assert list(frame.columns) == ["path", "seconds", "layer", "frames", "width", "frame_rate_hz", "features"]
    assert len(frame) == 3 * done.recordings == 36
    assert pq.read_metadata(out).num_row_groups > 1
    rows = duckdb.sql(f"select path, layer, frames, width, features from '{out}'").fetchall()
    assert [row[:2] for row in rows] == sorted(row[:2] for row in rows)
    tolerance = {"float32": 0.0, "float16": 1e-3}[dtype]
    for (path, layer, frames, width, values), (_, row) in zip(rows, frame.iterrows(), strict=True):
        alone = hear_alone(FakeModel(), path)[layer]
        np.testing.assert_allclose(row.features.reshape(row.frames, row.width), alone, rtol=tolerance, atol=1e-4)
        np.testing.assert_array_equal(np.reshape(values, (frames, width)), row.features.reshape(frames, width))
        assert row.seconds == pytest.approx(len(read_recording(Path(path))) / 16_000)
        assert row.features.dtype == dtype
    assert (frame.frame_rate_hz == 50).all()
    assert not parts_of(out).exists()


def test_a_real_student_says_in_batches_what_it_says_alone(folder: Path, tmp_path: Path) -> None:
    student = ReadOut(strong(tiny("armhubert")), "armhubert")
    write(folder, tmp_path / "f.parquet", student)
    features = fithubert.load_features(tmp_path / "f.parquet")
    for path in features.ids:
        for layer, alone in enumerate(hear_alone(student, path)):
            np.testing.assert_allclose(features.read(path).hidden_states[layer].numpy(), alone, atol=1e-4)


def test_the_schema_says_where_the_features_came_from(folder: Path, tmp_path: Path) -> None:
    write(folder, tmp_path / "f.parquet", layers=(0, 2))
    said = json.loads(pq.read_schema(tmp_path / "f.parquet").metadata[b"fithubert.features"])
    assert said["model"] == "fake"
    assert said["fingerprint"] == FakeModel().fingerprint
    assert (said["layers"], said["widths"], said["frame_rate_hz"], said["dtype"]) == ([0, 2], [6, 5], 50.0, "float32")


def test_the_reader_of_the_file_answers_like_that_of_the_store(folder: Path, tmp_path: Path) -> None:
    write(folder, tmp_path / "f.parquet", layers=(1, 2))
    features = load_features(tmp_path / "f.parquet")
    assert isinstance(features, FeatureTable)
    assert len(features) == len(features.ids) == 12
    assert (features.layers, features.widths) == ((1, 2), (8, 5))
    for index, path in enumerate(features.ids):
        alone = hear_alone(FakeModel(), path)
        row = features.read(index, layers=[2])
        assert row.id == path
        assert set(row.hidden_states) == {2}
        torch.testing.assert_close(row.hidden_states[2], torch.from_numpy(alone[2]))
        assert len(alone[0]) == features.num_frames[index]
    with pytest.raises(UserError, match="no features of 'nobody'"):
        features.read("nobody")
    with pytest.raises(UserError, match=r"layers \[0\] are missing; it holds \[1, 2\]"):
        features.read(0, layers=[0])


class Mortal(FakeModel):
    """Its process is killed in its call number `dies`."""

    def __init__(self, dies: int) -> None:
        super().__init__()
        self.dies = dies

    def __call__(self, *arguments: Any) -> SpeechOutput:
        if len(self.batches) == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(*arguments)


def run_until_killed(folder: Path, out: Path, dies: int | None) -> None:
    """Write features in a process that is killed: in the model's call number `dies`, or (None) in the last step."""

    def work() -> None:
        rows = table._rows
        room._SHARD_MINUTES = SMALL_PARTS
        if dies is None:
            table._rows = lambda *given: os.kill(os.getpid(), signal.SIGKILL) if given[1] == 5 else rows(*given)
        write_features(Mortal(-1 if dies is None else dies), list_recordings([folder]), out, batch_seconds=4.0)

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def partial(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of a run that was killed in the model's fourth call. Do not change them."""
    out = tmp_path_factory.mktemp("killed") / "out.parquet"
    run_until_killed(folder, out, 3)
    return parts_of(out)


@pytest.mark.parametrize("while_merging", [False, True])
def test_killed_and_run_again_is_never_killed(folder: Path, partial: Path, tmp_path: Path, while_merging: bool) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    if while_merging:
        run_until_killed(folder, out, None)
    else:
        shutil.copytree(partial, parts_of(out))
    assert not out.exists()
    with pytest.raises(UserError, match="unfinished, run the same command again"):
        load_features(out)
    again, fresh = FakeModel(), FakeModel()
    write(folder, out, again)
    write(folder, whole, fresh)
    assert out.read_bytes() == whole.read_bytes()
    assert len(again.batches) <= (0 if while_merging else len(fresh.batches) - 2)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["out.parquet", "whole.parquet"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": FakeModel(seed=1)}, r"holds the unfinished features of another model \(fake\); run that command"),
        ({"layers": (1,)}, "holds the unfinished features of layers 0, 1, 2; run"),
        ({"dtype": "float16"}, "holds the unfinished features in float32; run"),
        ({"folder": "nested"}, "holds the unfinished features of other recordings; run"),
    ],
)
def test_a_partial_output_of_another_run_is_refused_and_kept(
    folder: Path, partial: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    out = tmp_path / "out.parquet"
    shutil.copytree(partial, parts_of(out))
    before = {path.name: path.read_bytes() for path in parts_of(out).iterdir()}
    assert before
    with pytest.raises(UserError, match=said):
        write(folder / change.pop("folder", ""), out, **change)
    assert {path.name: path.read_bytes() for path in parts_of(out).iterdir()} == before


def test_a_folder_of_someone_else_in_the_place_of_the_parts_is_left_alone(folder: Path, tmp_path: Path) -> None:
    mine = parts_of(tmp_path / "out.parquet") / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("dear diary")
    with pytest.raises(UserError, match="not what an interrupted run leaves"):
        write(folder, tmp_path / "out.parquet")
    assert mine.read_text() == "dear diary"


def test_a_finished_file_is_kept_and_another_one_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert not write(folder, out).found
    before, model = out.read_bytes(), FakeModel()
    parts_of(out).mkdir()  # as a run leaves them that was killed after its last step but one
    assert write(folder, out, model).found
    assert model.batches == []
    assert not parts_of(out).exists()
    with pytest.raises(UserError, match="is there already and holds features of layers 0, 1, 2; delete it"):
        write(folder, out, layers=(0,))
    assert out.read_bytes() == before
    (tmp_path / "text.parquet").write_text("mine")
    with pytest.raises(UserError, match="is there already and holds something else"):
        write(folder, tmp_path / "text.parquet")
    assert (tmp_path / "text.parquet").read_text() == "mine"


def test_damage_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    write(folder, out)
    rotten = bytearray(out.read_bytes())
    column = pq.read_metadata(out).row_group(1).column(6)
    rotten[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    out.write_bytes(rotten)
    features = load_features(out)
    assert features.read(0).hidden_states
    with pytest.raises(UserError, match="damaged"):
        [features.read(index) for index in range(len(features))]
    with pytest.raises(UserError, match=r"no such file$"):
        load_features(tmp_path / "nothing.parquet")
    with pytest.raises(UserError, match="no features of `fithubert features`"):
        load_features(write_noise(tmp_path / "a.wav", 1.0))


def test_a_recording_shorter_than_the_models_frame_is_skipped(tmp_path: Path) -> None:
    class Slow(FakeModel):
        convolutions = (*FakeModel.convolutions, (50, 50))

    short, bad = write_noise(tmp_path / "a.wav", 0.5), tmp_path / "b.wav"
    bad.write_text("no audio")
    with pytest.raises(UserError, match=r"no usable recording; 2 skipped, the first: .*a\.wav: shorter than one frame"):
        write(tmp_path, tmp_path / "f.parquet", Slow())
    assert [path.name for path in sorted(tmp_path.iterdir())] == [short.name, bad.name]


def test_space_is_checked_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="GB are free; take fewer layers or --dtype float16"):
        write(folder, tmp_path / "f.parquet")
    assert list(tmp_path.iterdir()) == []
