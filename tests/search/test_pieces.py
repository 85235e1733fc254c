"""Space, costs, front and stopping rule, one by one."""

import itertools
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fithubert.config.params import load_params
from fithubert.config.sweep import SpaceParams, SweepParams
from fithubert.errors import UserError
from fithubert.importers.registry import load_teacher
from fithubert.models.readout import ReadOut
from fithubert.models.recipes import resolve
from fithubert.models.student import build_student
from fithubert.profile.counts import count_parts
from fithubert.records import Head
from fithubert.search.alive import Interrupts
from fithubert.search.front import contributions, dominates, hypervolume, pareto_front
from fithubert.search.space import (
    Limits,
    check_space,
    count_costs,
    find_choices,
    make_student,
    measure_speed,
    read_space,
)
from fithubert.search.stopping import Finished, StoppingRule
from fithubert.training.events import Evaluated, Listeners, StopTraining
from tests.search.fakes import SPEED, STUDENT

points_of = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.tuples(*[st.integers(0, 6).map(float)] * n), min_size=1, max_size=8)
)


@given(points_of)
def test_front_is_what_nothing_dominates(points: list[tuple[float, ...]]) -> None:
    front = pareto_front(points)
    assert front
    for index, point in enumerate(points):
        beaten = any(dominates(points[other], point) for other in front)
        assert beaten == (index not in front)


@given(points_of)
def test_hypervolume_counts_the_unit_cells_that_are_dominated(points: list[tuple[float, ...]]) -> None:
    size = 7
    cells = itertools.product(range(size), repeat=len(points[0]))
    expected = sum(any(all(x <= c for x, c in zip(p, cell, strict=True)) for p in points) for cell in cells)
    reference = [float(size)] * len(points[0])
    assert hypervolume(points, reference) == pytest.approx(expected)
    gains = contributions(points, reference)
    assert all(gain >= -1e-9 for gain in gains)
    assert all(gain == pytest.approx(0) for i, gain in enumerate(gains) if i not in pareto_front(points))


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


def test_default_space_holds_the_scaled_paper_shape() -> None:
    params = load_params()
    of = params.students[params.sweep.of]
    choices = find_choices(of, params.sweep.space)
    assert choices is not None
    student = make_student(of, choices, 12)
    assert resolve(student.recipe, student.shape) == resolve(of.recipe, of.shape)
    check_space(params.sweep.space, of, 12, 192)
    assert find_choices(of, SpaceParams(width=(48,))) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("width: [50]", "attention_heads: 4 does not divide width 50"),
        ("wide: [48]", "wide"),
        ("depth: [0]", "depth"),
        ("width: [48, 48]", "width: a value is there twice"),
        ("[", "space.yaml"),
    ],
)
def test_errors_of_a_space_file_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_space(path)
    assert said in str(error.value)
    assert "space.yaml" in str(error.value)


def test_spaces_that_do_not_fit_the_teacher_are_refused() -> None:
    cut = STUDENT.model_copy(update={"init": "cut_teacher"})
    for space, of, said in (
        (SpaceParams(depth=(13,)), STUDENT, "deeper"),
        (SpaceParams(width=(240,)), cut, "wider"),
        (SpaceParams(width=(64,), attention_heads=(4,)), STUDENT, "groups"),
    ):
        with pytest.raises(UserError, match=said):
            check_space(space, of, 12, 192)


@pytest.mark.parametrize(
    "objectives", [("pr", "sid"), ("pr", "pr"), ("params", "macs_per_second"), ("nothing", "params")]
)
def test_objectives_need_a_quality_and_a_cost(objectives: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="objectives"):
        SweepParams(objectives=objectives)


def test_a_student_that_was_timed_is_estimated_as_it_was_timed() -> None:
    teacher = load_teacher("mini")
    speed = measure_speed(STUDENT, teacher, 1, rounds=1)
    assert speed.teacher_seconds > 0
    deeper = make_student(STUDENT, {**(find_choices(STUDENT, SpaceParams()) or {}), "time_reduction": "none"}, 12)
    assert count_costs(deeper, speed).latency_ratio > count_costs(STUDENT, speed).latency_ratio > 0


def test_limits_tell_by_how_much() -> None:
    costs = count_costs(STUDENT, SPEED)
    excess = Limits(params=costs.params // 2, latency_ratio=2 * costs.latency_ratio).excess(costs)
    assert excess["params"] == pytest.approx(1, abs=1e-3)
    assert excess["latency_ratio"] == pytest.approx(-0.5)
    assert Limits().excess(costs) == {}


def _evaluated(update: int, loss: float) -> Evaluated:
    return Evaluated(update, 0.0, 0.0, 1.0, 9.0, {Head(1, 6): 5.0, Head(2, 12): loss}, True)


def test_rule_stops_what_cheaper_trials_beat_by_the_margin() -> None:
    better = [Finished((50.0,), {50: 0.5, 75: 0.4}), Finished((90.0,), {50: 0.5, 75: 0.4})]
    noted: dict[int, float] = {}
    rule = StoppingRule((100.0,), 100, 0.1, 2, lambda: better, noted.__setitem__)
    rule.on_evaluation(_evaluated(25, 9.0))  # too early
    rule.on_evaluation(_evaluated(50, 0.55))  # within the margin: 0.55 * 0.9 < 0.5
    with pytest.raises(StopTraining, match="update 75"):
        Listeners([rule]).notify(_evaluated(75, 0.5))
    assert noted == rule.curve == {25: 9.0, 50: 0.55, 75: 0.5}
    # One of the two costs more: nothing dominates, and a trial that is at its end is not stopped.
    StoppingRule((60.0,), 100, 0.1, 2, lambda: better, noted.__setitem__).on_evaluation(_evaluated(75, 9.0))
    rule.on_evaluation(_evaluated(100, 9.0))


def test_an_interrupt_waits_for_the_end_of_what_it_must_not_break() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def held_back() -> None:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("held back")
            with interrupts.allowed():
                seen.append("too far")

    def deferred() -> None:
        with Interrupts() as interrupts, interrupts.allowed():
            with interrupts.deferred():
                os.kill(os.getpid(), signal.SIGINT)
                seen.append("written")
            seen.append("too far")

    for work in (held_back, deferred):
        with pytest.raises(KeyboardInterrupt):
            work()
    assert seen == ["held back", "written"]
    assert signal.getsignal(signal.SIGINT) is before
