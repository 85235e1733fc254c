"""The space of shapes and their costs."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fithubert.config.hints import UnitsParams
from fithubert.config.params import AugmentParams, DistillParams, load_params
from fithubert.config.search import SpaceParams, SweepParams
from fithubert.errors import UserError
from fithubert.importers import load_teacher
from fithubert.models.recipes import resolve
from fithubert.models.runtime import ReadOut
from fithubert.models.student import build_student
from fithubert.profile.costs import count_parts
from fithubert.search.space import (
    Limits,
    check_space,
    count_costs,
    find_choices,
    make_student,
    measure_speed,
    read_space,
)
from tests.search.fakes import SPEED, STUDENT


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_choice_builds_and_costs_what_is_counted(draw: random.Random) -> None:
    space = SpaceParams(
        readout=("last", "layers", "projections"),
        time_reduction=("none", "conv1d", "fc1", "fc2", "mean", "stack"),
        front_end=(0.5, 1.0, "mel"),
    )
    choices = {name: draw.choice(values) for name, values in space.choices.items()}
    student = make_student(STUDENT, choices, 12)
    config = resolve(student.recipe, student.shape)
    assert config.heads.layer_map[-1] == (choices["depth"], 12)
    built = build_student(config.released())
    costs = count_costs(student, SPEED)
    assert costs.params == sum(p.numel() for p in built.parameters())
    with torch.no_grad():
        macs = sum(part.macs for part in count_parts(ReadOut(built, "x"), 10.0).values()) / 10
    assert costs.macs_per_second == pytest.approx(macs)


def test_default_space_contains_the_scaled_paper_shape() -> None:
    params = load_params()
    of = params.students[params.sweep.of]
    choices = find_choices(of, params.sweep.space)
    assert choices is not None
    student = make_student(of, choices, 12)
    assert resolve(student.recipe, student.shape) == resolve(of.recipe, of.shape)
    check_space(params.sweep.space, of, 12, 192)
    assert find_choices(of, SpaceParams(width=(48,))) is None
    layers = of.changed({"shape": {"ffn_width": [60, 120] * 6, "head_width": 7}})
    assert find_choices(layers, params.sweep.space) is None
    uniform = make_student(layers, choices, 12)
    assert resolve(uniform.recipe, uniform.shape) == resolve(of.recipe, of.shape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width: [50]", "attention_heads: 4 does not divide width 50"),
        ("wide: [48]", "wide"),
        ("depth: [0]", "depth"),
        ("width: [48, 48]", "width: a value is listed twice"),
        ("[", "space.yaml"),
    ],
)
def test_errors_of_a_space_file_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_space(path)
    assert message in str(error.value)
    assert "space.yaml" in str(error.value)


def test_spaces_that_do_not_fit_the_teacher_are_refused() -> None:
    cut = STUDENT.model_copy(update={"init": "cut_teacher"})
    for space, of, message in (
        (SpaceParams(depth=(13,)), STUDENT, "deeper"),
        (SpaceParams(width=(240,)), cut, "wider"),
        (SpaceParams(width=(64,), attention_heads=(4,)), STUDENT, "groups"),
    ):
        with pytest.raises(UserError, match=message):
            check_space(space, of, 12, 192)


@pytest.mark.parametrize(
    "objectives", [("pr", "sid"), ("pr", "pr"), ("params", "macs_per_second"), ("nothing", "params")]
)
def test_objectives_need_a_quality_and_a_cost(objectives: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="objectives"):
        SweepParams(objectives=objectives)


def test_estimated_latency_grows_with_the_shape() -> None:
    teacher = load_teacher("mini")
    speed = measure_speed(STUDENT, teacher, 1, rounds=1)
    assert speed.teacher_seconds > 0
    deeper = make_student(STUDENT, {**(find_choices(STUDENT, SpaceParams()) or {}), "time_reduction": "none"}, 12)
    assert count_costs(deeper, speed).latency_ratio > count_costs(STUDENT, speed).latency_ratio > 0


def test_a_cost_at_its_limit_is_not_above_it() -> None:
    costs = count_costs(STUDENT, SPEED)
    assert not Limits(params=costs.params, latency_ratio=costs.latency_ratio).exceeded_by(costs)
    assert Limits(params=costs.params - 1).exceeded_by(costs)
    assert Limits(params=costs.params, latency_ratio=0.99 * costs.latency_ratio).exceeded_by(costs)
    assert not Limits().exceeded_by(costs)


def space_of(text: str, tmp_path: Path) -> SpaceParams:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(path)


def test_a_space_may_name_any_key_of_a_student_and_of_its_training(tmp_path: Path) -> None:
    space = space_of(
        """
        distill.learning_rate: [5.0e-4, 1.0e-3, 4.0e-3]
        distill.augment: [null, {noise_share: 0.5}]
        hints.normalise: [false, true]
        hints.losses.gram: [0.0, 0.5, 1.0]
        hints.units: [null, {teacher_layer: 9}]
        shape.dropout: [0.0, 0.1]
        init: [random, cut_teacher]
        """,
        tmp_path,
    )
    check_space(space, STUDENT, 12, 192)
    assert SpaceParams.model_validate(space.model_dump(mode="json")) == space
    choices = {
        "distill.learning_rate": 4e-3,
        "distill.augment": '{"noise_share": 0.5}',
        "hints.normalise": True,
        "hints.losses.gram": 0.5,
        "hints.units": '{"teacher_layer": 9}',
        "shape.dropout": 0.1,
        "init": "random",
    }
    assert all(value in space.choices[name] for name, value in choices.items())
    # The student's own rate does not win over the choice.
    student = make_student(STUDENT.model_copy(update={"learning_rate": 1e-3}), choices, 12)
    distill = DistillParams().for_student(student)
    assert distill.learning_rate == 4e-3
    assert distill.augment == AugmentParams(noise_share=0.5)
    assert student.hints.losses == {"mse": 1.0, "gram": 0.5}
    assert student.hints.normalise
    assert student.hints.units == UnitsParams(teacher_layer=9)
    config, own = (resolve(each.recipe, each.shape) for each in (student, STUDENT))
    assert config == own.model_copy(update={"dropout": 0.1})
    own_choices = find_choices(STUDENT, space, DistillParams(learning_rate=1e-3))
    assert own_choices == {
        "distill.learning_rate": 1e-3,
        "distill.augment": None,
        "hints.normalise": False,
        "hints.losses.gram": 0.0,
        "hints.units": None,
        "shape.dropout": 0.1,
        "init": "random",
    }
    assert make_student(STUDENT, own_choices, 12).hints.units is None


def test_keys_and_shapes_go_together(tmp_path: Path) -> None:
    space = space_of("depth: [2, 4]\nhints.hint_weight: [0.1, 1.0]", tmp_path)
    choices = {name: values[-1] for name, values in space.choices.items()}
    student = make_student(STUDENT, choices, 12)
    assert resolve(student.recipe, student.shape).depth == 4
    assert student.hints.hint_weight == 1.0


def test_the_context_of_attention_may_be_a_key(tmp_path: Path) -> None:
    space, of = (
        space_of("shape.context_frames: [null, 8]", tmp_path),
        STUDENT.changed({"shape": {"conv_norm": "layer"}}),
    )
    check_space(space, of, 12, 192)
    assert find_choices(of, space) == {"shape.context_frames": None}
    student = make_student(of, {"shape.context_frames": 8}, 12)
    assert resolve(student.recipe, student.shape).context_frames == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hints.normalize: [true]", r"space\.hints\.normalize: hints.normalize: unknown key; valid keys: losses"),
        ("hints.hint_weight: [-1.0]", r"space\.hints\.hint_weight: .*greater than or equal to 0"),
        ("distill.targets: [live]", r"space\.distill\.targets: distill\.targets: not a setting of one student"),
        ("distill.betas: [[0.5, 2.0]]", r"space\.distill\.betas: .*less than 1"),
        ("distill.updates: [5]", r"space\.distill\.updates: sweep\.budget or a list"),
        ("{shape.width: [48], depth: [2]}", r"space\.shape\.width: sweep\.budget or a list of shapes decides it"),
        ("shape.context_frames: [8]", r"space\.shape\.context_frames: .*needs conv_norm: layer"),
        ("shape.width: [7]", "attention_heads 12 does not divide width 7"),
    ],
)
def test_keys_that_make_no_student_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_space(space_of(text, tmp_path), STUDENT, 12, 192)
    assert "\n" not in str(error.value)
