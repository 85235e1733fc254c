"""An exported student where HubertModel is used, in a process without this package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from fithubert.export.folder import export_huggingface
from tests.export.students import READOUTS, TOLERANCES, draw_waveforms, read_alone, tiny_readout

LENGTHS = (16000, 400, 719, 720, 9999, 12345)

PROGRAM = """
import sys, torch
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fithubert":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from transformers import AutoFeatureExtractor, AutoModel
folder, names = sys.argv[1], sys.argv[2:]
waveforms = torch.load(folder + "/waveforms.pt", weights_only=True)
said = {}
for name in names:
    at = f"{folder}/{name}"
    model, info = AutoModel.from_pretrained(at, trust_remote_code=True, output_loading_info=True)
    model = model.eval()
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    extract = AutoFeatureExtractor.from_pretrained(at)
    inputs = extract([w.numpy() for w in waveforms], sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
        plain = model(waveforms[0][None])
        layers = AutoModel.from_pretrained(at, trust_remote_code=True, readout="layers").eval()
        deep = layers(**inputs, output_hidden_states=True)
    assert torch.equal(out.last_hidden_state, out.hidden_states[-1])
    assert out.last_hidden_state.shape[2] == model.config.hidden_size
    assert plain.hidden_states is None
    assert len(deep.hidden_states) == layers.config.num_hidden_layers + 1
    assert deep.last_hidden_state.shape[2] == layers.config.hidden_size
    assert isinstance(model(waveforms[0][None], return_dict=False), tuple)
    half = {name: values.bfloat16() if values.is_floating_point() else values for name, values in inputs.items()}
    with torch.no_grad():
        short = AutoModel.from_pretrained(at, trust_remote_code=True).eval().to(torch.bfloat16)(**half)
    assert short.last_hidden_state.dtype == torch.bfloat16
    frames = model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(1))
    model.save_pretrained(at + "-saved")
    again = AutoModel.from_pretrained(at + "-saved", trust_remote_code=True).eval()
    with torch.no_grad():
        assert torch.equal(again(waveforms[0][None])[0], plain[0])
    said[name] = {"states": list(out.hidden_states), "frames": frames, "plain": plain[0]}
    try:
        model(inputs["input_values"], attention_mask=inputs["attention_mask"].flip(1))
    except ValueError as error:
        said[name]["error"] = str(error)

# fine-tuning with CTC, as HubertForCTC does
torch.manual_seed(0)
model = AutoModel.from_pretrained(f"{folder}/{names[0]}", trust_remote_code=True).train()
head = torch.nn.Linear(model.config.hidden_size, 6)
optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=2e-3)
inputs = extract([w.numpy() for w in waveforms[:1] + waveforms[4:]], sampling_rate=16000, padding=True,
                 return_tensors="pt")
labels = torch.randint(1, 6, (3, 4))
lengths = model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(1))
losses = []
for _ in range(25):
    scores = head(model(**inputs).last_hidden_state).log_softmax(-1)
    loss = torch.nn.functional.ctc_loss(scores.transpose(0, 1), labels, lengths, torch.full((3,), 4))
    optimizer.zero_grad()
    loss.backward()
    losses.append(loss.item())
    optimizer.step()
said["losses"] = losses
said["untouched"] = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
model.freeze_feature_encoder()
said["frozen"] = not any(p.requires_grad for p in model.student.frontend.parameters())
torch.save(said, folder + "/said.pt")
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hub")
    for name in READOUTS:
        export_huggingface(tiny_readout(name), folder / name)
    torch.save(draw_waveforms(*LENGTHS), folder / "waveforms.pt")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "PYTHONPATH": ""}
    program = [sys.executable, "-P", "-c", PROGRAM, str(folder), *READOUTS]
    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, **offline}, cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "said.pt", weights_only=True)


@pytest.mark.parametrize("name", READOUTS)
def test_it_says_what_the_readout_says_padded_or_not(name: str, said: dict[str, Any]) -> None:
    readout = tiny_readout(name)
    for row, waveform in enumerate(draw_waveforms(*LENGTHS)):
        wanted = read_alone(readout, waveform)
        assert len(said[name]["states"]) == len(wanted)
        for batched, state in zip(said[name]["states"], wanted, strict=True):
            assert said[name]["frames"][row] == len(state)
            torch.testing.assert_close(batched[row, : len(state)], state, atol=TOLERANCES.get(name, 1e-5), rtol=1e-5)
    first = read_alone(readout, draw_waveforms(*LENGTHS)[0])[-1]
    torch.testing.assert_close(said[name]["plain"][0], first, atol=1e-5, rtol=1e-5)
    assert "padding must come after" in said[name]["error"]


def test_it_fine_tunes_with_ctc_down_to_the_front_end(said: dict[str, Any]) -> None:
    assert said["losses"][-1] < 0.5 * said["losses"][0]
    # a key's bias adds the same to every score of a query, which a softmax does not see
    assert [name for name in said["untouched"] if not name.endswith("attention.key.bias")] == []
    assert said["frozen"]


def test_the_model_names_every_file_for_transformers_that_look_no_further(tmp_path: Path) -> None:
    export_huggingface(tiny_readout("fithubert"), tmp_path / "model")
    named = set(re.findall(r"^from \.(\w+) import", (tmp_path / "model" / "modeling_fithubert.py").read_text(), re.M))
    assert named == {path.stem for path in (tmp_path / "model").glob("*.py")} - {"modeling_fithubert"}


def test_the_card_names_the_student_and_its_scores(tmp_path: Path) -> None:
    readout = tiny_readout("fithubert")
    export_huggingface(readout, tmp_path / "a", [{"task": "PR", "metric": "PER", "test": "12.3"}])
    export_huggingface(readout, tmp_path / "b")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "| PR | PER | 12.3 |" in card
    assert readout.fingerprint in card
    assert "$" not in card
    assert "None are known" in (tmp_path / "b" / "README.md").read_text()
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["fithubert"]["fingerprint"] == readout.fingerprint
    assert json.loads((tmp_path / "a" / "preprocessor_config.json").read_text())["do_normalize"] is False
