"""The schedule of the learning rate, AdamW's groups, the moving average."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fithubert.training.schedule import OptimizerSettings, WeightAverage, build_optimizer, learning_rate_share


def test_the_rate_warms_up_linearly_and_then_falls_linearly() -> None:
    shares = [learning_rate_share(update, 10, 4) for update in range(10)]
    assert shares == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [learning_rate_share(update, 2, 0) for update in range(2)] == [1.0, 0.5]


@given(updates=st.integers(1, 5000), warmup=st.floats(0, 0.99))
def test_the_rate_is_never_zero_and_never_above_its_peak(updates: int, warmup: float) -> None:
    places = {0, updates // 2, updates - 1}
    assert all(0 < learning_rate_share(update, updates, round(warmup * updates)) <= 1 for update in places)


def test_weight_decay_is_for_matrices_only() -> None:
    optimizer = build_optimizer(nn.Linear(3, 2), OptimizerSettings(1e-3, 0.1))
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 1), (0.0, 1)]


def test_the_moving_average_follows_the_weights() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.75)
    nn.init.ones_(model.weight)
    average.update(model)
    average.update(model)
    assert average.weights["weight"].item() == pytest.approx(1 - 0.75**2)
