"""Recordings as units: the nearest centres of the model's states, the same every time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fithubert.data.listing import ListedRecordings, list_recordings
from fithubert.errors import UserError
from fithubert.models.windows import Windows
from fithubert.pretrain import discretise
from fithubert.pretrain.discretise import (
    UnitOptions,
    describe_codebook,
    fit_codebook,
    units_schema,
    write_units,
)
from fithubert.pretrain.units import Codebook, load_codebook, save_codebook
from fithubert.training.units import UnitModel
from tests.fakes import FakeModel, write_folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> ListedRecordings:
    return list_recordings([write_folder(tmp_path_factory.mktemp("recordings"))]).recordings


def fit(recordings: ListedRecordings, **options: Any) -> Codebook:
    model = FakeModel()
    return fit_codebook(
        model, recordings, describe_codebook(model, recordings, **{"layer": 1, "clusters": 7, **options})
    )


def test_units_are_the_nearest_centres_of_each_recording_alone(recordings: ListedRecordings, tmp_path: Path) -> None:
    codebook, out = fit(recordings), tmp_path / "units.parquet"
    done = write_units(FakeModel(), recordings, codebook, out)
    rows = duckdb.sql(f"select path, frames, seconds, frame_rate_hz, units from '{out}'").fetchall()
    assert [row[0] for row in rows] == [u.id for u in recordings]
    for utterance, (_, frames, seconds, rate, units) in zip(recordings, rows, strict=True):
        waveform = recordings.read(utterance)
        states = FakeModel()(waveform[None], torch.tensor([len(waveform)])).hidden_states[1][0]
        scaled = (states - codebook.units.mean) / codebook.units.scale
        nearest = torch.cdist(scaled.double(), codebook.units.centres.double()).argmin(1)
        assert units == nearest.tolist()
        assert (frames, rate) == (len(units), 50.0)
        assert seconds == pytest.approx(len(waveform) / 16_000)
    assert pq.read_schema(out).field("units").type.value_type == "int16"
    assert done.frames == done.tokens == sum(row[1] for row in rows)
    assert done.used == len({unit for row in rows for unit in row[4]})
    info = json.loads(pq.read_schema(out).metadata[b"fithubert.units"])
    assert (info["model"], info["layer"], info["clusters"], info["codebook"]) == ("fake", 1, 7, codebook.fingerprint)


def test_windows_and_batches_change_nothing(recordings: ListedRecordings, tmp_path: Path) -> None:
    codebook = fit(recordings)
    write_units(FakeModel(), recordings, codebook, tmp_path / "whole.parquet")
    options = UnitOptions(batch_seconds=2.0, window_seconds=3.0)
    write_units(FakeModel(), recordings, codebook, tmp_path / "cut.parquet", options)
    assert pq.read_table(tmp_path / "cut.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    assert pq.read_metadata(tmp_path / "cut.parquet").num_row_groups > 1


def test_recordings_in_windows_have_the_units_of_the_whole_and_say_so(
    recordings: ListedRecordings, tmp_path: Path
) -> None:
    windows = Windows(whole_seconds=2.0, window_seconds=0.5, context_seconds=0.1)
    codebook = fit(recordings, windows=windows)
    save_codebook(codebook, tmp_path / "book")
    assert load_codebook(tmp_path / "book").info.windows == windows
    assert fit(recordings).info.windows is None
    done: list[tuple[float, float]] = []
    write_units(FakeModel(), recordings, codebook, tmp_path / "whole.parquet")
    options = UnitOptions(windows=windows)
    write_units(FakeModel(), recordings, codebook, tmp_path / "cut.parquet", options, lambda *now: done.append(now))
    assert done[-1][0] == done[-1][1]
    whole, cut = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "cut"))
    assert cut.replace_schema_metadata().equals(whole.replace_schema_metadata())
    stored = [json.loads(table.schema.metadata[b"fithubert.units"]) for table in (whole, cut)]
    assert "windows" not in stored[0]
    assert Windows(**stored[1]["windows"]) == windows
    assert b"fithubert.deviation" not in whole.schema.metadata
    deviation = json.loads(cut.schema.metadata[b"fithubert.deviation"])
    assert (deviation["seconds"], deviation["relative_error"]) == (1.0, {"1": 0.0})


def test_deduplicated_units_with_durations_are_the_units(recordings: ListedRecordings, tmp_path: Path) -> None:
    codebook = fit(recordings, clusters=2)
    write_units(FakeModel(), recordings, codebook, tmp_path / "all.parquet")
    done = write_units(FakeModel(), recordings, codebook, tmp_path / "dedup.parquet", UnitOptions(dedup=True))
    plain, joined = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("all", "dedup"))
    for row, short in zip(plain, joined, strict=True):
        assert np.repeat(short["units"], short["durations"]).tolist() == row["units"]
        assert sum(short["durations"]) == short["frames"]
        assert np.diff(short["units"]).all()
    assert done.tokens == sum(len(row["units"]) for row in joined) < done.frames


def test_soft_units_are_those_of_the_public_formula_next_to_the_hard_ones(
    recordings: ListedRecordings, tmp_path: Path
) -> None:
    """bshall/hubert: `torch.cosine_similarity(x.unsqueeze(2), embedding, dim=-1) / 0.1`, then softmax."""
    codebook, plain = fit(recordings), {}
    windows = Windows(whole_seconds=2.0, window_seconds=0.5, context_seconds=0.1)
    for name, options in (
        ("hard", UnitOptions()),
        ("soft", UnitOptions(soft=True, dedup=True)),
        ("cut", UnitOptions(soft=True, windows=windows)),
    ):
        write_units(FakeModel(), recordings, codebook, tmp_path / name, options)
        plain[name] = pq.read_table(tmp_path / name).to_pylist()
        info = json.loads(pq.read_schema(tmp_path / name).metadata[b"fithubert.units"])
        assert info["soft"] == options.soft
    for utterance, hard, soft, cut in zip(recordings, plain["hard"], plain["soft"], plain["cut"], strict=True):
        waveform = recordings.read(utterance)
        states = FakeModel()(waveform[None], torch.tensor([len(waveform)])).hidden_states[1].double()
        scaled = (states - codebook.units.mean) / codebook.units.scale
        centres = codebook.units.centres.double()[None, None]
        wanted = torch.softmax(torch.cosine_similarity(scaled.unsqueeze(2), centres, dim=-1) / 0.1, dim=-1)[0]
        found = torch.tensor(soft["soft"]).unflatten(0, (soft["frames"], 7))
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.tensor(cut["soft"]), found.flatten(), atol=1e-5, rtol=1e-4)
        assert np.repeat(soft["units"], soft["durations"]).tolist() == hard["units"]
    assert "soft" not in plain["hard"][0]


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(
    recordings: ListedRecordings, tmp_path: Path
) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        write_units(FakeModel(), recordings, fit(recordings, seed=seed), tmp_path / name)
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_the_sample_is_bounded(recordings: ListedRecordings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, fit_units = [], discretise.fit_units
    monkeypatch.setattr(
        discretise, "fit_units", lambda frames, *more: seen.append(len(frames)) or fit_units(frames, *more)
    )
    fit(recordings, sample_frames=150)
    fit(recordings)
    assert seen[0] == 150
    assert seen[1] > 500


def test_a_codebook_is_read_as_it_was_written(recordings: ListedRecordings, tmp_path: Path) -> None:
    codebook = fit(recordings)
    save_codebook(codebook, tmp_path / "book")
    for place in ("book", "book/codebook.safetensors", "book/config.json"):
        again = load_codebook(tmp_path / place)
        assert again.info == codebook.info
        assert again.fingerprint == codebook.fingerprint
    save_codebook(fit(recordings, seed=2), tmp_path / "other")
    (tmp_path / "other" / "config.json").replace(tmp_path / "book" / "config.json")
    with pytest.raises(UserError, match=r"does not match the config\.json next to it"):
        load_codebook(tmp_path / "book")
    (tmp_path / "book" / "codebook.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_codebook(tmp_path / "book")
    (tmp_path / "book" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not a codebook of `fithubert units`"):
        load_codebook(tmp_path / "book")


def test_a_codebook_of_other_weights_is_refused_and_nothing_is_written(
    recordings: ListedRecordings, tmp_path: Path
) -> None:
    codebook = fit(recordings)
    with pytest.raises(UserError, match="--codebook: it is of fake, with other weights"):
        write_units(FakeModel(seed=1), recordings, codebook, tmp_path / "u.parquet")
    with pytest.raises(UserError, match="clusters need at least as many frames"):
        fit(recordings, clusters=10_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("clusters", [1, 2**15, 2**15 + 1, 2**20])
def test_more_clusters_than_int16_holds_are_int32(clusters: int) -> None:
    info = replace(describe_codebook(FakeModel(), ListedRecordings((), Path()), 0, 1), clusters=clusters)
    units = UnitModel(torch.zeros(1, 1), torch.zeros(1), torch.ones(1))
    schema = units_schema(Codebook(info, units), 50.0, UnitOptions())
    largest = np.iinfo(schema.field("units").type.value_type.to_pandas_dtype()).max
    assert largest >= clusters - 1
