"""Students, teachers and feature stores that earlier versions wrote still load, and mean the same.

`recorded/before_rooms` was written by revision d2c7c25, before the code was divided into its present rooms.
"""

import json
from pathlib import Path

import pytest
import torch

from fithubert import load_features, load_student, load_teacher
from fithubert.data.batching import Crop
from fithubert.models.runtime import ReadOut
from fithubert.store.read import FeatureStore

RECORDED = Path(__file__).parent / "recorded" / "before_rooms"
EXPECTED = json.loads((RECORDED / "expected.json").read_text())
TIME = torch.arange(4000)
WAVEFORM = torch.sin(TIME / 7.0) * 0.3 + 0.1 * torch.sin(TIME / 31.0)


@pytest.mark.parametrize("name", ["fithubert", "distilhubert", "teacher"])
def test_a_model_of_an_earlier_version_gives_the_same_hidden_states(name: str) -> None:
    folder = RECORDED / name
    model = load_teacher(folder) if name == "teacher" else ReadOut(load_student(folder), name)
    assert model.fingerprint == EXPECTED[name]["fingerprint"]
    out = model(WAVEFORM[None], torch.tensor([4000]))
    assert out.lengths.tolist() == EXPECTED[name]["lengths"]
    assert out.hidden_states[-1][0, -1].tolist() == pytest.approx(EXPECTED[name]["last"], abs=1e-5)


@pytest.mark.parametrize("codec", ["float16", "int8", "pca_int8"])
def test_a_store_of_an_earlier_version_is_read(codec: str) -> None:
    store, expected = FeatureStore.open(RECORDED / f"store_{codec}"), EXPECTED[f"store_{codec}"]
    assert store.info.fingerprint == expected["fingerprint"]
    batch = store.read_batch([Crop(1, 0, store.num_frames[1])], store.layers)
    assert list(batch.ids) == expected["ids"]
    sums = {str(layer): states.double().sum().item() for layer, states in batch.hidden_states.items()}
    assert sums == pytest.approx(expected["sum"])
    assert batch.waveforms is not None
    assert batch.waveforms.double().abs().sum().item() == pytest.approx(expected["waveform"])


def test_a_feature_file_of_an_earlier_version_is_read() -> None:
    assert load_features(RECORDED / "features.parquet") is not None
