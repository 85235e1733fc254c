"""Published codebooks give the units of the model that wrote them, and nothing in their files is run."""

import os
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from fithubert.errors import UserError
from fithubert.importers.codebooks import read_centres


@pytest.fixture(scope="module", params=[KMeans, MiniBatchKMeans])
def model(request: pytest.FixtureRequest) -> Any:
    frames = np.random.default_rng(0).standard_normal((200, 6)).astype(np.float32)
    return request.param(5, n_init=1, random_state=np.random.RandomState(0)).fit(frames)


def write(path: Path, model: Any) -> None:
    """The model as projects publish it, by the ending of `path`."""
    centres = model.cluster_centers_
    if path.suffix == ".npy":
        np.save(path, np.asfortranarray(centres))
    elif path.suffix == ".pt":
        torch.save({"n_features_in_": 6, "_n_threads": 4, "cluster_centers_": torch.from_numpy(centres)}, path)
    elif path.suffix == ".pickle":
        path.write_bytes(pickle.dumps(model))
    else:
        joblib.dump(model, path)


@pytest.mark.parametrize("name", ["km.bin", "kmeans.joblib", "kmeans.pickle", "kmeans.npy", "kmeans.pt"])
def test_the_centres_are_the_models(model: Any, name: str, tmp_path: Path) -> None:
    write(tmp_path / name, model)
    centres = read_centres(tmp_path / name)
    assert centres.dtype == torch.float32
    np.testing.assert_array_equal(centres.numpy(), model.cluster_centers_)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("dump", [joblib.dump, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_hostile_file_is_refused_and_not_run(model: Any, dump: Any, tmp_path: Path) -> None:
    for number, value in enumerate([Hostile(tmp_path / "run"), {"a": np.array([Hostile(tmp_path / "run")])}]):
        path = tmp_path / f"{number}.bin"
        dump(value, path)
        with pytest.raises(UserError, match=r"\.bin: refused, nothing was run: it holds"):
            read_centres(path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a pickle nor an array"),
        (b"\x1f\x8b compressed", "decompress a compressed file first"),
        (b"\x80\x04garbage", "not readable as a codebook"),
        (pickle.dumps({"centres": 3}), "holds no cluster_centers_"),
        (pickle.dumps({"cluster_centers_": np.zeros(3)}), r"holds no cluster_centers_ \(clusters, feature\)"),
        (pickle.dumps({"cluster_centers_": np.full((2, 3), np.nan)}), "centres that are not finite"),
    ],
)
def test_a_file_without_centres_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_centres(path)


def test_every_cut_of_a_joblib_file_is_refused(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    joblib.dump(model, path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            read_centres(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"km\.bin: no such file"):
        read_centres(tmp_path / "km.bin")
