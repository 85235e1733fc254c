"""Writing and reading a store: round trips, crops, expectations, and reading without the project."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fithubert
from fithubert.data.batching import Crop
from fithubert.data.manifest import Manifest, Utterance
from fithubert.errors import UserError
from fithubert.frames import count_frames, count_samples, pad_waveforms
from fithubert.store import Expected
from fithubert.store.codec import CODECS, find_codec
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from tests.fakes import tiny_hubert
from tests.store.fakes import FakeModel, fake_manifest


@pytest.fixture(autouse=True, scope="module")
def _small_row_groups() -> Iterator[None]:
    """A few utterances to a row group, as in a store of real size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fithubert.store.shards.ROW_GROUP_BYTES", 60_000)
        yield


@pytest.fixture(scope="module", params=["float16", "int8", "pca_int8"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    manifest, model, path = fake_manifest(), FakeModel(), tmp_path_factory.mktemp("store")
    settings_ = ExtractSettings(codec=request.param, shard_minutes=0.05, batch_seconds=2.0)
    report = extract_features(model, manifest, path, settings_)
    return SimpleNamespace(manifest=manifest, model=model, path=path, report=report, codec=request.param)


def live(model: FakeModel, waveform: torch.Tensor) -> tuple[torch.Tensor, ...]:
    waveforms, lengths = pad_waveforms([waveform])
    return tuple(state[0] for state in model(waveforms, lengths).hidden_states)


def test_cached_is_live_within_the_stated_error(stored: SimpleNamespace) -> None:
    store = fithubert.load_features(stored.path)
    assert store.ids == tuple(u.id for u in stored.manifest.utterances)
    assert store.num_frames == tuple(count_frames(u.num_samples) for u in stored.manifest.utterances)
    error, spread = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for index, utterance in enumerate(stored.manifest.utterances):
        waveform = stored.manifest.read(utterance)
        row = store.read(utterance.id)
        assert row.waveform is not None
        assert torch.equal(row.waveform, waveform)
        assert torch.equal(store.read(index, [1]).hidden_states[1], row.hidden_states[1])
        for layer, state in enumerate(live(stored.model, waveform)):
            assert row.hidden_states[layer].shape == state.shape
            error[layer] += (row.hidden_states[layer].double() - state.double()).square().sum()
            spread[layer] += (state.double() - state.double().mean(0)).square().sum()
    measured = (error / spread).sqrt().tolist()
    for layer, value in zip(stored.report.metrics.layers.values(), measured, strict=True):
        assert value == pytest.approx(layer.relative_error, rel=1e-6)
        assert layer.relative_error < 0.0101  # what pca_int8 is asked to keep: the root of 1 - 0.9999
        assert layer.worst_channel_error < 0.02


def test_report_counts_what_is_on_disk(stored: SimpleNamespace) -> None:
    metrics = stored.report.metrics
    files = list(stored.path.glob("shard-*.parquet"))
    assert len(files) == len(stored.report.written) > 3
    assert metrics.bytes == sum(f.stat().st_size for f in files)
    assert metrics.audio_seconds == sum(u.num_samples for u in stored.manifest.utterances) / 16_000
    again = extract_features(
        FakeModel(), stored.manifest, stored.path, ExtractSettings(stored.codec, shard_minutes=0.05)
    )
    assert again.written == ()
    assert again.metrics == metrics


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_crops_are_slices(stored: SimpleNamespace, data: st.DataObject) -> None:
    store = FeatureStore.open(stored.path, cache_bytes=data.draw(st.sampled_from([1, 10**9])))
    crops = []
    for index in data.draw(st.lists(st.integers(0, len(store) - 1), min_size=1, max_size=5)):
        start = data.draw(st.integers(0, store.num_frames[index] - 1))
        count = data.draw(st.integers(1, store.num_frames[index] - start))
        crops.append(Crop(index=index, start_frame=start, num_frames=count))
    layers = data.draw(st.lists(st.sampled_from([0, 1, 2]), unique=True, min_size=1))
    batch = store.read_batch(crops, layers)
    assert list(batch.hidden_states) == layers
    assert batch.frame_lengths.tolist() == [crop.num_frames for crop in crops]
    assert batch.waveforms is not None
    for place, crop in enumerate(crops):
        whole = store.read(crop.index)
        assert whole.waveform is not None
        samples, frames = int(batch.lengths[place]), crop.num_frames
        assert samples == count_samples(frames)
        assert count_frames(samples) == frames
        heard = whole.waveform[crop.start_frame * 320 : (crop.start_frame + frames - 1) * 320 + 400]
        assert torch.equal(batch.waveforms[place, :samples], heard)
        assert not batch.waveforms[place, samples:].any()
        for layer in layers:
            part = whole.hidden_states[layer][crop.start_frame : crop.start_frame + frames]
            # A rotation adds up in an order that depends on the number of frames.
            tolerance = 1e-5 * float(part.abs().max()) if stored.codec == "pca_int8" else 0.0
            torch.testing.assert_close(batch.hidden_states[layer][place, :frames], part, rtol=0, atol=tolerance)
            assert not batch.hidden_states[layer][place, frames:].any()


def test_layers_and_waveform_on_demand(tmp_path: Path) -> None:
    manifest = fake_manifest(4)
    extract_features(FakeModel(), manifest, tmp_path, ExtractSettings(layers=(2, 0), with_waveform=False))
    store = FeatureStore.open(tmp_path)
    assert (store.layers, store.widths) == ((0, 2), (6, 5))
    assert store.read(0).waveform is None
    assert store.read_batch([Crop(index=1, start_frame=0, num_frames=2)]).waveforms is None
    with pytest.raises(UserError, match=r"layers \[1\] are missing; it holds \[0, 2\]"):
        store.read(0, [1])
    with pytest.raises(UserError, match="no utterance 'nobody'"):
        store.read("nobody")
    with pytest.raises(ValueError, match="exceeds utterance utt-00"):
        store.read_batch([Crop(index=0, start_frame=0, num_frames=2)])


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (Expected(model="f" * 32), "the model's weights differs"),
        (Expected(corpus="f" * 32), "the corpus differs"),
        (Expected(codec="float32"), "the codec differs: .* here, float32 wanted"),
        (Expected(layers=(0, 3)), r"layers \[3\] are missing; it holds \[0, 1, 2\]"),
    ],
)
def test_foreign_store_is_refused(stored: SimpleNamespace, expected: Expected, words: str) -> None:
    with pytest.raises(UserError, match=f"{words}.*; run `fithubert cache` again"):
        FeatureStore.open(stored.path, expect=expected)
    FeatureStore.open(
        stored.path, expect=Expected(FakeModel().fingerprint, stored.manifest.fingerprint, stored.codec, (0,))
    )


def test_the_command_that_makes_a_missing_store_is_named(tmp_path: Path) -> None:
    for folder, command in (("extract/thin", "extract thin"), ("cache/train", "cache")):
        with pytest.raises(UserError, match=f"no feature store .*; run `fithubert {command}` first"):
            FeatureStore.open(tmp_path / folder)


def test_pages_carry_checksums_and_the_schema_its_recipe(stored: SimpleNamespace) -> None:
    metadata = pq.read_metadata(stored.path / "shard-00000.parquet").metadata
    assert b'"codec": "%s"' % stored.codec.encode() in metadata[b"fithubert.store"]
    assert find_codec(stored.codec).recipe.encode() == metadata[b"fithubert.recipe"]
    assert b"little-endian" in metadata[b"fithubert.recipe"]
    assert b"worst_channel_error" in metadata[b"fithubert.statistics"]


def test_memory_stays_within_the_bound(stored: SimpleNamespace) -> None:
    store = FeatureStore.open(stored.path, cache_bytes=50_000)
    for index in list(range(len(store))) * 2:
        store.read(index)
        assert store.cached_bytes <= 50_000


def test_store_travels_to_other_processes(stored: SimpleNamespace) -> None:
    store = FeatureStore.open(stored.path)
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.read(3).hidden_states[1], store.read(3).hidden_states[1])


def test_real_corpus_and_teacher(tmp_path: Path) -> None:
    """Recordings on disk and a HuBERT: cached states are the live ones of each utterance alone."""
    utterances = []
    for index, fake in enumerate(fake_manifest(5).utterances):
        audio = fake_manifest(5).read(fake).numpy()
        soundfile.write(tmp_path / f"{index}.flac", audio, 16_000, subtype="PCM_16")
        utterances.append(Utterance(f"u{index}", f"{index}.flac", str(index), "train", "sentence", fake.num_samples))
    manifest = Manifest(tuple(utterances), tmp_path)
    teacher = tiny_hubert()
    report = extract_features(teacher, manifest, tmp_path / "store")
    store = FeatureStore.open(tmp_path / "store", expect=Expected(teacher.fingerprint, manifest.fingerprint))
    assert max(layer.relative_error for layer in report.metrics.layers.values()) < 0.01
    for utterance in manifest:
        waveform = manifest.read(utterance)
        states = teacher(waveform[None], torch.tensor([len(waveform)])).hidden_states
        row = store.read(utterance.id)
        assert torch.equal(row.waveform, waveform)  # type: ignore[arg-type]
        for layer, state in enumerate(states):
            step = (state[0].amax(0) - state[0].amin(0)) / 254
            assert ((row.hidden_states[layer] - state[0]).abs() <= 0.51 * step + 1e-4).all()


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_readable_without_the_project(codec: str, tmp_path: Path) -> None:
    manifest = fake_manifest()
    extract_features(FakeModel(), manifest, tmp_path, ExtractSettings(codec, shard_minutes=0.05))
    store = FeatureStore.open(tmp_path)
    rows = duckdb.sql(f"select * from read_parquet('{tmp_path}/shard-*.parquet')")
    found = [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]
    assert {row["id"] for row in found} == {u.id for u in manifest.utterances}
    axes = {}
    if CODECS[codec].fitted:
        rows = duckdb.sql(f"select * from read_parquet('{tmp_path}/_basis-*.parquet')")
        axes = {row[0]: dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()}
    for row in found:
        utterance = next(u for u in manifest.utterances if u.id == row["id"])
        waveform = np.frombuffer(row["waveform"], "<i2").astype(np.float32) / 32768
        np.testing.assert_array_equal(waveform, manifest.read(utterance).numpy())
        for layer, hidden in store.read(row["id"]).hidden_states.items():
            names = {"numpy": np, "data": row[f"layer_{layer}"], "basis": axes.get(layer)}
            names["T"], names["W"] = hidden.shape
            exec(CODECS[codec].by_hand, names)
            np.testing.assert_allclose(names["value"], hidden.numpy(), rtol=1e-5, atol=1e-5)
