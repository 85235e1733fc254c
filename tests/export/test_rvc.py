"""Graphs for voice conversion: RVC's own names and shapes, and the values of the public forward pass."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnxruntime
from typer.testing import CliRunner

from fithubert.cli import app
from fithubert.errors import UserError
from fithubert.export.rvc import describe_graphs, export_rvc
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechModel
from fithubert.models.weights import save_student, save_teacher
from tests.importers import public
from tests.models.shapes import strong, tiny

LENGTHS = (400, 401, 719, 720, 5001, 16_000, 20_003)
#: Twelve layers, as RVC counts them.
DEEP = {"conv_dim": [4] * 7, "num_hidden_layers": 12, "hidden_size": 16, "intermediate_size": 16}


def no_time(models: Mapping[str, SpeechModel]) -> dict[str, float]:
    return dict.fromkeys(models, 1.0)


def contentvec(width: int = 16, projected: int = 10) -> Any:
    """A `HubertModelWithFinalProj` of transformers."""
    return public.with_final_proj(
        public.small("hubert", **{**DEEP, "hidden_size": width}, classifier_proj_size=projected)
    )


def noise(samples: int) -> Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


@torch.inference_mode()
def rvc_features(model: Any, waveform: Tensor, version: str) -> Tensor:
    """(time, feature): RVC's own `extract_hubert_features` (infer/hubert.py), restated."""
    out = model(waveform[None], output_hidden_states=True)
    return (model.final_proj(out.hidden_states[9]) if version == "v1" else out.last_hidden_state)[0]


class RvcContentVec:
    """What RVC's `ContentVec` (infer/lib/infer_pack/onnx_inference.py) does with a graph, restated."""

    def __init__(self, path: Path) -> None:
        self.model = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, waveform: Tensor) -> Tensor:
        """(time, feature), by way of RVC's (1, feature, time)."""
        source = np.expand_dims(np.expand_dims(waveform.numpy(), 0), 0)
        logits = self.model.run(None, {self.model.get_inputs()[0].name: source})[0]
        return torch.from_numpy(logits.transpose(0, 2, 1)[0].T)


def signature(path: Path) -> tuple[Any, ...]:
    session = onnxruntime.InferenceSession(path)
    (source,), (embed,) = session.get_inputs(), session.get_outputs()
    assert isinstance(source.shape[2], str)
    assert isinstance(embed.shape[1], str)
    return source.name, source.type, source.shape[:2], embed.name, embed.type, embed.shape[::2]


@pytest.mark.slow  # twelve layers are traced
def test_a_teachers_graphs_are_those_that_rvc_reads(tmp_path: Path) -> None:
    model = contentvec()
    teacher = public.load(public.save(model, tmp_path / "hf", normalise=False))
    record = export_rvc(teacher, tmp_path / "out", teacher.final_proj, False, no_time)
    names = {"v2": "vec-16-layer-12.onnx", "v1": "vec-10-layer-9.onnx"}
    assert {graph["version"]: name for name, graph in record["graphs"].items()} == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["README.md", "config.json", *names.values()]
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == record
    for version, name in names.items():
        path = tmp_path / "out" / name
        kind, width = "tensor(float)", record["graphs"][name]["width"]
        assert signature(path) == ("source", kind, [1, 1], "embed", kind, [1, width])
        graph = RvcContentVec(path)
        for samples in LENGTHS:
            wanted = rvc_features(model, noise(samples), version)
            assert graph(noise(samples)).shape == wanted.shape
            assert public.relative_error(graph(noise(samples)), wanted) < 1e-5
        assert f"`{name}`" in (tmp_path / "out" / "README.md").read_text()
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


@pytest.mark.slow
def test_a_graph_normalises_and_aligns_if_it_is_asked_to(tmp_path: Path) -> None:
    """bshall/hubert #11: 40 zeros at both ends, one frame for every 320 samples."""
    model = contentvec()
    teacher = public.load(public.save(model, tmp_path / "hf", normalise=True))
    record = export_rvc(teacher, tmp_path / "out", None, True, no_time)
    assert record["hop_aligned"]
    assert list(record["graphs"]) == ["vec-16-layer-12.onnx"]
    assert record["left_out"] == {"v1": "it reads layer 9 through final_proj; the teacher has none"}
    graph = RvcContentVec(tmp_path / "out" / "vec-16-layer-12.onnx")
    for samples in (320, 639, 640, 16_000, 20_003):
        wanted = public.hidden_states(model, F.pad(noise(samples), (40, 40)), normalise=True)[-1]
        assert len(graph(noise(samples))) == len(wanted) == samples // 320
        assert public.relative_error(graph(noise(samples)), wanted) < 1e-5


def student(**heads: Any) -> ReadOut:
    """Two layers, which predict those that RVC reads, at half the frame rate inside."""
    heads = {"teacher_width": 16, "layer_map": [[1, 9], [2, 12]], **heads}
    return ReadOut(strong(tiny("fithubert", depth=2, heads=heads)), "thin")


def test_a_students_graphs_are_its_predictions_of_the_teachers_layers(tmp_path: Path) -> None:
    readout = student(keep=[9])
    readout.student.final_proj = weight, bias = torch.randn(10, 16), torch.randn(10)
    record = export_rvc(readout, tmp_path / "out", readout.student.final_proj, False, no_time)
    assert [(name, graph["version"]) for name, graph in record["graphs"].items()] == [
        ("vec-16-layer-12.onnx", "v2"),
        ("vec-10-layer-9.onnx", "v1"),
    ]
    layers = [teacher_layer for _, teacher_layer in readout.student.config.heads.layer_map]
    for samples in LENGTHS:
        full = readout.student([noise(samples)])
        wanted = {"v2": full.projections[layers.index(12)][0]}
        wanted["v1"] = full.projections[layers.index(9)][0] @ weight.T + bias
        assert len(wanted["v2"]) == (samples - 400) // 320 + 1
        for name, graph in record["graphs"].items():
            found = RvcContentVec(tmp_path / "out" / name)(noise(samples))
            torch.testing.assert_close(found, wanted[graph["version"]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("widths", "fits"), [((768, 256), True), ((16, 10), False)])
def test_only_rvcs_widths_fit_its_voices(widths: tuple[int, int], fits: bool) -> None:
    values = {"max_difference": 1e-6, "latency_of_torch": 1.0, "bytes": 1, "fits": fits}
    layers = (("v2", 12), ("v1", 9))
    graphs = {
        f"vec-{width}-layer-{layer}.onnx": {"version": version, "layer": layer, "width": width, **values}
        for (version, layer), width in zip(layers, widths, strict=True)
    }
    lines = describe_graphs({"graphs": graphs, "left_out": {}})
    assert [f"`{name}`" in line for name, line in zip(graphs, lines, strict=True)] == [True, True]
    assert ("its published voices read 768 features, not 16" in lines[0]) != fits
    assert ("its published voices read 256 features, not 10" in lines[1]) != fits


@pytest.mark.slow
def test_graphs_of_rvcs_width_have_the_names_of_rvcs_files(tmp_path: Path) -> None:
    model = contentvec(768, 256)
    teacher = public.load(public.save(model, tmp_path / "hf", normalise=False))
    record = export_rvc(teacher, tmp_path / "out", teacher.final_proj, False, no_time)
    assert list(record["graphs"]) == ["vec-768-layer-12.onnx", "vec-256-layer-9.onnx"]
    assert all(graph["fits"] for graph in record["graphs"].values())
    for name, graph in record["graphs"].items():
        found, wanted = RvcContentVec(tmp_path / "out" / name)(noise(16_000)), graph["version"]
        assert public.relative_error(found, rvc_features(model, noise(16_000), wanted)) < 1e-5


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_takes_final_proj_from_a_teacher(tmp_path: Path) -> None:
    model = contentvec()
    save_teacher(public.load(public.save(model, tmp_path / "hf", normalise=False)), tmp_path / "teacher")
    save_student(student(keep=[9]).student, tmp_path / "student")
    to = ("--to", "onnx", "--layout", "rvc", "--out", tmp_path / "out")
    code, said, _ = run(tmp_path / "student", *to, "--teacher", tmp_path / "teacher")
    assert (code, len(said.splitlines())) == (0, 3)
    assert "- `vec-10-layer-9.onnx`: layer 9, 10 wide, as RVC v1" in said
    assert (tmp_path / "out" / "vec-10-layer-9.onnx").is_file()


def test_mistakes_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    save_student(student().student, tmp_path / "student")
    out = tmp_path / "out"
    for arguments, words in (
        (("fbank", "--layout", "rvc"), "model 'fbank': neither a student nor a teacher with layers"),
        ((tmp_path / "student", "--layout", "rvc", "--teacher", "mini"), "--teacher mini: has no final_proj"),
        ((tmp_path / "student", "--layout", "rvc", "--int8"), "need"),
        ((tmp_path / "student", "--layout", "vits"), "work with --layout rvc"),
        ((tmp_path / "student", "--hop-aligned"), "work with --layout rvc"),
    ):
        code, _, error = run(*arguments, "--to", "onnx", "--out", out)
        assert (code, error.count("\n"), words in error) == (1, 1, True), error
    shallow = ReadOut(strong(tiny("fithubert")), "shallow")
    with pytest.raises(UserError, match=r"shallow: v2: it reads layer 12, and the student predicts only layer 3"):
        export_rvc(shallow, out, None, False, no_time)
    with pytest.raises(UserError, match=r"star: v2: it reads layer 12, and the student predicts no layer"):
        export_rvc(ReadOut(strong(tiny("starhubert")), "star"), out, None, False, no_time)
    teacher = public.load(public.save(public.small("hubert"), tmp_path / "hf", normalise=False))
    assert isinstance(teacher, HubertTeacher)
    with pytest.raises(UserError, match=r"v2: it reads layer 12, and the teacher has 3; v1: it reads layer 9"):
        export_rvc(teacher, out, None, False, no_time)
    assert not out.exists()
