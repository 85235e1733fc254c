"""First weights from a teacher: copied parts are equal; a cut student of the teacher's size equals it."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig
from fithubert.distill.warmstart import cut_teacher, initialise_from_teacher
from fithubert.errors import UserError
from fithubert.frames import pad_waveforms
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel
from fithubert.models.recipes import resolve
from fithubert.models.student import Student, build_student
from tests.models.shapes import TINY, tiny
from tests.models.test_hubert import CONV, tiny_config


def strong_teacher(norm_first: bool = False, conv_norm: str = "group", normalise: bool = False) -> HubertModel:
    torch.manual_seed(0)
    teacher = HubertModel(tiny_config(norm_first, conv_norm, normalise))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return teacher.eval()


def speech(seconds: float = 2.0, count: int = 8, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(int(seconds * 16_000) + 37 * i, generator=generator) for i in range(count)]


def student_of(teacher: HubertModel, recipe: str = "fithubert", **changes: Any) -> StudentConfig:
    """The recipe with every size that is not in `changes` taken from the teacher."""
    config = teacher.config
    heads = {"teacher_width": config.width, **changes.pop("heads", {})}
    sizes = {
        "conv_layers": config.conv_layers,
        "conv_norm": config.conv_norm,
        "conv_bias": config.conv_bias,
        "feature_norm": True,
        "width": config.width,
        "depth": config.depth,
        "ffn_width": config.ffn_width,
        "attention_heads": config.attention_heads,
        "layer_norm_first": config.norm_first,
        "pos_conv_kernel": config.pos_conv_kernel,
        "pos_conv_groups": config.pos_conv_groups,
    }
    return resolve(recipe, {**sizes, **changes, "heads": heads})


def cut(config: StudentConfig, teacher: HubertModel, waveforms: list[Tensor] | None = None) -> Student:
    torch.manual_seed(1)
    student = build_student(config)
    parts: list[tuple[int, int]] = []
    cut_teacher(student, teacher, waveforms or speech(), lambda done, total: parts.append((done, total)))
    assert parts == [(done, parts[-1][0]) for done in range(len(parts))], "each part is told once, the last one too"
    assert student.training, "the student is left in the mode it came in"
    return student.eval()


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative error."""
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
def head_distances(student: Student, teacher: HubertModel) -> list[float]:
    """The relative error of every head on speech that the cut has not read."""
    waveforms, lengths = pad_waveforms(speech(1.0, 3, seed=9))
    out, wanted = student(waveforms, lengths), teacher(waveforms, lengths).hidden_states
    pairs = student.config.heads.layer_map
    shortest = int(lengths.min()) // 320 - 1  # frames that none of the utterances pads
    return [
        distance(y[:, :shortest], wanted[layer][:, :shortest])
        for y, (_, layer) in zip(out.projections, pairs, strict=True)
    ]


@pytest.mark.parametrize(
    ("norm_first", "conv_norm", "normalise"), [(False, "group", False), (True, "layer", True), (False, "layer", False)]
)
def test_a_student_of_the_teachers_shape_is_the_teacher(norm_first: bool, conv_norm: str, normalise: bool) -> None:
    teacher = strong_teacher(norm_first, conv_norm, normalise)
    student = cut(student_of(teacher, time_reduction={"kind": "none"}), teacher)
    waveforms, lengths = pad_waveforms(speech(1.0, 3, seed=9))
    read = waveforms
    if normalise:  # A student does not normalise its input.
        waveforms, lengths = waveforms[:1, : int(lengths[0])], lengths[:1]
        read = torch.nn.functional.layer_norm(waveforms, waveforms.shape[1:])
    with torch.no_grad():
        ours, theirs = student(read, lengths).hidden_states, teacher(waveforms, lengths).hidden_states
    for layer, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        assert distance(x[:, :40], y[:, :40]) < 1e-3, layer
    if not normalise:
        assert max(head_distances(student, teacher)) < 1e-3


def test_pointwise_convolutions_with_room_for_both_signs_lose_nothing() -> None:
    teacher = strong_teacher()
    layers = [CONV[0], (16, 1, 1), *CONV[1:5], (32, 1, 1), *CONV[5:]]
    student = cut(student_of(teacher, conv_layers=layers, time_reduction={"kind": "none"}), teacher)
    assert max(head_distances(student, teacher)) < 1e-3


THIN: dict[str, Any] = {
    "conv_layers": [[6, 10, 5], [8, 1, 1], *[[8, 3, 2]] * 4, [12, 1, 1], *[[12, 2, 2]] * 2],
    "width": 16,
    "ffn_width": 20,
    "attention_heads": 4,
    "pos_conv_groups": 4,
}


@pytest.mark.parametrize(
    ("kind", "before_layer"), [*product(["conv1d", "fc1", "fc2", "mean", "none"], [0, 1]), ("stack", 0)]
)
@pytest.mark.parametrize("factor", [2, 3])
def test_a_thin_student_is_closer_than_the_teachers_mean(kind: str, before_layer: int, factor: int) -> None:
    """On white noise as speech, where no frame is like its neighbour and time reduction hurts most."""
    teacher = strong_teacher()
    reduction = {"kind": kind, "before_layer": before_layer, "factor": factor}
    kernel = -(-teacher.config.pos_conv_kernel // (factor if kind == "stack" else 1))
    student = cut(student_of(teacher, **THIN, time_reduction=reduction, pos_conv_kernel=kernel), teacher)
    waveforms, lengths = pad_waveforms(speech(1.0, 3, seed=9))
    with torch.no_grad():
        theirs = teacher(waveforms, lengths).hidden_states
    for error, (_, layer) in zip(head_distances(student, teacher), student.config.heads.layer_map, strict=True):
        centred = theirs[layer] - theirs[layer].mean((0, 1))
        of_the_mean = float(centred.norm() / theirs[layer].norm())
        assert error < (0.75 if kind == "none" else 0.98) * of_the_mean


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("armhubert", {}),
        ("starhubert", {}),
        ("distilhubert", {"depth": 2, "heads": {"layer_map": [[2, 1], [2, 3]]}}),
        ("fithubert", {"depth": 2, "heads": {"layer_map": [[1, 1], [2, 3]]}}),
        ("fithubert", {"attention_heads": 2}),
        ("fithubert", {"attention_heads": 8, "ffn_width": 64}),
        ("fithubert", {"attention_heads": [2, 3, 4], "head_width": 5, "ffn_width": [30, 12, 48]}),
        ("fithubert", {"heads": {"upsampling": "repeat"}}),
        ("fithubert", {"pos_conv_kernel": 8, "feature_norm": False}),
        ("fithubert", {"conv_layers": [[16, 40, 20], [8, 7, 4], [12, 4, 4]]}),
        ("fithubert", {"conv_layers": [[16, 80, 40], [12, 1, 1], [12, 9, 8]], "time_reduction": {"kind": "stack"}}),
        ("fithubert_mel", {"conv_layers": [], "pos_conv_kernel": 8}),
        ("fithubert_mel", {"conv_layers": [], "conv_norm": "layer", "time_reduction": {"kind": "conv1d"}}),
    ],
)
def test_every_kind_of_student_starts_closer_to_the_teacher(recipe: str, changes: dict[str, Any]) -> None:
    teacher = strong_teacher()
    config = student_of(teacher, recipe, **{**THIN, **changes})
    student = cut(config, teacher)
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    if config.heads.kind == "per_layer":
        torch.manual_seed(1)
        untrained = build_student(config).eval()
        for error, before in zip(head_distances(student, teacher), head_distances(untrained, teacher), strict=True):
            assert error < 0.9 * before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 48}, "48 wide and 3 deep cannot be cut from a teacher 24 wide and 3 deep"),
        ({"depth": 4}, "4 deep cannot be cut"),
        ({"layer_norm_first": True}, "layer_norm_first and conv_norm must be the teacher's"),
        ({"conv_layers": [[8, 15, 10], *CONV[2:]]}, "cannot be cut from the teacher's"),
        ({"heads": {"teacher_width": 20}}, "teacher_width 20 is not the teacher's width, 24"),
    ],
)
def test_students_that_cannot_be_cut_are_refused(changes: dict[str, Any], message: str) -> None:
    teacher = strong_teacher()
    with pytest.raises(UserError, match=message):
        cut(student_of(teacher, **changes), teacher)


def random_teacher(depth: int = 4, width: int = 32) -> HubertModel:
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


def student_from(teacher: HubertModel, **changes: object) -> tuple[Student, tuple[str, ...]]:
    student = build_student(tiny("distilhubert", depth=2, **changes))
    return student.eval(), initialise_from_teacher(student, teacher)


@pytest.mark.parametrize("folded", [True, False])
def test_with_the_feature_norm_a_student_starts_as_the_teachers_first_layers(folded: bool) -> None:
    model = prepare_for_inference(random_teacher()) if folded else random_teacher()
    student, copied = student_from(model, feature_norm=True)
    assert {"frontend.layers.7", "feature_norm", "projection", "positional", "encoder_norm", "layers.1"} <= set(copied)
    waveforms, lengths = torch.randn(2, 8000) * 0.1, torch.tensor([8000, 6000])
    ours, theirs = student(waveforms, lengths), model(waveforms, lengths, last_layer=2)
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_distilhubert_goes_without_the_feature_norm() -> None:
    student, copied = student_from(random_teacher())
    assert student.feature_norm is None
    assert "feature_norm" not in copied
    assert {"projection", "layers.0", "layers.1", "frontend.layers.0"} <= set(copied)


def test_only_parts_of_the_same_shape_are_copied_and_whole() -> None:
    model = random_teacher(width=64)
    student, copied = student_from(model, feature_norm=True)
    assert set(copied) == {f"frontend.layers.{index}" for index in range(8)} | {"feature_norm"}
    torch.testing.assert_close(student.frontend.layers[3].conv.weight, model.frontend.layers[3].conv.weight)


def test_a_teacher_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(UserError, match="no part of the teacher"):
        student_from(
            HubertModel(
                HubertConfig(
                    conv_layers=[(5, 10, 5)], width=4, depth=1, ffn_width=2, attention_heads=1, pos_conv_groups=1
                )
            )
        )


def test_a_student_of_limited_context_is_fitted_with_its_own_attention() -> None:
    teacher = strong_teacher(conv_norm="layer")
    shape = {"time_reduction": {"kind": "none"}, "conv_norm": "layer"}
    limited = student_of(teacher, **shape, context_frames=1)
    student, copied = cut(limited, teacher), build_student(limited).eval()
    copied.load_state_dict(cut(student_of(teacher, **shape), teacher).state_dict())
    for error, other in zip(head_distances(student, teacher), head_distances(copied, teacher), strict=True):
        assert error < 0.9 * other
