"""A published checkpoint is imported, extracted, scored, profiled and exported like a student of our own."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("typer")
pytest.importorskip("onnxscript")

import soundfile
from typer.testing import CliRunner

from fithubert import load_features
from fithubert.cli import app
from fithubert.data.manifest import Manifest
from fithubert.export.onnx import OnnxStudent
from fithubert.frames import pad_waveforms
from fithubert.models.weights import save_teacher
from tests.export.students import draw_waveforms
from tests.fakes import tiny_hubert
from tests.importers.authors import FAMILIES, Published, publish

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "superb.tasks={pr: {steps: 2, batch: 8, eval_every: 2, learning_rates: [0.01]}}",
    "superb.seeds=[1]",
    "profile={seconds: [0.5], rounds: 1, paper_size: false}",
)


def run(workspace: Path, *arguments: str) -> str:
    changes = [part for change in SETTINGS if arguments[0] in ("superb", "profile") for part in ("--set", change)]
    command = ["--params", str(ROOT / "params.yaml"), "--workspace", str(workspace), *changes, *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (arguments, result.stderr, result.exception)
    return result.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Manifest) -> Path:
    root = tmp_path_factory.mktemp("workspace")
    (root / "data").mkdir()
    for name in ("manifests", "audio"):
        (root / "data" / name).symlink_to(tiny_corpus.root / name)
    save_teacher(tiny_hubert(), root / "artifacts" / "teacher")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_published_checkpoint_is_used_like_a_student_of_our_own(family: str, workspace: Path, tmp_path: Path) -> None:
    published = publish(family)
    student = workspace / "artifacts" / "students" / family
    run(workspace, "import", *published.save(tmp_path / "published"), "--out", str(student))
    shortest = 720 if family == "fithubert" else 400
    waveforms = draw_waveforms(shortest, shortest + 320, 1039, 16_000, 59_999, 60_000)
    _check_features(published, workspace, waveforms, tmp_path)
    assert f"{family} pr: PER" in run(workspace, "superb", family, "pr")
    assert f"{family}: " in run(workspace, "profile", family)
    costs = json.loads((workspace / "reports" / "metrics" / "profile.json").read_text())["models"]
    assert costs[family]["macs_per_second"] > 0
    for form in ("onnx", "huggingface", "s3prl"):
        run(workspace, "export", family, "--to", form, "--out", str(tmp_path / form))
    graph = OnnxStudent(tmp_path / "onnx")(*pad_waveforms(waveforms))
    for row, waveform in enumerate(waveforms):
        for state, theirs in zip(graph.hidden_states, published.states(waveform), strict=True):
            torch.testing.assert_close(state[row, : len(theirs)], theirs, atol=1e-4, rtol=1e-4)
            assert graph.lengths[row] == len(theirs)


def _check_features(published: Published, workspace: Path, waveforms: list[Tensor], tmp_path: Path) -> None:
    """`features` of every layer, of recordings of all lengths."""
    (tmp_path / "speech").mkdir()
    for number, waveform in enumerate(waveforms):
        soundfile.write(tmp_path / "speech" / f"{number}.wav", waveform.numpy(), 16_000, "FLOAT")
    arguments = ("--model", published.family, "--layer", "all", "--out", str(tmp_path / "features"))
    run(workspace, "features", str(tmp_path / "speech"), *arguments)
    table = load_features(tmp_path / "features")
    for number, waveform in enumerate(waveforms):
        row = table.read(next(name for name in table.ids if name.endswith(f"{number}.wav")))
        for layer, theirs in enumerate(published.states(waveform)):
            torch.testing.assert_close(row.hidden_states[layer], theirs, atol=1e-4, rtol=1e-4)
