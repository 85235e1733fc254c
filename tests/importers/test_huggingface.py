"""Teachers from Hugging Face directories say what transformers says, to the last layer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fithubert.errors import UserError
from fithubert.frames import pad_waveforms
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertTeacher
from fithubert.models.weights import read_teacher, save_teacher
from tests.importers import public

#: (family, options, whether waveforms are normalised): Base, Large and what else is about.
SHAPES: list[Any] = [
    ("hubert", {}, False),
    ("hubert", public.STABLE, True),
    ("hubert", {"conv_pos_batch_norm": True}, True),
    ("hubert", {"feat_proj_layer_norm": False}, True),
    ("wav2vec2", {}, True),
    ("wav2vec2", {"feat_extract_norm": "layer", "conv_bias": True}, True),
    ("wavlm", {}, False),
    ("wavlm", public.STABLE, True),
    ("data2vec-audio", {}, True),
]


def load(folder: Path | str) -> HubertTeacher:
    return public.load(f"hf:{folder}")


def assert_says_the_same(
    teacher: HubertTeacher, model: Any, normalise: bool, seconds: tuple[float, ...], gain: float = 0.1
) -> None:
    """Every layer of waveforms of these lengths, alone and in a padded batch."""
    waveforms = [gain * (torch.randn(int(length * 16_000)) + 0.1) for length in seconds]
    batched = teacher(*pad_waveforms(waveforms)).hidden_states
    for row, waveform in enumerate(waveforms):
        ours = teacher(waveform[None], torch.tensor([len(waveform)])).hidden_states
        theirs = public.hidden_states(model, waveform, normalise)
        assert len(ours) == len(batched) == len(theirs)
        for one, many, other in zip(ours, batched, theirs, strict=True):
            assert public.relative_error(one[0], other) < 1e-5
            assert public.relative_error(many[row, : len(other)], other) < 1e-4


@pytest.mark.parametrize(("family", "options", "normalise"), SHAPES)
def test_every_layer_equals_transformers(tmp_path: Path, family: str, options: dict[str, Any], normalise: bool) -> None:
    model = public.small(family, **options)
    public.draw_statistics(model)
    teacher = load(public.save(model, tmp_path, normalise))
    assert_says_the_same(teacher, model, normalise, (0.025, 0.31, 1.7))


@pytest.mark.parametrize("gain", [1.0, 0.01, 0.001])
def test_quiet_speech_is_normalised_with_the_epsilon_of_transformers(tmp_path: Path, gain: float) -> None:
    model = public.small("hubert", **public.STABLE)
    teacher = load(public.save(model, tmp_path / "hf", normalise=True))
    assert_says_the_same(teacher, model, True, (0.7,), gain)
    save_teacher(teacher, tmp_path / "ours")
    assert_says_the_same(read_teacher(tmp_path / "ours"), model, True, (0.7,), gain)


@pytest.mark.parametrize("family", public.FAMILIES)
def test_every_layer_equals_transformers_at_base_size(tmp_path: Path, family: str) -> None:
    model = public.build(family, std=0.03)
    teacher = load(public.save(model, tmp_path, normalise=False))
    assert len(teacher.widths) == 13
    assert_says_the_same(teacher, model, False, (2.0,))


@pytest.mark.parametrize("family", public.FAMILIES)
def test_a_head_on_top_changes_nothing(tmp_path: Path, family: str) -> None:
    model = public.small(family, ctc=True)
    public.save(model, tmp_path / "ctc", normalise=False)
    public.save(getattr(model, model.base_model_prefix), tmp_path / "plain", normalise=False)
    assert load(tmp_path / "ctc").fingerprint == load(tmp_path / "plain").fingerprint


def test_contentvecs_final_projection_is_no_hidden_state(saved: Path) -> None:
    fingerprint, path = load(saved).fingerprint, saved / "model.safetensors"
    save_file({**load_file(path), "final_proj.weight": torch.ones(4, 24), "final_proj.bias": torch.ones(4)}, path)
    assert load(saved).fingerprint == fingerprint


def test_old_and_sharded_files_hold_the_same_teacher(tmp_path: Path) -> None:
    model = public.small("hubert")
    teacher = load(public.save(model, tmp_path / "new", normalise=False))
    assert teacher.mask_embedding is not None
    assert torch.equal(teacher.mask_embedding, model.masked_spec_embed)
    fingerprint = teacher.fingerprint
    public.save(model, tmp_path / "shards", False, max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert load(tmp_path / "shards").fingerprint == fingerprint
    old = public.save(model, tmp_path / "old", normalise=False)
    (old / "model.safetensors").unlink()
    torch.save(dict(model.state_dict()), old / "pytorch_model.bin")
    assert load(old).fingerprint == fingerprint
    assert load_teacher(old).fingerprint == fingerprint  # a bare directory of transformers is known by its config.json


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return public.save(public.small("hubert"), tmp_path / "model", normalise=False)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "whisper"}, r"config\.json: model_type 'whisper' is not one of hubert, wav2vec2"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not understood"),
        ({"feat_extract_norm": "batch"}, r"config\.json: conv_norm"),
        ({"conv_stride": [5, 2]}, "must be lists of one length"),
        ({"num_hidden_layers": 4}, r"model\.safetensors: tensor encoder\.layers\.3\.\S+ is missing \(16 missing"),
        ({"num_hidden_layers": 2}, r"tensor encoder\.layers\.2\.\S+ does not belong to this model"),
        ({"intermediate_size": 50}, r"tensor encoder\.layers\.0\.\S+ has shape \(48,\), not \(50,\)"),
    ],
)
def test_a_foreign_configuration_is_named(saved: Path, values: dict[str, Any], words: str) -> None:
    change(saved / "config.json", **values)
    with pytest.raises(UserError, match=words):
        load(saved)


def test_wrong_weights_are_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    state = load_file(path)
    save_file({**state, "encoder.stray.weight": torch.ones(2)}, path)
    with pytest.raises(UserError, match=r"model\.safetensors: tensor encoder\.stray\.weight is of no known part"):
        load(saved)
    bias = state.pop("feature_projection.projection.bias")
    save_file(state, path)
    with pytest.raises(UserError, match=r"tensor feature_projection\.projection\.bias is missing"):
        load(saved)
    save_file({**state, "feature_projection.projection.bias": bias}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
        load(saved)
    path.unlink()
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        load(saved)


def test_an_index_stays_in_its_directory(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="names files outside its directory"):
        load(saved)


def test_another_sampling_rate_is_refused(saved: Path) -> None:
    change(saved / "preprocessor_config.json", sampling_rate=8000)
    with pytest.raises(UserError, match=r"preprocessor_config\.json: sampling_rate 8000; only models of 16000 Hz"):
        load(saved)


def test_normalisation_is_never_guessed(saved: Path) -> None:
    (saved / "preprocessor_config.json").unlink()
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(b"")  # It is refused before the weights are read.
    with pytest.raises(UserError, match=r'preprocessor_config\.json: no such file.*write \{"do_normalize": false\}'):
        load(saved)
    (saved / "model.safetensors").write_bytes(weights)
    processor = {"feature_extractor": {"do_normalize": True}}
    (saved / "processor_config.json").write_text(json.dumps(processor))
    assert load(saved).model.config.normalise_waveform


def test_without_a_network_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"hf:facebook/hubert-base-ls960: cannot be downloaded .*by hand into a folder"):
        load("facebook/hubert-base-ls960")
    with pytest.raises(UserError, match="no such directory, and not a repository of the hub"):
        load(tmp_path / "absent")
