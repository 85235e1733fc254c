"""The same weights from torchaudio, fairseq, s3prl, unilm and Hugging Face are the same teacher."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torchaudio.models.wav2vec2.utils.import_fairseq import _map_key
from typer.testing import CliRunner

from fithubert.cli import app
from fithubert.errors import UserError
from fithubert.importers import load_teacher
from fithubert.models.canonical import canonical_state, fill_model, prepare_for_inference
from fithubert.models.hubert import HubertModel, fingerprint_weights
from fithubert.models.weights import save_teacher
from tests.importers import public
from tests.importers.pickled import foreign


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
    ours = public.load("torchaudio:HUBERT_BASE")
    others = [public.load(f"hf:{tmp_path / 'hf'}"), public.load(f"fairseq:{tmp_path / 'hubert_base.pt'}")]
    save_teacher(ours, tmp_path / "ours")
    others.append(public.load(str(tmp_path / "ours")))
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
    assert public.load("torchaudio:WAVLM_BASE_PLUS").fingerprint == public.load(f"hf:{tmp_path / 'hf'}").fingerprint


def fairseq_files(model: Any, normalise: bool) -> dict[str, dict[str, Any]]:
    """The content of a checkpoint in each form that people have, by what it is called."""
    options, state = public.fairseq_options(model), public.fairseq_state(model)
    flat = argparse.Namespace(**options, normalize=normalise, task="audio_pretraining", arch="wav2vec2")
    finetuned = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in state.items()}
    finetuned["w2v_encoder.proj.weight"] = torch.ones(3, 3)
    inner = {"model": options, "task": {"normalize": normalise}}
    trained = {"quantizer.vars": torch.ones(2), "label_embs_concat": torch.ones(2)}
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
        ("wav2vec2", public.STABLE, True),
        ("wavlm", {}, False),
        ("wavlm", public.STABLE, True),
        ("data2vec-audio", {}, True),
    ],
)
def test_every_form_of_the_authors_files(tmp_path: Path, family: str, options: dict[str, Any], normalise: bool) -> None:
    model = public.small(family, **options)
    public.draw_statistics(model)
    theirs = public.load(f"hf:{public.save(model, tmp_path / 'hf', normalise)}").model
    # The same teacher but for the epsilon of transformers' feature extractor.
    wanted = prepare_for_inference(HubertModel(theirs.config.model_copy(update={"waveform_epsilon": 1e-5})))
    fill_model(wanted, canonical_state(theirs), "hf")
    for form, values in fairseq_files(model, normalise).items():
        torch.save(values, tmp_path / f"{form}.pt")
        teacher = public.load(str(tmp_path / f"{form}.pt"))
        assert (form, teacher.fingerprint) == (form, fingerprint_weights(wanted))
        assert teacher.model.config.normalise_waveform == normalise
        save_teacher(teacher, tmp_path / "ours")
        assert public.load(str(tmp_path / "ours")).fingerprint == teacher.fingerprint


def contentvec_files(model: Any) -> dict[str, dict[str, Any]]:
    """Checkpoints of ContentVec with the weights of a `HubertModelWithFinalProj`, by form; with a fairseq dictionary.

    `legacy` is plain HuBERT's form, as RVC's hubert_base.pt; `own` has a layer more, which knows the speaker.
    """
    options, width = public.fairseq_options(model), model.config.hidden_size
    state = {**public.fairseq_state(model), "label_embs_concat": torch.ones(5, model.config.classifier_proj_size)}
    last, above = "encoder.layers.2.", "encoder.layers.3."
    above = {name.replace(last, above): tensor for name, tensor in state.items() if name.startswith(last)}
    for norm in ("encoder.layers.3.self_attn_layer_norm", "encoder.cond_layer_norm"):
        above |= {f"{norm}.{part}.weight": torch.ones(width, 7) for part in ("weight_ln", "bias_ln")}
    above |= {"layer_proj.weight": torch.ones(4, width), "layer_proj.bias": torch.ones(4)}
    own = {**options, "encoder_layers_1": 1, "extractor_mode": "group_norm_masked"}
    files = {"legacy": (options, state), "own": (own, {**state, **above})}
    task = {"_name": "hubert_pretraining", "normalize": False}
    return {
        form: {"args": None, "cfg": {"model": model, "task": task}, "model": state}
        for form, (model, state) in files.items()
    }


def test_contentvec_is_one_teacher_with_its_projection_in_every_form(tmp_path: Path) -> None:
    model = public.with_final_proj(public.small("hubert", classifier_proj_size=10))
    teachers = [public.load(public.save(model, tmp_path / "hf", normalise=False))]
    with foreign({"fairseq.data.dictionary.Dictionary": object}) as (dictionary,):
        for form, values in contentvec_files(model).items():
            torch.save({**values, "task_state": {"dictionaries": [dictionary()]}}, tmp_path / f"{form}.pt")
    teachers += [public.load(tmp_path / f"{form}.pt") for form in ("legacy", "own")]
    save_teacher(teachers[0], tmp_path / "ours")
    teachers.append(public.load(tmp_path / "ours"))
    assert {teacher.fingerprint for teacher in teachers} == {teachers[0].fingerprint}
    for teacher in teachers:
        assert teacher.final_proj is not None
        weight, bias = teacher.final_proj
        assert torch.equal(weight, model.final_proj.weight)
        assert torch.equal(bias, model.final_proj.bias)
    plain = public.load(public.save(public.small("hubert"), tmp_path / "plain", normalise=False))
    assert plain.final_proj is None


def test_the_command_imports_a_teacher_of_any_source(tmp_path: Path) -> None:
    model = public.with_final_proj(public.small("hubert", classifier_proj_size=10))
    torch.save(contentvec_files(model)["legacy"], tmp_path / "hubert_base.pt")
    public.save(model, tmp_path / "hf", normalise=False)
    fingerprint = public.load(tmp_path / "hubert_base.pt").fingerprint
    for number, spec in enumerate((tmp_path / "hubert_base.pt", f"hf:{tmp_path / 'hf'}", tmp_path / "hf")):
        out = tmp_path / str(number)
        done = CliRunner().invoke(app, ["import", str(spec), "--out", str(out)])
        assert f"3 layers, 24 wide, final_proj 10 wide; {fingerprint}" in done.stdout
        teacher = public.load(out)
        assert teacher.fingerprint == fingerprint
        assert teacher.final_proj is not None
        assert torch.equal(teacher.final_proj[0], model.final_proj.weight)
    for arguments, words in ((["hf:nothing"], "name its new folder with"), (["fbank", "--out", "x"], "no weights")):
        done = CliRunner().invoke(app, ["import", *arguments])
        assert (done.exit_code, words in done.stderr) == (1, True)


def test_the_command_reads_the_weights_of_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = public.with_final_proj(public.small("hubert", classifier_proj_size=10))
    torch.save(contentvec_files(model)["legacy"], tmp_path / "hubert_base.pt")
    mapped, read = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **how: [mapped.append(how["mmap"]), read(*args, **how)][1])
    assert (
        CliRunner().invoke(app, ["import", str(tmp_path / "hubert_base.pt"), "--out", str(tmp_path / "out")]).exit_code
        == 0
    )
    assert mapped == [True] * (len(mapped) // 2) + [False] * (len(mapped) // 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"final_proj.bias": None}, "tensor final_proj.bias is missing"),
        ({"final_proj.weight": torch.ones(10, 23)}, r"final_proj has the shapes \(10, 23\) and \(10,\), not \(n, 24\)"),
        ({"final_proj.bias": torch.ones(9)}, r"final_proj has the shapes \(10, 24\) and \(9,\)"),
    ],
)
def test_a_wrong_projection_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    model = public.with_final_proj(public.small("hubert", classifier_proj_size=10))
    values = contentvec_files(model)["legacy"]
    state = {name: tensor for name, tensor in {**values["model"], **change}.items() if tensor is not None}
    torch.save({**values, "model": state}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=rf"x\.pt: {words}"):
        public.load(tmp_path / "x.pt")


def test_the_names_of_the_test_are_those_that_torchaudio_knows() -> None:
    """`public.fairseq_state` is written here; torchaudio's importer of fairseq models is not."""
    for options in ({}, public.STABLE):
        model = public.small("wav2vec2", **options)
        mapped = {_map_key(name) for name in public.fairseq_state(model)} - {None}
        theirs = {
            name.replace("parametrizations.weight.original0", "weight_g") for name in public.torchaudio_state(model)
        }
        theirs = {name.replace("parametrizations.weight.original1", "weight_v") for name in theirs}
        assert mapped == theirs


def test_wrong_files_are_named(tmp_path: Path) -> None:
    values = fairseq_files(public.small("hubert"), False)["hydra"]
    path = tmp_path / "hubert.pt"

    def refused(changed: dict[str, Any], words: str) -> None:
        torch.save(changed, path)
        with pytest.raises(UserError, match=words):
            public.load(str(path))

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
    torch.save(values, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"hubert\.pt: not a readable checkpoint"):
        public.load(str(path))


def test_without_a_network_torchaudio_says_what_to_do(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fithubert.importers.torchaudio._HOME", "http://127.0.0.1:9/")
    words = r"torchaudio:HUBERT_BASE: http://127\.0\.0\.1:9/\S+: cannot be downloaded .*by hand to \S+base_ls960\.pth"
    with pytest.raises(UserError, match=words):
        load_teacher("torchaudio:HUBERT_BASE")
    with pytest.raises(UserError, match="no such pipeline; there are HUBERT_ASR_LARGE, "):
        load_teacher("torchaudio:HUBERT_TINY")
