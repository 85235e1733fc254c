"""A training that was killed and made again gives the same student; foreign checkpoints are refused."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.distill.loop import Progress
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.records import CurvePoint, Head
from fithubert.training.checkpoint import CheckpointFolder
from tests.distill.fakes import Recorder, Stop, StopAt, distill_params, student_params, train

OUTPUTS = ("model.safetensors", "config.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of 12 updates that was never interrupted."""
    return train(tmp_path_factory.mktemp("whole") / "student").directory


def _assert_equal(one: Path, other: Path) -> None:
    for name in OUTPUTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow
def test_killed_by_the_system_and_resumed_is_never_killed(tmp_path: Path, whole: Path) -> None:
    command = [sys.executable, "-m", "tests.distill.tiny_run", str(tmp_path / "student"), "--kill-at", "8"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not (tmp_path / "student").exists()
    recorder = Recorder()
    train(tmp_path / "student", listeners=[recorder])
    assert recorder.started[0].resumed_from == 6
    _assert_equal(tmp_path / "student", whole)
    assert not (tmp_path / "student.checkpoints").exists()


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written_the_one_before_counts(tmp_path: Path, whole: Path) -> None:
    command = [sys.executable, "-m", "tests.distill.tiny_run", str(tmp_path / "student"), "--kill-while-saving", "6"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    names = sorted(path.name for path in (tmp_path / "student.checkpoints").glob("*update-*"))
    assert names[1:] == ["update-00000003.pt"]
    assert names[0].startswith(".update-00000006.pt.")
    recorder = Recorder()
    train(tmp_path / "student", listeners=[recorder])
    assert recorder.started[0].resumed_from == 3
    _assert_equal(tmp_path / "student", whole)


@settings(max_examples=5, deadline=None)
@given(stops=st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["step", "checkpoint"])), min_size=1, max_size=3))
def test_stopped_anywhere_any_number_of_times_and_resumed_is_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, stops: list[tuple[int, str]]
) -> None:
    out = tmp_path_factory.mktemp("stopped") / "student"
    for update, kind in stops:
        # A stop behind which the run already is lets it get to its end.
        with suppress(Stop):
            train(out, listeners=[StopAt(update, kind)])
    train(out)
    _assert_equal(out, whole)


@pytest.mark.parametrize("changes", [{"ema_decay": 0.5}, {"accumulate": 2}, {"patience": 1, "learning_rate": 1e-20}])
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


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "student", listeners=[StopAt(5)])
    (path,) = (tmp_path / "student.checkpoints").glob("*.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"update-00000003\.pt: not readable as a checkpoint"):
        train(tmp_path / "student")


def test_the_last_checkpoints_are_kept_and_hold_the_best_weights(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "student", listeners=[StopAt(11)])
    folder = tmp_path / "student.checkpoints"
    assert sorted(path.name for path in folder.glob("*update-*")) == ["update-00000006.pt", "update-00000009.pt"]
    state = torch.load(folder / "update-00000009.pt", weights_only=True)
    assert state["progress"]["best_update"] == 8
    assert state["best"].keys() == state["model"].keys()


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    standing = Progress(update=3, best_loss=0.5, curve=[CurvePoint(2, 1.0, 2.0, 0.7, 0.5, {Head(1, 3): 0.5})])
    weights = {"w": torch.rand(2)}
    folder = CheckpointFolder(tmp_path, {"name": "x"}, keep=1)
    folder.save(3, {"progress": standing.to_json(), "model": weights, "average": None})
    loaded = folder.load_latest()
    assert loaded is not None
    assert Progress.from_json(loaded["progress"]) == standing
    assert torch.equal(loaded["model"]["w"], weights["w"])
    assert loaded["average"] is None


def test_a_second_training_of_a_student_is_refused(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path / "student.checkpoints", {}, keep=1)
    with checkpoints.only_writer(), pytest.raises(UserError, match=r"process \d+ is at work on the same training"):
        train(tmp_path / "student")


def test_the_record_holds_no_times(whole: Path) -> None:
    assert "seconds" not in read_json(whole / "config.json")["record"]["curve"][0]
