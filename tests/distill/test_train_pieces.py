"""The schedule, the split of an update over parts, the guard, progress lines."""

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fithubert.data.batching import Crop
from fithubert.distill.loop import name_heads
from fithubert.distill.step import UpdateLoss, find_problem
from fithubert.errors import UserError
from fithubert.training.events import Evaluated, StepDone, TrainingEnded, TrainingStarted
from fithubert.training.progress import ProgressBar, ProgressLines, progress_listener
from fithubert.training.schedule import WeightAverage, build_optimizer, learning_rate_share
from fithubert.training.updates import PlannedUpdate, planned_updates, split_update
from tests.distill.fakes import distill_params


def test_the_rate_warms_up_linearly_and_then_falls_linearly() -> None:
    shares = [learning_rate_share(update, 10, 0.4) for update in range(10)]
    assert shares == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [learning_rate_share(update, 2, 0.0) for update in range(2)] == [1.0, 0.5]


@given(updates=st.integers(1, 5000), warmup=st.floats(0, 0.99))
def test_the_rate_is_never_zero_and_never_above_its_peak(updates: int, warmup: float) -> None:
    shares = [learning_rate_share(update, updates, warmup) for update in {0, updates // 2, updates - 1}]
    assert all(0 < share <= 1 for share in shares)


def test_weight_decay_spares_vectors() -> None:
    optimizer = build_optimizer(nn.Linear(3, 2), distill_params(weight_decay=0.1))
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 1), (0.0, 1)]


def test_the_moving_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.75)
    nn.init.ones_(model.weight)
    average.update(model)
    average.update(model)
    assert average.weights["weight"].item() == pytest.approx(1 - 0.75**2)


_CROPS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), min_size=1, max_size=12)


@given(pairs=_CROPS, parts=st.integers(1, 6))
def test_the_parts_of_an_update_are_its_crops_and_weigh_one(pairs: list[tuple[int, int]], parts: int) -> None:
    update = PlannedUpdate(0, 0, tuple(Crop(index, 0, frames) for index, frames in pairs))
    split = split_update(update, parts)
    assert [part.index for part in split] == list(range(parts))
    assert all(part.crops for part in split)
    assert sum(part.weight for part in split) == pytest.approx(1)
    key = lambda crop: (crop.index, crop.num_frames)  # noqa: E731
    counted = [crop for part in split if part.weight > 0 for crop in part.crops]
    assert sorted(counted, key=key) == sorted(update.crops, key=key)


def test_updates_go_on_from_any_place_of_any_epoch() -> None:
    plan = lambda epoch: [[Crop(epoch, place, 1)] for place in range(3)]  # noqa: E731
    stream = planned_updates(plan, 0, 0)
    whole = [next(stream) for _ in range(8)]
    later = planned_updates(plan, 1, 2)
    assert [next(later) for _ in range(3)] == whole[5:8]
    with pytest.raises(UserError, match="no training audio"):
        next(planned_updates(lambda epoch: [], 0, 0))


@pytest.mark.parametrize(
    ("loss", "norm", "precision", "expected"),
    [
        (1.0, 2.0, "32-true", None),
        (math.nan, 2.0, "16-mixed", "the loss is nan"),
        (1.0, math.inf, "32-true", "the norm of the gradient is inf"),
        (1.0, math.inf, "16-mixed", None),
        (1.0, None, "16-mixed", None),
        (500.0, 1.0, "32-true", "the loss is 500, more than 100 times the first"),
    ],
)
def test_the_guard(loss: float, norm: float | None, precision: str, expected: str | None) -> None:
    assert find_problem(UpdateLoss(loss, {}, (), norm), distill_params(precision=precision), 2.0) == expected


def test_heads_of_one_teacher_layer_keep_their_own_names() -> None:
    assert name_heads([(1, 1), (2, 3)]) == ["1", "3"]
    assert name_heads([(1, 3), (2, 3), (2, 4)]) == ["1-3", "2-3", "4"]


def _hear_everything(listener: ProgressLines) -> None:
    listener.on_start(TrainingStarted(200, 100, 1_500_000, 10, 3600.0, 2, 90.0, "cpu", "32-true", 1, 7))
    for update in (101, 102):
        listener.on_step(StepDone(update, 0, 0.5, {"1": 0.4}, 1e-3, 1.0, 40.0, 20.0, 2.0, 0.5))
    listener.on_evaluation(Evaluated(102, 0.5, 0.25, {"1": 0.25, "12": 0.5}, True, 40.0, 4.0))
    listener.on_step(StepDone(103, 0, 0.5, {"1": 0.4}, 1e-3, 1.0, 40.0, 20.0, 2.0, 0.5))
    listener.on_end(TrainingEnded("early_stop", 103, 102, 0.25, 60.0, 6.0, 0.25))


def test_progress_lines_say_what_people_ask() -> None:
    stream = io.StringIO()
    _hear_everything(ProgressLines("thin", stream, lines=100))
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("thin: 1.50 M parameters, 1.00 h to train on, 1.5 min dev, 200 updates on 1 x cpu")
    assert lines[0].endswith("resumed at update 100")
    assert lines[1] == "thin: update 102/200 loss 0.5 | 10.0 s audio/s | waiting 25.0% | 3:16 left | by layer 1:0.4"
    assert lines[2] == "thin: update 102 dev loss 0.25 (best), train loss 0.5, by layer 1:0.25 12:0.5"
    assert lines[3].startswith("thin: early stop after 103 updates")
    assert len(lines) == 4


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_anything_else_lines() -> None:
    assert type(progress_listener("thin", io.StringIO())) is ProgressLines
    terminal = _Terminal()
    listener = progress_listener("thin", terminal)
    assert isinstance(listener, ProgressBar)
    _hear_everything(listener)
    assert "thin: early stop after 103 updates" in terminal.getvalue()
    assert "dev 0.25" in terminal.getvalue()
    assert "by layer 1:0.4" in terminal.getvalue()


def test_a_head_that_is_drawn_now_and_then_keeps_its_loss() -> None:
    lines = ProgressLines("thin", io.StringIO())
    for update, losses in ((1, {"1": 0.4, "3": 1.0}), (2, {"2": 0.5, "3": 2.0})):
        lines.on_step(StepDone(update, 0, 0.5, losses, 1e-3, 1.0, 40.0, 20.0, 2.0, 0.5))
    assert lines.describe_layers() == "1:0.4 2:0.5 3:1.5"
