"""The graph says what torch says, for any batch and length; the int8 form nearly."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import soundfile
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.export.int8 import MAX_ERROR, as_model, quantise, quantise_within, relative_errors
from fithubert.export.onnx import FLOAT32, INT8, OnnxStudent, check_against_torch, export_onnx
from fithubert.frames import pad_waveforms
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechModel
from fithubert.models.weights import load_student
from tests.export.students import SMALL, draw_waveforms, read_alone, tiny_readout
from tests.models.shapes import PRUNED, strong, tiny

LENGTHS = (400, 401, 719, 720, 721, 1039, 5001, 7777, 16000, 16001)


def no_time(models: Mapping[str, SpeechModel]) -> dict[str, float]:
    return dict.fromkeys(models, 1.0)


def as_speech(samples: int) -> torch.Tensor:
    """Noise that is loud and quiet by turns."""
    return draw_waveforms(samples)[0] * torch.logspace(-3, 0, samples)


def real_speech() -> list[torch.Tensor]:
    """4 s of real recordings if they are there (shared/data/real)."""
    root = Path(__file__).resolve().parents[2]
    found = (place / "shared/data/real" for place in (root, root.parent))
    folder = next((folder for folder in found if folder.is_dir()), None)
    paths = sorted(folder.rglob("*-0000.opus"))[:4] if folder is not None else []
    return [torch.from_numpy(soundfile.read(path, dtype="float32")[0][:64_000]) for path in paths]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReadOut, Path]:
    """FitHuBERT, with layers of different sizes, in both forms."""
    readout = tiny_readout("fithubert", **{**SMALL, **PRUNED})
    folder = tmp_path_factory.mktemp("fithubert") / "onnx"
    export_onnx(readout, folder, [as_speech(16000)], no_time)
    return readout, folder


def assert_same_answers(readout: ReadOut, student: OnnxStudent) -> None:
    """Alone and in a padded batch, on ten lengths."""
    waveforms = draw_waveforms(*LENGTHS)
    batch = student(*pad_waveforms(waveforms))
    for row, waveform in enumerate(waveforms):
        wanted = read_alone(readout, waveform)
        alone = student(*pad_waveforms([waveform]))
        assert len(alone.hidden_states) == len(batch.hidden_states) == len(wanted) == len(student.widths)
        for in_batch, by_itself, state in zip(batch.hidden_states, alone.hidden_states, wanted, strict=True):
            assert batch.lengths[row] == alone.lengths[0] == len(state)
            torch.testing.assert_close(by_itself[0], state, atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(in_batch[row, : len(state)], state, atol=2e-5, rtol=1e-4)


def test_the_graph_says_what_torch_says_of_every_length_and_in_a_padded_batch(exported: tuple[ReadOut, Path]) -> None:
    assert_same_answers(exported[0], OnnxStudent(exported[1]))


@pytest.mark.parametrize("recipe", ["starhubert", "armhubert", "limited"])
def test_every_readout_is_exported(recipe: str, tmp_path: Path) -> None:
    readout = tiny_readout(recipe, **SMALL)
    export_onnx(readout, tmp_path / "onnx", None, no_time)
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["README.md", "config.json", FLOAT32]
    assert_same_answers(readout, OnnxStudent(tmp_path / "onnx"))
    with pytest.raises(UserError, match="no such file; export with --int8"):
        OnnxStudent(tmp_path / "onnx", int8=True)


def test_filter_banks_are_in_the_graph_and_in_float32_in_its_int8_form(tmp_path: Path) -> None:
    import onnx

    readout = tiny_readout("fithubert_mel", depth=2)
    export_onnx(readout, tmp_path / "onnx", [as_speech(16000)], no_time)
    assert_same_answers(readout, OnnxStudent(tmp_path / "onnx"))
    errors = relative_errors(readout, OnnxStudent(tmp_path / "onnx", int8=True), [as_speech(20001)])
    assert all(0 < error < 0.06 for error in errors)
    for graph in (FLOAT32, INT8):
        nodes = onnx.load(tmp_path / "onnx" / graph).graph.node
        assert {node.domain for node in nodes} <= {"", "com.microsoft"}
        assert sum(node.op_type == "Log" for node in nodes) == 1


def test_int8_is_near_and_does_not_depend_on_the_batch_or_on_how_loud_it_was_before(
    exported: tuple[ReadOut, Path],
) -> None:
    readout, folder = exported
    student = OnnxStudent(folder, int8=True)
    errors = relative_errors(readout, student, [as_speech(20001)])
    assert all(0 < error < 0.06 for error in errors)
    waveforms = [as_speech(length) for length in (9999, 16000, 400)]
    batch = student(*pad_waveforms(waveforms))
    for row, waveform in enumerate(waveforms):
        alone = student(*pad_waveforms([waveform]))
        for in_batch, by_itself in zip(batch.hidden_states, alone.hidden_states, strict=True):
            frames = by_itself.shape[1]
            # a step more or less where sums are rounded differently
            assert (in_batch[row, :frames] - by_itself[0]).norm() < 0.02 * by_itself[0].norm()

    quantised, kept = quantise_within(readout.student, [as_speech(16000)])
    assert kept == json.loads((folder / "config.json").read_text())["int8"]["float32"] == []
    assert max(relative_errors(as_model(quantised), student, [as_speech(20001)])) < 0.02


def test_int8_of_the_trained_student_is_near_at_every_loudness(tiny_corpus: Manifest) -> None:
    student = load_student("fithubert")
    synthetic = [tiny_corpus.read(utterance) for utterance in tiny_corpus.utterances[:3]]
    for speech in (synthetic, real_speech()):
        for gain in (10.0, 1.0, 0.1, 0.01) if speech else ():
            kept = quantise_within(student, [gain * waveform for waveform in speech])[1]
            assert (gain, kept) == (gain, [])


def test_a_layer_that_int8_would_spoil_stays_in_float32() -> None:
    student = ReadOut(strong(tiny("starhubert")), "outlier").student
    with torch.no_grad():  # One large channel leaves the others few steps.
        student.layers[1].ffn_in.bias[0] = 1e4  # type: ignore[union-attr, operator, index]
        student.layers[1].ffn_out.weight[:, 0] *= 1e-4  # type: ignore[union-attr, operator, index]
    speech = [as_speech(16000)]
    quantised, kept = quantise_within(student, speech)
    assert kept == ["layers.1"]
    assert relative_errors(as_model(student), as_model(quantise(student)), speech)[-1] > MAX_ERROR
    assert max(relative_errors(as_model(student), as_model(quantised), speech)) <= MAX_ERROR


def test_the_folder_says_which_student_it_is_and_what_was_measured(exported: tuple[ReadOut, Path]) -> None:
    readout, folder = exported
    record = json.loads((folder / "config.json").read_text())
    assert record["fingerprint"] == readout.fingerprint == OnnxStudent(folder).fingerprint
    assert record["float32"]["max_difference"] == check_against_torch(readout, OnnxStudent(folder))
    assert len(record["int8"]["relative_error"]) == len(readout.widths)
    said = (folder / "README.md").read_text()
    assert readout.fingerprint in said
    assert "$" not in said
    for name in (FLOAT32, INT8):
        # nothing of this machine, such as the paths of the modules
        assert str(Path(__file__).parents[2]).encode() not in (folder / name).read_bytes()


def test_the_int8_graph_multiplies_in_int8(exported: tuple[ReadOut, Path]) -> None:
    import onnx

    _, folder = exported
    weights = {FLOAT32: 0, INT8: 0}
    for name in weights:
        graph = onnx.load(folder / name).graph
        weights[name] = sum(len(t.raw_data) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
        assert not [node for node in graph.node if node.op_type == "IsNaN"]
    kinds = [node.op_type for node in onnx.load(folder / INT8).graph.node]
    assert kinds.count("Conv") == 2  # the first one and the positional one
    assert kinds.count("MatMulIntegerToFloat") > 10
    assert weights[INT8] < 0.7 * weights[FLOAT32]


def test_a_graph_that_differs_is_refused(exported: tuple[ReadOut, Path]) -> None:
    readout, folder = exported
    other = ReadOut(readout.student, "other")
    with torch.no_grad():
        other.student.layers[-1].ffn_norm.bias.add_(0.1)  # type: ignore[union-attr, operator]
        for head in other.student.heads.children():
            head.projection.bias.add_(0.1)
    with pytest.raises(RuntimeError, match="differs from torch"):
        check_against_torch(other, OnnxStudent(folder))
