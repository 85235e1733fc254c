"""A teacher says the same by every runtime; what a half precision says goes by another name."""

import pytest
import torch

from fithubert.errors import UserError
from fithubert.frames import pad_waveforms
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.runtime import Unpadded, prepare_teacher
from fithubert.models.speech_model import SpeechModel
from tests.importers import public
from tests.models.test_hubert import tiny_config

WAVEFORMS = [0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in (7000, 400, 3333)]


def tiny_teacher(**options: object) -> HubertTeacher:
    torch.manual_seed(2)
    config = tiny_config().model_copy(update=options)
    return HubertTeacher(prepare_for_inference(HubertModel(config)), "tiny")


def assert_same(one: SpeechModel, other: SpeechModel, error: float, last_layer: int | None = None) -> None:
    ours, theirs = (model(*pad_waveforms(WAVEFORMS), last_layer) for model in (one, other))
    assert torch.equal(ours.lengths, theirs.lengths)
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        for row, frames in enumerate(ours.lengths.tolist()):
            assert public.relative_error(a[row, :frames], b[row, :frames]) < error


@pytest.mark.parametrize("options", [{}, {"relative_buckets": 16, "relative_max_distance": 20}])
def test_onnx_runtime_says_the_same(options: dict[str, object]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    teacher = tiny_teacher(**options)
    onnx = prepare_teacher(teacher, runtime="onnx")
    assert onnx.fingerprint == teacher.fingerprint
    assert_same(onnx, teacher, 1e-5)
    assert_same(onnx, teacher, 1e-5, last_layer=1)


def test_unpadded_is_padded_without_padding() -> None:
    teacher = HubertTeacher(HubertModel(tiny_config(True, "layer", True)), "tiny")
    waveforms = torch.stack([WAVEFORMS[0], 0.3 + WAVEFORMS[0].flip(0)])
    with torch.inference_mode():
        unpadded = Unpadded(teacher.model, 3)(waveforms)
    padded = teacher(waveforms, torch.tensor([7000, 7000])).hidden_states
    for one, other in zip(unpadded, padded, strict=True):
        assert public.relative_error(one, other) < 1e-5


def test_the_compiled_model_is_captured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_teacher()
    # The capture is what may fail; the backend that generates code would take a minute.
    whole = torch.compile(teacher.model, backend="eager", fullgraph=True, dynamic=True)
    compiled = HubertTeacher(tiny_teacher().model, "compiled")
    monkeypatch.setattr(compiled, "model", whole)
    assert_same(compiled, teacher, 1e-5)


def test_half_precision_is_close_and_has_its_own_fingerprint() -> None:
    half, teacher = tiny_teacher(), tiny_teacher()
    half.precision = "bfloat16"
    assert half.fingerprint != teacher.fingerprint
    assert half(*pad_waveforms(WAVEFORMS)).hidden_states[0].dtype == torch.float32
    assert_same(half, teacher, 0.05)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(UserError, match="runtime onnx: runs on the CPU in float32 only"):
        prepare_teacher(tiny_teacher(), "cpu", "float16", "onnx")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device cuda: torch finds no CUDA device"):
            prepare_teacher(tiny_teacher(), "cuda")
