"""What s3prl's Runner asks of an upstream, by a harness that does what it does, in a process without this package."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fithubert.errors import UserError
from fithubert.export.folder import export_s3prl
from tests.export.students import READOUTS, TOLERANCES, draw_waveforms, read_alone, tiny_readout

#: Lengths in samples: the shortest, odd ones, a frame more or less, equal ones; 800 is rounded up by s3prl.
LENGTHS = (16000, 400, 719, 720, 721, 800, 9999, 16000, 12345)

#: s3prl/downstream/runner.py and s3prl/upstream/interfaces.py (Featurizer), restated.
HARNESS = """
import sys, torch
folder, waveforms, out = sys.argv[1:]
sys.path.insert(0, folder)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fithubert", "pydantic", "safetensors", "yaml"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from expert import UpstreamExpert
upstream = UpstreamExpert(ckpt=None, model_config=None, refresh=False).to("cpu")
assert isinstance(upstream, torch.nn.Module)
assert hasattr(upstream, "get_downsample_rates")
upstream.eval()
with torch.no_grad():
    probe = upstream([torch.randn(16000)])
layers, rate = len(probe["hidden_states"]), upstream.get_downsample_rates("hidden_states")
def featurize(wavs):
    with torch.no_grad():
        states = upstream(wavs)["hidden_states"]
    assert isinstance(states, (list, tuple)) and len(states) == layers
    assert len({state.shape for state in states}) == 1
    assert states[0].shape[2] == probe["hidden_states"][0].shape[2]
    if layers > 1:
        torch.stack(list(states), dim=0).view(layers, -1)
    assert abs(states[0].size(1) - round(max(len(wav) for wav in wavs) / rate)) < 5
    kept = [round(len(wav) / rate) for wav in wavs]
    return [[state[row, :count] for state in states] for row, count in enumerate(kept)]
wavs = torch.load(waveforms, weights_only=True)
batched, alone = featurize(wavs), [featurize([wav])[0] for wav in wavs]
upstream.train()
trained = upstream(wavs)
assert len(trained["hidden_states"]) == layers
trained["last_hidden_state"].sum().backward()
missing = [n for n, p in upstream.named_parameters() if p.grad is None and ".heads." not in n]
torch.save({"batched": batched, "alone": alone, "rate": rate, "missing": missing}, out)
"""


def run_harness(folder: Path, waveforms: list[torch.Tensor], out: Path) -> dict:
    torch.save(waveforms, out / "waveforms.pt")
    program = [sys.executable, "-I", "-c", HARNESS, str(folder), str(out / "waveforms.pt"), str(out / "said.pt")]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(out / "said.pt", weights_only=True)


@pytest.mark.parametrize("name", READOUTS)
def test_an_upstream_keeps_the_contract_and_says_what_the_readout_says(name: str, tmp_path: Path) -> None:
    readout = tiny_readout(name)
    export_s3prl(readout, tmp_path / "upstream")
    waveforms = draw_waveforms(*LENGTHS)
    said = run_harness(tmp_path / "upstream", waveforms, tmp_path)
    assert said["rate"] == 320
    assert said["missing"] == []
    for waveform, batched, alone in zip(waveforms, said["batched"], said["alone"], strict=True):
        wanted = read_alone(readout, waveform)
        assert len(batched) == len(alone) == len(wanted)
        for in_batch, by_itself, state in zip(batched, alone, wanted, strict=True):
            frames = min(len(state), len(in_batch))
            assert frames == min(len(state), round(len(waveform) / 320))
            torch.testing.assert_close(in_batch[:frames], state[:frames], atol=TOLERANCES.get(name, 1e-5), rtol=1e-5)
            torch.testing.assert_close(by_itself, state[: len(by_itself)], atol=1e-5, rtol=1e-5)
            # the frame that s3prl adds by rounding up
            assert not in_batch[frames:].any()


def test_the_folder_names_the_student_and_its_entry(tmp_path: Path) -> None:
    readout = tiny_readout("fithubert")
    readout.name = "thin-1"
    export_s3prl(readout, tmp_path / "upstream")
    record = json.loads((tmp_path / "upstream" / "config.json").read_text())
    assert (record["fingerprint"], record["upstream"]) == (readout.fingerprint, "student_thin_1")
    said = (tmp_path / "upstream" / "README.md").read_text()
    assert readout.fingerprint in said
    assert "-u student_thin_1" in said
    assert "$" not in said
    program = f"import torch; torch.hub.load({str(tmp_path / 'upstream')!r}, 'student_thin_1', source='local')"
    subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "upstream").mkdir()
    (tmp_path / "upstream" / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        export_s3prl(tiny_readout("fithubert"), tmp_path / "upstream")
    assert [path.name for path in tmp_path.rglob("*")] == ["upstream", "precious.txt"]


def test_the_launcher_reads_flac_without_torchcodec(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    if importlib.util.find_spec("torchcodec") is not None:
        pytest.skip("torchcodec is installed, so torchaudio reads flac itself")
    export_s3prl(tiny_readout("fithubert"), tmp_path / "upstream")
    samples = (np.arange(800) % 200 - 100).astype(np.int16)
    soundfile.write(tmp_path / "one.flac", np.stack([samples, samples], axis=1), 16_000)
    script = (
        "import runpy, sys, torchaudio\n"
        "runpy.run_path(sys.argv[1])\n"
        "waveform, rate = torchaudio.load(sys.argv[2])\n"
        "part, _ = torchaudio.load(sys.argv[2], frame_offset=100, num_frames=50)\n"
        "print(tuple(waveform.shape), rate, waveform.dtype, bool((part == waveform[:, 100:150]).all()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "upstream" / "launch.py", tmp_path / "one.flac"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 800) 16000 torch.float32 True"
