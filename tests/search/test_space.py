"""The space of shapes and their costs."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fithubert.config.params import load_params
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
        readout=("last", "layers", "projections"), time_reduction=("none", "conv1d", "fc1", "fc2", "mean")
    )
    choices = {name: draw.choice(values) for name, values in space}
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
