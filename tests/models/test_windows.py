"""Windows are joined exactly: every frame once, and a local model's states are those of the whole recording."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fithubert.frames import HUBERT_CONVOLUTIONS, count_conv_frames, count_frames, keep_whole, receptive_field
from fithubert.models.runtime import HopAligned, ReadOut
from fithubert.models.speech_model import FbankModel, Locality, SpeechOutput
from fithubert.models.windows import Grid, Window, needed_context, stream
from tests.models.shapes import strong, tiny

GRIDS = (HUBERT_CONVOLUTIONS, ((400, 160),), ((3, 2), (5, 3)), ((2, 3), (1, 1), (4, 5)), ((1, 1),))


class LocalModel:
    """One layer of whole numbers: sums over a frame's samples, then over `reach` frames on each side, zeros beyond."""

    name, fingerprint, widths = "local", "0", (1,)

    def __init__(self, convolutions: Any, frame_multiple: int, reach: int) -> None:
        self.convolutions, self.frame_multiple, self.reach = convolutions, frame_multiple, reach
        self.locality = Locality(reach)
        self.longest = 0

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        self.longest = max(self.longest, waveforms.shape[1])
        x = waveforms[:, None].double()
        for kernel, stride in self.convolutions:
            x = F.conv1d(x, torch.arange(1.0, kernel + 1).double()[None, None], stride=stride) % 1009
        frames = keep_whole(count_conv_frames(lengths, self.convolutions), self.frame_multiple)
        x = x[:, :, : int(frames.max())]
        x = F.conv1d(x, torch.arange(1.0, 2 * self.reach + 2).double()[None, None], padding=self.reach)
        return SpeechOutput((x.transpose(1, 2),), frames)


def draw_waveform(num_samples: int) -> Tensor:
    return torch.randint(-100, 100, (num_samples,), generator=torch.Generator().manual_seed(num_samples)).float()


def run_whole(model: Any, waveform: Tensor) -> tuple[Tensor, ...]:
    return tuple(state[0] for state in model(waveform[None], torch.tensor([len(waveform)])).hidden_states)


def join(pieces: Any) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]


def plan_windows(grid: Grid, num_samples: int) -> list[Window]:
    windows: list[Window] = []
    frame = 0
    while window := grid.window_from(frame, num_samples):
        windows.append(window)
        frame += window.num_frames
    return windows


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(GRIDS),
    st.integers(1, 5),
    st.integers(0, 60_000),
    st.integers(1, 70),
    st.integers(0, 40),
)
def test_every_frame_is_kept_once_with_its_context(
    convolutions: Any, multiple: int, num_samples: int, window_frames: int, context_frames: int
) -> None:
    total, step = count_frames(num_samples, convolutions, multiple), receptive_field(convolutions)[1]
    kept = 0
    for window in plan_windows(Grid(tuple(convolutions), multiple, window_frames, context_frames), num_samples):
        first_frame, kept = kept, kept + window.num_frames
        assert 0 < window.num_frames <= window_frames
        assert window.first_sample % (step * multiple) == 0
        assert window.first_sample + window.num_samples <= num_samples
        assert window.first_sample // step == first_frame - window.drop_first_frames
        read = count_frames(window.num_samples, convolutions, multiple)
        assert read == window.drop_first_frames + window.num_frames + window.drop_last_frames
        assert window.drop_first_frames >= min(context_frames, first_frame)
        assert window.drop_last_frames >= min(context_frames, total - kept)
        assert read <= window_frames + 2 * (context_frames + 60)
    assert kept == total


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_local_model_gives_the_states_of_the_whole_recording_from_chunks_of_any_size(data: st.DataObject) -> None:
    convolutions, multiple = data.draw(st.sampled_from(GRIDS[2:])), data.draw(st.integers(1, 3))
    reach = data.draw(st.integers(0, 5))
    model = LocalModel(convolutions, multiple, reach)
    waveform = draw_waveform(data.draw(st.integers(60, 3_000)))
    sizes = data.draw(st.lists(st.integers(0, 900), max_size=5))
    chunks = torch.tensor_split(waveform, torch.tensor(sizes).cumsum(0)) if sizes else (waveform,)
    rate_hz = 16_000 / receptive_field(convolutions)[1]
    window_seconds = data.draw(st.integers(1, 90)) / rate_hz
    (joined,) = join(stream(model, chunks, window_seconds, reach / rate_hz))
    assert torch.equal(joined, run_whole(model, waveform)[0])


def test_streamed_states_are_those_of_the_planned_windows_and_come_as_soon_as_their_context() -> None:
    model = ReadOut(strong(tiny("fithubert")), "student")
    waveform = draw_waveform(60_000) / 100
    windows = plan_windows(Grid(tuple(model.convolutions), model.frame_multiple, 50, 10), 60_000)
    expected = []
    for window in windows:
        part = waveform[window.first_sample : window.first_sample + window.num_samples]
        kept = slice(window.drop_first_frames, window.drop_first_frames + window.num_frames)
        expected.append([state[kept] for state in run_whole(model, part)])
    fed: list[int] = []

    def feed() -> Any:
        for chunk in waveform.split(700):
            fed.append(len(chunk))
            yield chunk

    for index, states in enumerate(stream(model, feed(), 1.0, 0.2)):
        assert all(map(torch.equal, states, expected[index]))
        if index < len(windows) - 1:
            assert sum(fed) <= windows[index].first_sample + windows[index].num_samples + 320 + 700
    assert index == len(windows) - 1 > 2


@pytest.mark.parametrize("reduction", [{"factor": 2}, {"factor": 3}, {"factor": 4}])
def test_groups_of_a_time_reduction_are_those_of_the_whole_recording(reduction: dict[str, int]) -> None:
    student = strong(tiny("fithubert", conv_norm="layer", depth=1, time_reduction=reduction, readout="layers"))
    model = ReadOut(student, "student")
    waveform = draw_waveform(50_001) / 100
    whole = run_whole(model, waveform)[0]
    (joined,) = join(stream(model, [waveform], 0.7, 0.5, [0]))
    torch.testing.assert_close(joined, whole, rtol=1e-5, atol=1e-5)


#: Students of a bounded reach: reductions of every kind, with groups that 12 frames do not hold evenly, reused maps.
LOCAL: dict[str, tuple[str, dict[str, Any]]] = {
    "fithubert": ("fithubert", {"context_frames": 2}),
    "groups of 5": ("fithubert", {"context_frames": 1, "time_reduction": {"factor": 5, "before_layer": 1}}),
    "last group dropped": ("fithubert", {"context_frames": 2, "time_reduction": {"drop_last_frame": True}}),
    "group added": ("fithubert", {"context_frames": 1, "time_reduction": {"kind": "fc1", "drop_last_frame": True}}),
    "filter banks": ("fithubert_mel", {"context_frames": 3, "pos_conv_kernel": 7}),
    "reused maps": ("armhubert", {"context_frames": 4, "pos_conv_kernel": 9}),
    "shared heads": ("distilhubert", {"context_frames": 5, "layer_norm_first": True}),
}


def local_model(name: str) -> ReadOut:
    recipe, changes = LOCAL[name]
    return ReadOut(strong(tiny(recipe, conv_norm="layer", **changes)), name)


@pytest.mark.parametrize("name", LOCAL)
def test_a_frame_depends_on_the_frames_within_reach_and_on_no_others(name: str) -> None:
    model, waveform = local_model(name), draw_waveform(60_000) / 100
    reach = model.locality.reach_frames
    assert reach is not None
    changed = waveform.clone()
    changed[30_080:30_120] += 1.0
    before, after = (torch.cat(run_whole(model, each), 1) for each in (waveform, changed))
    moved = (before != after).any(1).nonzero().flatten() - 30_100 // 320
    assert moved.min() >= -reach - 1  # Two frames of the front end read these samples.
    assert moved.max() <= reach
    assert moved.max() - moved.min() > reach


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(list(LOCAL)), st.booleans(), st.integers(2_000, 60_000), st.integers(1, 80), st.data())
def test_a_student_of_limited_context_streams_the_states_of_the_whole_recording(
    name: str, aligned: bool, num_samples: int, window_frames: int, data: st.DataObject
) -> None:
    model: Any = HopAligned(local_model(name)) if aligned else local_model(name)
    waveform = draw_waveform(num_samples) / 100
    ends = sorted(data.draw(st.lists(st.integers(0, num_samples), max_size=6)))
    chunks = torch.tensor_split(waveform, ends)
    for states, wanted in zip(join(stream(model, chunks, window_frames / 50)), run_whole(model, waveform), strict=True):
        assert states.shape == wanted.shape
        assert float((states - wanted).norm() / wanted.norm()) < 1e-5


def test_less_context_than_the_reach_gives_other_states() -> None:
    model, waveform = local_model("fithubert"), draw_waveform(60_000) / 100
    assert model.locality.reach_frames == 3 * 2 * 2 + 8 + 1
    assert needed_context(model) == 0.42
    assert needed_context(ReadOut(strong(tiny()), "unlimited")) == 10.0
    (joined,) = join(stream(model, [waveform], 0.5, 0.0))
    wanted = run_whole(model, waveform)[0]
    assert float((joined - wanted).norm() / wanted.norm()) > 1e-2


def test_filter_banks_are_the_same_without_any_context() -> None:
    waveform = draw_waveform(40_000) / 1000
    (joined,) = join(stream(FbankModel(), waveform.split(999), 0.33, 0.0))
    torch.testing.assert_close(joined, run_whole(FbankModel(), waveform)[0], rtol=1e-5, atol=1e-5)


def test_less_than_a_frame_gives_nothing_and_the_longest_waveform_does_not_grow() -> None:
    assert list(stream(FbankModel(), [torch.zeros(399)])) == []
    assert list(stream(FbankModel(), [])) == []
    longest = []
    for seconds in (30, 120):
        model = LocalModel(HUBERT_CONVOLUTIONS, 1, 3)
        pieces = list(stream(model, draw_waveform(seconds * 16_000).split(16_000), 2.0, 1.0))
        assert sum(len(states[0]) for states in pieces) == count_frames(seconds * 16_000)
        longest.append(model.longest)
    assert longest[0] == longest[1] < 5 * 16_000
