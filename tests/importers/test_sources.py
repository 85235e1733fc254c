"""The same weights from torchaudio, fairseq, s3prl, unilm and Hugging Face are the same teacher."""

import argparse
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torchaudio
from torchaudio.models.wav2vec2.utils.import_fairseq import _map_key

from fithubert.errors import UserError
from fithubert.importers.registry import load_teacher
from fithubert.models.canonical import canonical_state, fill_model, prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher, fingerprint_weights
from fithubert.models.weights import save_teacher
from tests.importers import public

STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}


def load(spec: str) -> HubertTeacher:
    teacher = load_teacher(spec)
    assert isinstance(teacher, HubertTeacher)
    return teacher


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder where torchaudio's weights would be downloaded to."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_base_is_one_teacher_whatever_it_comes_from(hub: Path, tmp_path: Path) -> None:
    model = public.build("hubert", std=0.03)
    original = torchaudio.models.hubert_base()
    original.load_state_dict(public.torchaudio_state(model))
    torch.save(original.state_dict(), hub / "hubert_fairseq_base_ls960.pth")
    cfg = {"_name": None, "model": public.fairseq_options(model), "task": {"normalize": False}}
    torch.save({"args": None, "cfg": cfg, "model": public.fairseq_state(model)}, tmp_path / "hubert_base.pt")
    public.save(model, tmp_path / "hf", normalise=False)
    ours = load("torchaudio:HUBERT_BASE")
    others = [load(f"hf:{tmp_path / 'hf'}"), load(f"fairseq:{tmp_path / 'hubert_base.pt'}")]
    save_teacher(ours, tmp_path / "ours")
    others.append(load(str(tmp_path / "ours")))
    assert {other.fingerprint for other in others} == {ours.fingerprint}
    waveform = 0.1 * torch.randn(1, 30_000)
    batch = waveform, torch.tensor([30_000])
    states = ours(*batch).hidden_states
    with torch.inference_mode():
        theirs, _ = original.eval().extract_features(waveform)
    for one, other in zip(states[1:], theirs, strict=True):
        assert public.relative_error(one, other) < 1e-5
    for other in others:
        for one, two in zip(states, other(*batch).hidden_states, strict=True):
            assert torch.equal(one, two)


def test_wavlm_from_torchaudio(hub: Path, tmp_path: Path) -> None:
    model = public.build("wavlm", std=0.03)
    torch.save(public.torchaudio_state(model), hub / "wavlm_base_plus.pth")
    public.save(model, tmp_path / "hf", normalise=False)
    assert load("torchaudio:WAVLM_BASE_PLUS").fingerprint == load(f"hf:{tmp_path / 'hf'}").fingerprint


def fairseq_files(model: Any, normalise: bool) -> dict[str, dict[str, Any]]:
    """The content of a checkpoint in each form that people have, by what it is called."""
    options, state = public.fairseq_options(model), public.fairseq_state(model)
    flat = argparse.Namespace(**options, normalize=normalise, task="audio_pretraining", arch="wav2vec2")
    finetuned = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in state.items()}
    finetuned["w2v_encoder.proj.weight"] = torch.ones(3, 3)
    inner = {"model": options, "task": {"normalize": normalise}}
    trained = {"quantizer.vars": torch.ones(2), "final_proj.bias": torch.ones(2), "label_embs_concat": torch.ones(2)}
    return {
        "hydra": {"cfg": {"model": options, "task": {"normalize": normalise}}, "model": {**state, **trained}},
        "namespace": {"args": flat, "cfg": None, "model": state},
        "unilm": {"cfg": {**options, "normalize": normalise}, "model": state},
        "s3prl": {"model_cfg": options, "task_cfg": {"normalize": normalise}, "model_weight": state},
        "finetuned": {
            "cfg": {"model": {"_name": "wav2vec_ctc", "w2v_args": inner}, "task": {"normalize": normalise}},
            "model": finetuned,
        },
    }


@pytest.mark.parametrize(
    ("family", "options", "normalise"),
    [
        ("hubert", {}, False),
        ("hubert", {"conv_pos_batch_norm": True}, False),
        ("wav2vec2", STABLE, True),
        ("wavlm", {}, False),
        ("wavlm", STABLE, True),
        ("data2vec-audio", {}, True),
    ],
)
def test_every_form_of_the_authors_files(tmp_path: Path, family: str, options: dict[str, Any], normalise: bool) -> None:
    model = public.small(family, **options)
    for buffer in model.buffers():  # The statistics of a batch norm.
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    theirs = load(f"hf:{public.save(model, tmp_path / 'hf', normalise)}").model
    # The same teacher but for the epsilon of transformers' feature extractor.
    wanted = prepare_for_inference(HubertModel(theirs.config.model_copy(update={"waveform_epsilon": 1e-5})))
    fill_model(wanted, canonical_state(theirs), "hf")
    for form, values in fairseq_files(model, normalise).items():
        torch.save(values, tmp_path / f"{form}.pt")
        teacher = load(str(tmp_path / f"{form}.pt"))
        assert (form, teacher.fingerprint) == (form, fingerprint_weights(wanted))
        assert teacher.model.config.normalise_waveform == normalise
        save_teacher(teacher, tmp_path / "ours")
        assert load(str(tmp_path / "ours")).fingerprint == teacher.fingerprint


def test_the_names_of_the_test_are_those_that_torchaudio_knows() -> None:
    """`public.fairseq_state` is written here; torchaudio's importer of fairseq models is not."""
    for options in ({}, STABLE):
        model = public.small("wav2vec2", **options)
        mapped = {_map_key(name) for name in public.fairseq_state(model)} - {None}
        theirs = {
            name.replace("parametrizations.weight.original0", "weight_g") for name in public.torchaudio_state(model)
        }
        theirs = {name.replace("parametrizations.weight.original1", "weight_v") for name in theirs}
        assert mapped == theirs


class Bystander:
    """Pickles as an object of a package that is not installed, as fairseq's dictionaries in its checkpoints do."""

    def __reduce__(self) -> Any:
        return _Unimportable, (["<s>", "a"],)


class _Unimportable:
    """Written under the name fairseq.data.dictionary.Dictionary."""


_Unimportable.__module__, _Unimportable.__qualname__ = "fairseq.data.dictionary", "Dictionary"


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickle find `_Unimportable` under its foreign name while writing."""
    for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["fairseq.data.dictionary"].Dictionary = _Unimportable  # type: ignore[attr-defined]


@pytest.mark.parametrize("zipped", [True, False])
def test_bystanders_in_a_checkpoint_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    model = public.small("hubert")
    values = {**fairseq_files(model, False)["hydra"], "task_state": {"dictionaries": [Bystander()]}}
    with monkeypatch.context() as patched:
        pretend(patched)
        torch.save(values, tmp_path / "hubert.pt", _use_new_zipfile_serialization=zipped)
    load(str(tmp_path / "hubert.pt"))


class Hostile:
    """Runs a command where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path: Path, zipped: bool) -> None:
    values = {**fairseq_files(public.small("hubert"), False)["hydra"], "extra": Hostile(tmp_path / "ran")}
    torch.save(values, tmp_path / "hubert.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"hubert\.pt: refused, nothing was run: it holds pickled Python \(\w+\.system"):
        load(str(tmp_path / "hubert.pt"))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(UserError, match=r"plain\.pt"):
        load(str(tmp_path / "plain.pt"))
    folder = public.save(public.small("hubert"), tmp_path / "hf", normalise=False)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: refused"):
        load(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


def test_wrong_files_are_named(tmp_path: Path) -> None:
    values = fairseq_files(public.small("hubert"), False)["hydra"]
    path = tmp_path / "hubert.pt"

    def refused(changed: dict[str, Any], words: str) -> None:
        torch.save(changed, path)
        with pytest.raises(UserError, match=words):
            load(str(path))

    state = dict(values["model"])
    gain = state.pop("encoder.pos_conv.0.weight_g")
    refused(
        {**values, "model": state}, r"hubert\.pt: tensor encoder\.pos_conv\.0\.weight_v is of no known part|missing"
    )
    stray = {**state, "encoder.pos_conv.0.weight_g": gain, "stray": gain}
    refused({**values, "model": stray}, "tensor stray is of no known part of the model")
    model = {**values["cfg"]["model"], "encoder_layers": 4}
    refused({**values, "cfg": {**values["cfg"], "model": model}}, r"tensor encoder\.layers\.3\.\S+ is missing")
    refused({**values, "cfg": {"model": values["cfg"]["model"], "task": {}}}, "task.normalize is missing")
    refused({"model": values["model"]}, "holds no configuration")
    refused({"weights": {}}, "neither a fairseq checkpoint")
    torch.save(values, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"hubert\.pt: not a readable checkpoint"):
        load(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS, not the file"),
        ("\n<!DOCTYPE html><html><body>404</body></html>", r"a web page \(HTML\), not the file itself"),
    ],
)
def test_what_was_saved_in_place_of_weights_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "hubert.pt").write_text(content)
    with pytest.raises(UserError, match=rf"hubert\.pt: {words}"):
        load(str(tmp_path / "hubert.pt"))
    folder = public.save(public.small("hubert"), tmp_path / "hf", normalise=False)
    (folder / "model.safetensors").write_text(content)
    with pytest.raises(UserError, match=rf"model\.safetensors: {words}"):
        load(f"hf:{folder}")


def test_without_a_network_torchaudio_says_what_to_do(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fithubert.importers.torchaudio._HOME", "http://127.0.0.1:9/")
    words = r"torchaudio:HUBERT_BASE: http://127\.0\.0\.1:9/\S+: cannot be downloaded .*by hand to \S+base_ls960\.pth"
    with pytest.raises(UserError, match=words):
        load_teacher("torchaudio:HUBERT_BASE")
    with pytest.raises(UserError, match="no such pipeline; there are HUBERT_ASR_LARGE, "):
        load_teacher("torchaudio:HUBERT_TINY")
