"""First weights from a teacher: what is copied, what is not, and that it means the same."""

import pytest
import torch
from torch import Tensor

from fithubert.config.teacher import HubertConfig
from fithubert.distill.warmstart.start import initialise_from_teacher
from fithubert.errors import UserError
from fithubert.models.hubert import HubertModel, canonical_state
from fithubert.models.student import Student, build_student
from tests.models.shapes import TINY, tiny


def teacher(depth: int = 4, width: int = 32) -> HubertModel:
    torch.manual_seed(1)
    model = HubertModel(
        HubertConfig(
            conv_layers=TINY["conv_layers"],
            width=width,
            depth=depth,
            ffn_width=40,
            attention_heads=4,
            pos_conv_kernel=16,
            pos_conv_groups=4,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def student_from(state: dict[str, Tensor], **changes: object) -> tuple[Student, tuple[str, ...]]:
    student = build_student(tiny("distilhubert", depth=2, **changes))
    return student.eval(), initialise_from_teacher(student, state)


@pytest.mark.parametrize("folded", [True, False])
def test_with_the_feature_norm_a_student_starts_as_the_teachers_first_layers(folded: bool) -> None:
    model = teacher()
    state = canonical_state(model) if folded else {name: x.detach() for name, x in model.state_dict().items()}
    if not folded:
        state["positional.conv.weight"] = model.positional.conv.weight.detach()
    student, copied = student_from(state, feature_norm=True)
    assert {"frontend.layers.7", "feature_norm", "projection", "positional", "encoder_norm", "layers.1"} <= set(copied)
    waveforms, lengths = torch.randn(2, 8000) * 0.1, torch.tensor([8000, 6000])
    ours, theirs = student(waveforms, lengths), model(waveforms, lengths, last_layer=2)
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_distilhubert_goes_without_the_feature_norm() -> None:
    student, copied = student_from(canonical_state(teacher()))
    assert student.feature_norm is None
    assert "feature_norm" not in copied
    assert {"projection", "layers.0", "layers.1", "frontend.layers.0"} <= set(copied)


def test_only_parts_of_the_same_shape_are_copied_and_whole() -> None:
    model = teacher(width=64)
    student, copied = student_from(canonical_state(model), feature_norm=True)
    assert set(copied) == {f"frontend.layers.{index}" for index in range(8)} | {"feature_norm"}
    torch.testing.assert_close(student.frontend.layers[3].conv.weight, model.frontend.layers[3].conv.weight)


def test_a_teacher_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(UserError, match="no part of the teacher"):
        student_from({"layers.0.ffn_in.weight": torch.ones(2, 2)})
