"""The laws of every student: frames, independence of the batch, gradients everywhere, masking, lists, export."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fithubert.config.students import MaskingConfig
from fithubert.errors import UserError
from fithubert.frames import count_frames, draw_mask, pad_waveforms, padding_mask
from fithubert.models.recipes import RECIPES
from fithubert.models.runtime import ReadOut
from fithubert.models.student import Student, StudentOutput, build_student
from tests.models.shapes import strong, tiny

REDUCTIONS = [("none", 2, 0), *(("stack", factor, 0) for factor in (2, 3, 4))] + [
    (kind, factor, before) for kind in ("conv1d", "fc1", "fc2", "mean") for factor in (2, 3, 4) for before in (0, 1, 2)
]


def reduced(reduction: tuple[str, int, int], recipe: str = "fithubert", **heads: Any) -> Student:
    kind, factor, before = reduction
    return strong(tiny(recipe, time_reduction={"kind": kind, "factor": factor, "before_layer": before}, heads=heads))


def assert_independent_of_the_batch(student: Student, lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    waveforms = [torch.randn(n, generator=generator) * 0.1 for n in lengths]
    with torch.inference_mode():
        batch = student(*pad_waveforms(waveforms))
        for row, waveform in enumerate(waveforms):
            alone = student(waveform[None])
            frames = count_frames(len(waveform))
            assert batch.lengths[row] == alone.lengths[0] == frames
            for one, many in zip(
                alone.hidden_states + alone.projections, batch.hidden_states + batch.projections, strict=True
            ):
                assert one.shape[1] == frames
                torch.testing.assert_close(one[0], many[row, :frames], atol=1e-4, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    recipe=st.sampled_from(["fithubert", "fithubert_mel"]),
    reduction=st.sampled_from(REDUCTIONS),
    upsampling=st.sampled_from(["transposed_conv", "repeat"]),
    kind=st.sampled_from(["per_layer", "none", "shared"]),
    lengths=st.lists(st.integers(400, 60_000), min_size=2, max_size=3),
)
def test_batched_equals_one_by_one(
    recipe: str, reduction: tuple[str, int, int], upsampling: str, kind: str, lengths: list[int]
) -> None:
    heads: dict[str, Any] = {"kind": kind, "upsampling": upsampling}
    if kind == "shared":
        heads["layer_map"] = ((3, 2), (3, 6))
    assert_independent_of_the_batch(reduced(reduction, recipe, **heads), lengths)


@settings(max_examples=12, deadline=None)
@given(
    recipe=st.sampled_from(sorted(RECIPES)),
    norm_first=st.booleans(),
    lengths=st.lists(st.integers(400, 30_000), min_size=2, max_size=3),
)
def test_every_recipe_is_independent_of_the_batch(recipe: str, norm_first: bool, lengths: list[int]) -> None:
    assert_independent_of_the_batch(strong(tiny(recipe, layer_norm_first=norm_first)), lengths)


@pytest.mark.parametrize(
    ("recipe", "reduction"),
    [(name, None) for name in RECIPES]
    + [("fithubert", reduction) for reduction in REDUCTIONS]
    + [("fithubert_mel", reduction) for reduction in REDUCTIONS[::4]],
)
def test_every_parameter_receives_a_gradient(recipe: str, reduction: tuple[str, int, int] | None) -> None:
    changes: dict[str, Any] = {}
    if reduction is not None:
        changes["time_reduction"] = dict(zip(("kind", "factor", "before_layer"), reduction, strict=True))
    student = build_student(tiny(recipe, **changes))
    projections, *_ = student.hints([torch.randn(8000), torch.randn(7000)])
    sum(p[:, :20].square().mean() for p in projections).backward()
    without = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in without if not name.endswith("attention.key.bias")]  # softmax does not see it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["fithubert", "fithubert_mel", "distilhubert", "armhubert", "starhubert"])
def test_a_padded_batch_runs_in_half_precision(recipe: str, dtype: torch.dtype) -> None:
    student = strong(tiny(recipe))
    waveforms, lengths = pad_waveforms([torch.randn(16_000) * 0.1, torch.randn(4_001) * 0.1])
    with torch.inference_mode():
        wanted, _ = student.read(waveforms, lengths)
        states, frames = student.to(dtype).read(waveforms.to(dtype), lengths)
    for state, theirs in zip(states, wanted, strict=True):
        assert state.dtype == dtype
        for row, count in enumerate(frames.tolist()):
            difference = state[row, :count].float() - theirs[row, :count]
            assert difference.norm() < 0.1 * theirs[row, :count].norm()


def test_states_and_projections_have_the_teachers_frames() -> None:
    student = reduced(("conv1d", 2, 1))
    out = student([torch.randn(16_000), torch.randn(719)])
    assert out.lengths.tolist() == [49, 1]
    assert [tuple(x.shape) for x in out.hidden_states] == [(2, 49, 32)] * 4
    assert [tuple(x.shape) for x in out.projections] == [(2, 49, 24)] * 3
    # layers below the time reduction keep their frames, those above repeat them
    assert not torch.equal(out.hidden_states[1][:, 0], out.hidden_states[1][:, 1])
    assert torch.equal(out.hidden_states[2][:, 0], out.hidden_states[2][:, 1])


def test_hints_are_the_projections_of_forward() -> None:
    student = strong(tiny())
    waveforms = [torch.randn(9000), torch.randn(5000)]
    full = student(waveforms)
    some, lengths, *_ = student.hints(waveforms, heads=(0, 2))
    assert torch.equal(lengths, full.lengths)
    torch.testing.assert_close(some, (full.projections[0], full.projections[2]))


def test_too_short_utterances() -> None:
    student = strong(tiny())
    out = student([torch.randn(16_000), torch.randn(300)])
    assert out.lengths.tolist() == [49, 0]
    assert all(bool(x.isfinite().all()) for x in out.projections)
    with pytest.raises(UserError, match="300 samples gives no frame; at least 400"):
        student([torch.randn(300)])


def test_a_student_that_drops_frames_counts_them_itself() -> None:
    model = ReadOut(strong(tiny(time_reduction={"drop_last_frame": True})), "x")
    assert (model.frame_multiple, model.student.shortest_samples) == (2, 720)
    for samples in (720, 1039, 1040, 16_000, 60_000):
        out = model(torch.randn(1, samples) * 0.1, torch.tensor([samples]))
        frames = count_frames(samples, model.convolutions, model.frame_multiple)
        assert out.lengths.tolist() == [frames] == [out.hidden_states[0].shape[1]]
    with pytest.raises(UserError, match="640 samples gives no frame; at least 720 are needed"):
        model(torch.zeros(1, 640), torch.tensor([640]))


def test_a_reused_attention_map_is_the_one_of_the_layer_before() -> None:
    student = strong(tiny(reuse_attention=(1,), time_reduction={"kind": "none"}))
    x, lengths = torch.randn(2, 9, 32), torch.tensor([9, 5])
    mask = (torch.arange(9)[None] < lengths[:, None])[:, None, None]
    first = student.layers[0]
    torch.testing.assert_close(first(x, mask), first(x, mask, first.attention_map(x, mask)), atol=1e-5, rtol=1e-5)
    assert not any("layers.1.attention.query" in name for name in student.state_dict())


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 120), min_size=1, max_size=4),
    share=st.floats(0.05, 0.95),
    span=st.integers(1, 12),
)
def test_spans_keep_apart_and_inside_their_utterance(lengths: list[int], share: float, span: int) -> None:
    mask = draw_mask(torch.tensor(lengths), 120, MaskingConfig(share=share, span_frames=span))
    assert not mask[~padding_mask(torch.tensor(lengths), 120)].any()
    for row, frames in zip(mask, lengths, strict=True):
        runs = [len(run) for run in "".join("x" if hidden else " " for hidden in row).split()]
        assert set(runs) <= {span}
        assert len(runs) <= share * frames / span + 1


def test_the_share_is_covered_on_average_and_draws_differ() -> None:
    torch.manual_seed(0)
    masks = torch.stack([draw_mask(torch.tensor([500]), 500, MaskingConfig(share=0.4)) for _ in range(30)])
    assert abs(masks.float().mean() - 0.4) < 0.01
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 30


def test_frames_are_hidden_in_training_only_and_by_the_learnt_embedding() -> None:
    quiet = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "input_dropout": 0.0}
    student = build_student(tiny("armhubert", **quiet))
    waveform = torch.randn(1, 16_000)
    trained, *_ = student.hints(waveform)
    used, *_ = student.eval().hints(waveform)
    assert not torch.allclose(trained[0], used[0])
    none, everything = torch.zeros(1, 49, dtype=torch.bool), torch.ones(1, 49, dtype=torch.bool)
    torch.testing.assert_close(student.hints(waveform, masked=none)[0], used)
    hidden = [student.hints(torch.randn(1, 16_000), masked=everything)[0] for _ in range(2)]
    torch.testing.assert_close(hidden[0], hidden[1])


def test_masks_follow_the_random_state() -> None:
    student = strong(tiny("maskhubert")).train()
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        outputs.append(student.hints(torch.randn(1, 16_000))[0])
    torch.testing.assert_close(outputs[0], outputs[1], atol=0, rtol=0)


#: Few convolutions: tracing them is what takes long.
SMALL = {"conv_layers": [[8, 10, 5], [16, 64, 64]], "depth": 2}


def assert_same_answers(student: Student, other: Callable[[Tensor, Tensor], StudentOutput]) -> None:
    for lengths in ([5001], [3000, 2900, 400]):
        inputs = torch.randn(len(lengths), lengths[0]) * 0.1, torch.tensor(lengths)
        with torch.no_grad():
            eager, theirs = student(*inputs), other(*inputs)
        assert torch.equal(theirs.lengths, eager.lengths)
        for row, count in enumerate(eager.lengths.tolist()):
            for one, two in zip(
                eager.hidden_states + eager.projections, theirs.hidden_states + theirs.projections, strict=True
            ):
                assert one.shape == two.shape
                torch.testing.assert_close(one[row, :count], two[row, :count], atol=1e-5, rtol=1e-5)


def test_a_student_is_exported_with_any_batch_and_length() -> None:
    student = strong(tiny(**SMALL, time_reduction={"before_layer": 1}))
    batch, samples = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("samples", min=3000, max=480_000)
    example = torch.randn(2, 6000), torch.tensor([6000, 4000])
    shapes = {"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}}
    assert_same_answers(student, torch.export.export(student, example, dynamic_shapes=shapes).module())


def test_a_student_is_compiled_as_one_graph() -> None:
    student = strong(tiny(**SMALL, time_reduction={"kind": "fc2", "factor": 4}))
    # the capture is what may fail; the backend that generates code would take a minute
    assert_same_answers(student, torch.compile(student, backend="eager", fullgraph=True, dynamic=True))
