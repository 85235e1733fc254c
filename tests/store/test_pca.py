"""One basis for all workers, from the same sample."""

import itertools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.frames import count_frames
from fithubert.store import read_basis, shards
from fithubert.store.codec import Basis, LayerBasis, fit_basis
from fithubert.store.extract import ExtractSettings, Worker, extract_features
from fithubert.store.read import FeatureStore
from tests.store.fakes import FakeModel, fake_manifest

PCA = ExtractSettings("pca_int8", shard_minutes=0.05, batch_seconds=2.0)


def test_workers_that_fit_differently_agree_on_the_first_ones_basis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, numbers, fitted, errors = threading.Barrier(2, timeout=30), itertools.count(1), [], []
    original = shards.fit_basis

    def fit_differently(*inputs: Any) -> Basis:
        exact = original(*inputs)
        # As another machine would: the same axes up to the last bits.
        noise = 1e-6 * next(numbers)
        basis = Basis({layer: replace(part, axes=part.axes + noise) for layer, part in exact.layers.items()})
        fitted.append(basis.digest)
        together.wait()
        return basis

    def work(rank: int) -> None:
        try:
            extract_features(FakeModel(), fake_manifest(), tmp_path, PCA, worker=Worker(rank, 2))
        except Exception as error:
            errors.append(error)

    monkeypatch.setattr(shards, "fit_basis", fit_differently)
    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(fitted)) == 2
    store = FeatureStore.open(tmp_path)
    assert read_basis(tmp_path, store.info).digest in fitted
    for index in range(len(store)):
        store.read(index)
    monkeypatch.undo()
    report = extract_features(FakeModel(), fake_manifest(), tmp_path, PCA)
    assert report.written == ()
    assert max(layer.relative_error for layer in report.metrics.layers.values()) < 0.0101


def test_the_sample_is_bounded_and_drawn_from_the_whole_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SAMPLE_SECONDS", 3.0)
    manifest = fake_manifest(40)
    taken: list[int] = []
    original = shards.fit_basis
    monkeypatch.setattr(
        shards, "fit_basis", lambda states, *rest: taken.extend(len(s[0]) for s in states) or original(states, *rest)
    )
    extract_features(FakeModel(), manifest, tmp_path / "store", PCA)
    assert 3.0 <= sum(taken) / 50 + 0.02 * len(taken) < 5.0
    in_order = [count_frames(u.num_samples) for u in manifest.utterances[: len(taken)]]
    assert sorted(taken) != sorted(in_order)


def test_axes_are_those_of_the_covariance_and_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=generator) * torch.tensor([1.0, 30.0, 5.0]) + torch.tensor([0.0, 7.0, -3.0])
    basis: LayerBasis = fit_basis([[x]], (0,), 0.9999).layers[0]
    torch.testing.assert_close(basis.mean, x.mean(0))
    assert basis.axes.abs().argmax(1).tolist() == [1, 2, 0][: basis.components]
