"""Features of recordings as flat Parquet files: readable by anyone, and exact after any interruption."""

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
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
from fithubert.files import only_writer
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechOutput
from fithubert.store import recordings as writer
from fithubert.store.recordings import FeatureSettings, WrittenFeatures, write_features
from fithubert.store.table import load_features, parts_of
from tests.fakes import write_folder, write_noise
from tests.models.shapes import strong, tiny
from tests.store.fakes import FakeModel, contents, flip_byte

#: Several parts, windows and row groups from little audio.
SMALL = FeatureSettings(batch_seconds=4.0, part_minutes=(0.1, 0.1), window_bytes=40_000, row_group_bytes=8_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("recordings"))


def write(folder: Path, out: Path, model: Any = None, **options: Any) -> WrittenFeatures:
    return write_features(model or FakeModel(), list_recordings([folder]), out, replace(SMALL, **options))


def run_alone(model: Any, path: str) -> list[np.ndarray]:
    waveform = read_recording(Path(path))
    states = model(waveform[None], torch.tensor([len(waveform)])).hidden_states
    return [state[0].numpy() for state in states]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pandas_and_duckdb_read_the_states_of_each_recording_alone(folder: Path, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "deep" / "features.parquet"
    done = write(folder, out, dtype=dtype)
    frame = pandas.read_parquet(out)
    names = ["path", "seconds", "layer", "first_frame", "frames", "width", "frame_rate_hz", "features"]
    assert list(frame.columns) == names
    assert (frame.first_frame == 0).all()
    assert len(frame) == 3 * done.recordings == 36
    assert len(list(out.iterdir())) > 1
    assert pq.read_metadata(out / "part-00000.parquet").num_row_groups > 1
    assert done.num_bytes == sum(map(len, contents(out).values()))
    rows = duckdb.sql(f"select path, layer, frames, width, features from '{out}/*.parquet'").fetchall()
    assert [row[:2] for row in rows] == sorted(row[:2] for row in rows)
    tolerance = {"float32": 0.0, "float16": 1e-3}[dtype]
    for (path, layer, frames, width, values), (_, row) in zip(rows, frame.iterrows(), strict=True):
        alone = run_alone(FakeModel(), path)[layer]
        np.testing.assert_allclose(row.features.reshape(row.frames, row.width), alone, rtol=tolerance, atol=1e-4)
        np.testing.assert_array_equal(np.reshape(values, (frames, width)), row.features.reshape(frames, width))
        assert row.seconds == pytest.approx(len(read_recording(Path(path))) / 16_000)
        assert row.features.dtype == dtype
    assert (frame.frame_rate_hz == 50).all()
    assert not parts_of(out).exists()


def test_a_real_student_gives_the_same_states_in_batches_and_alone(folder: Path, tmp_path: Path) -> None:
    student = ReadOut(strong(tiny("armhubert")), "armhubert")
    write(folder, tmp_path / "f.parquet", student)
    features = fithubert.load_features(tmp_path / "f.parquet")
    for path in features.ids:
        for layer, alone in enumerate(run_alone(student, path)):
            np.testing.assert_allclose(features.read(path).hidden_states[layer].numpy(), alone, atol=1e-4)


def test_the_schema_has_the_origin_of_the_features(folder: Path, tmp_path: Path) -> None:
    write(folder, tmp_path / "f.parquet", layers=(0, 2))
    info = json.loads(pq.read_schema(tmp_path / "f.parquet" / "part-00000.parquet").metadata[b"fithubert.features"])
    assert (info["model"], info["fingerprint"]) == ("fake", FakeModel().fingerprint)
    assert (info["layers"], info["widths"], info["frame_rate_hz"], info["dtype"]) == ([0, 2], [6, 5], 50.0, "float32")


class Mortal(FakeModel):
    """Its process is killed in its call number `dies`."""

    def __init__(self, dies: int) -> None:
        super().__init__()
        self.dies = dies

    def __call__(self, *arguments: Any) -> SpeechOutput:
        if len(self.batches) == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(*arguments)


def run_until_killed(folder: Path, out: Path, dies: int) -> None:
    """Write features in a process that is killed in the model's call number `dies`."""

    def work() -> None:
        write(folder, out, Mortal(dies))

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


@pytest.mark.parametrize("damage", [False, True])
def test_killed_and_run_again_is_never_killed(folder: Path, partial: Path, tmp_path: Path, damage: bool) -> None:
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    shutil.copytree(partial, parts_of(out))
    finished = sorted(parts_of(out).glob("part-*"))
    assert finished
    if damage:
        flip_byte(finished[-1])
    with pytest.raises(UserError, match="unfinished, run the same command again"):
        load_features(out)
    again, fresh = FakeModel(), FakeModel()
    write(folder, out, again)
    write(folder, whole, fresh)
    assert contents(out) == contents(whole)
    assert len(again.batches) < len(fresh.batches) or damage
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "whole.parquet"]


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
    before = contents(parts_of(out))
    assert before
    with pytest.raises(UserError, match=said):
        write(folder / change.pop("folder", ""), out, **change)
    assert contents(parts_of(out)) == before


def test_a_folder_of_someone_else_in_the_place_of_the_parts_is_left_alone(folder: Path, tmp_path: Path) -> None:
    mine = parts_of(tmp_path / "out.parquet") / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("dear diary")
    with pytest.raises(UserError, match="not left by an interrupted"):
        write(folder, tmp_path / "out.parquet")
    assert mine.read_text() == "dear diary"


def test_finished_features_are_kept_and_others_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert not write(folder, out).found
    before, model = contents(out), FakeModel()
    assert write(folder, out, model).found
    assert model.batches == []
    with pytest.raises(UserError, match="already exists and holds features of layers 0, 1, 2; delete it"):
        write(folder, out, layers=(0,))
    assert contents(out) == before
    (tmp_path / "text.parquet").write_text("mine")
    with pytest.raises(UserError, match="already exists and holds something else"):
        write(folder, tmp_path / "text.parquet")
    assert (tmp_path / "text.parquet").read_text() == "mine"


def test_a_second_writer_of_the_same_features_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with (
        only_writer(parts_of(out), "it"),
        pytest.raises(UserError, match=r"process \d+ is at work on the same"),
    ):
        write(folder, out)
    assert not write(folder, out).found
    assert all(path.name.startswith("part-") for path in out.iterdir())


def test_no_array_holds_more_than_one_layer_so_that_32_bit_offsets_suffice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a recording is, Arrow's offsets then count the numbers of one layer of it only."""
    lengths: list[int] = []
    write_table, iter_batches = pq.ParquetWriter.write_table, pq.ParquetFile.iter_batches

    def write_counted(writer: Any, table: Any) -> None:
        lengths.extend(map(len, table.column("features").chunks))
        write_table(writer, table)

    def read_counted(file: Any, **options: Any) -> Any:
        for batch in iter_batches(file, **options):
            lengths.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_counted)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", read_counted)
    write(folder, tmp_path / "f.parquet")
    assert lengths == [1] * 36
    features = load_features(tmp_path / "f.parquet")
    assert set(features.read(11).hidden_states) == {0, 1, 2}
    assert set(lengths) == {1}
    assert len(lengths) > 36


def test_damage_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    write(folder, out)
    part = out / "part-00000.parquet"
    flip_byte(part)
    features = load_features(out)
    assert features.read(0).hidden_states
    with pytest.raises(UserError, match="damaged"):
        [features.read(index) for index in range(len(features))]
    last, whole = max((path, path.read_bytes()) for path in out.glob("part-*"))
    last.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"out\.parquet: damaged"):
        load_features(out)
    last.write_bytes(whole)
    part.unlink()
    with pytest.raises(UserError, match=r"out\.parquet: \d of \d parts; delete it"):
        load_features(out)
    with pytest.raises(UserError, match=r"no such file or folder$"):
        load_features(tmp_path / "nothing.parquet")
    with pytest.raises(UserError, match="not an output of `fithubert features`"):
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
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="GB are free; take fewer layers or --dtype float16"):
        write(folder, tmp_path / "f.parquet")
    assert not list(tmp_path.rglob("*.parquet"))
