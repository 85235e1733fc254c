"""A teacher says the same by every runtime; what a half precision says goes by another name."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fithubert.errors import UserError
from fithubert.frames import count_conv_frames, count_frames, hop_padding, pad_waveforms
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.runtime import HopAligned, Unpadded, prepare_teacher
from fithubert.models.speech_model import SpeechModel
from fithubert.models.windows import stream
from tests.fakes import FakeModel
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


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=4), st.integers(0, 3000))
def test_hop_padding_gives_one_frame_for_every_whole_hop(convolutions: list[tuple[int, int]], samples: int) -> None:
    step = math.prod(stride for _, stride in convolutions)
    padding = hop_padding(convolutions)
    assert 0 <= padding[1] - padding[0] <= 1
    padded = torch.tensor([samples + sum(padding)])
    assert int(count_conv_frames(padded, convolutions)) == samples // step == count_frames(samples, [(step, step)])


def test_hop_aligned_states_are_those_of_padded_waveforms_alone_and_in_a_batch() -> None:
    """bshall/hubert: `F.pad(wav, ((400 - 320) // 2, (400 - 320) // 2))` before the model."""
    teacher = tiny_teacher(normalise_waveform=True)
    aligned = HopAligned(teacher)
    waveforms, lengths = pad_waveforms([*WAVEFORMS, WAVEFORMS[0][:320], WAVEFORMS[0][:3200]])
    # What follows an utterance is not read.
    batch = aligned(waveforms + (torch.arange(7000) >= lengths[:, None]), lengths)
    assert batch.lengths.tolist() == [21, 1, 10, 1, 10]
    for row, count in enumerate(lengths.tolist()):
        padded = F.pad(waveforms[row : row + 1, :count], (40, 40))
        wanted = teacher(padded, torch.tensor([count + 80]))
        alone = aligned(waveforms[row : row + 1, :count], lengths[row : row + 1])
        for one, two, three in zip(alone.hidden_states, wanted.hidden_states, batch.hidden_states, strict=True):
            assert torch.equal(one, two)
            assert public.relative_error(three[row, : count // 320], two[0]) < 1e-4
    assert aligned.fingerprint not in (teacher.fingerprint, HopAligned(tiny_teacher()).fingerprint)


def test_hop_aligned_frames_of_windows_are_those_of_the_whole() -> None:
    model, waveform = HopAligned(FakeModel()), 0.1 * torch.randn(40_123)
    whole = model(waveform[None], torch.tensor([40_123])).hidden_states
    parts = stream(model, waveform.split(1000), window_seconds=0.5, context_seconds=0.1)
    for layer, states in enumerate(zip(*parts, strict=True)):
        assert len(torch.cat(states)) == 40_123 // 320
        torch.testing.assert_close(torch.cat(states), whole[layer][0])


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
