"""Masking distillation: what is hidden, and when."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.students import MaskingConfig
from fithubert.frames import padding_mask
from fithubert.models.student import build_student, draw_mask
from tests.models.shapes import strong, tiny


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
    trained, _ = student.hints(waveform)
    used, _ = student.eval().hints(waveform)
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
