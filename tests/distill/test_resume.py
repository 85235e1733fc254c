"""A training that was killed and made again gives the same student; foreign checkpoints are refused."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.errors import UserError
from fithubert.training.checkpoint import CheckpointFolder
from tests.distill.fakes import Recorder, StopAt, distill_params, student_params, train
from tests.kills import Stop, run_killed

OUTPUTS = ("model.safetensors", "config.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 12 updates that was never interrupted."""
    return train(tmp_path_factory.mktemp("whole") / "student").directory


def _assert_equal(one: Path, other: Path) -> None:
    for name in OUTPUTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "left", "resumed_from"),
    [
        ("update:9", ["update-00000003.pt", "update-00000006.pt"], 6),
        ("checkpoint:2", [".update-00000006.pt", "update-00000003.pt"], 3),
    ],
)
def test_killed_by_the_system_and_resumed_is_never_killed(
    tmp_path: Path, whole: Path, place: str, left: list[str], resumed_from: int
) -> None:
    run_killed("tests.distill.tiny_run", str(tmp_path / "student"), "--kill", place)
    assert not (tmp_path / "student").exists()
    names = (path.name for path in (tmp_path / "student.checkpoints").glob("*update-*"))
    assert sorted(name.partition(".pt")[0] + ".pt" for name in names) == left
    recorder = Recorder()
    train(tmp_path / "student", listeners=[recorder])
    assert recorder.started[0].resumed_from == resumed_from
    _assert_equal(tmp_path / "student", whole)
    assert not (tmp_path / "student.checkpoints").exists()


@settings(max_examples=5, deadline=None)
@given(stops=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_stopped_anywhere_any_number_of_times_and_resumed_is_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, stops: list[int]
) -> None:
    out = tmp_path_factory.mktemp("stopped") / "student"
    for update in stops:
        # A stop behind which the run already is lets it get to its end.
        with suppress(Stop):
            train(out, listeners=[StopAt(update)])
    train(out)
    _assert_equal(out, whole)


@pytest.mark.parametrize("changes", [{"ema_decay": 0.5}, {"accumulate": 2}, {"patience": 2, "learning_rate": 1e-20}])
def test_the_rest_of_the_state_is_resumed_too(tmp_path: Path, changes: dict) -> None:
    params = distill_params(dev_every_updates=2, **changes)
    expected = train(tmp_path / "whole", params).ended
    with pytest.raises(Stop):
        train(tmp_path / "student", params, listeners=[StopAt(4)])
    ended = train(tmp_path / "student", params).ended
    assert (ended.end, ended.updates) == (expected.end, expected.updates)
    _assert_equal(tmp_path / "student", tmp_path / "whole")


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "student", listeners=[StopAt(5)])
    with pytest.raises(UserError) as caught:
        train(tmp_path / "student", distill_params(learning_rate=2e-2))
    assert "distill.learning_rate 0.01 there, 0.02 now" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"hints.hint_weight 0.1 there, 0.2 now"):
        train(tmp_path / "student", student_params=student_params(hint_weight=0.2))
    # What has no influence on the student may change.
    train(tmp_path / "student", distill_params(checkpoint_every_updates=2, keep_checkpoints=1, prefetch_batches=1))


def test_the_last_checkpoints_are_kept_with_the_best_weights_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "student", listeners=[StopAt(11)])
    folder = tmp_path / "student.checkpoints"
    assert sorted(path.name for path in folder.glob("*update-*")) == ["update-00000006.pt", "update-00000009.pt"]
    state = torch.load(folder / "update-00000009.pt", weights_only=True)
    assert state["progress"]["best_update"] == 8
    assert state["best"].keys() == state["model"].keys()
    path = folder / "update-00000009.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"update-00000009\.pt: not readable as a checkpoint"):
        train(tmp_path / "student")


def test_a_second_training_of_a_student_is_refused(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path / "student.checkpoints", {}, keep=1)
    with checkpoints.only_writer(), pytest.raises(UserError, match=r"process \d+ is at work on the same training"):
        train(tmp_path / "student")
