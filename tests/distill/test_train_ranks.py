"""Two ranks of gloo DDP give the student of one rank, and share its checkpoints."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fithubert.errors import UserError
from tests.distill.fakes import (
    Recorder,
    StopAt,
    cut_params,
    distill_params,
    prune_params,
    reshaped,
    student_params,
    tiny_teacher,
    train,
)
from tests.kills import Stop, assert_close, run_ranks

pytestmark = pytest.mark.slow


#: Four parts on one rank draw the dropout of two parts on each of two ranks.
ONE_RANK = distill_params(accumulate=4, learning_rate=1e-3)


def _run_two_ranks(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = ("--set", "accumulate=2", "--set", "learning_rate=1e-3")
    return run_ranks(2, "tests.distill.tiny_run", str(out), *settings, *arguments)


def _finish(out: Path, *arguments: str) -> None:
    """Two ranks train to the end, and the student is the one next to it that one rank trained."""
    finished = _run_two_ranks(out, *arguments)
    assert finished.returncode == 0, finished.stderr
    _assert_close(out, out.with_name("one"))


def _assert_close(one: Path, other: Path) -> None:
    assert_close(load_file(one / "model.safetensors"), load_file(other / "model.safetensors"))


def test_ranks_share_an_update_and_any_number_of_them_resumes_after_a_death(tmp_path: Path) -> None:
    train(tmp_path / "one", ONE_RANK)
    died = _run_two_ranks(tmp_path / "two", "--kill", "update:8")
    assert died.returncode != 0
    assert "SIGKILL" in died.stderr
    (error,) = (line for line in died.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: rank 0 of 2: another rank has died")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two.checkpoints"]
    left = sorted(path.name for path in (tmp_path / "two.checkpoints").iterdir())
    assert left == [".writer", "update-00000003.pt", "update-00000006.pt"]
    shutil.copytree(tmp_path / "two.checkpoints", tmp_path / "mixed.checkpoints")

    recorder = Recorder()
    train(tmp_path / "mixed", ONE_RANK, listeners=[recorder])
    assert recorder.started[0].resumed_from == 6
    _assert_close(tmp_path / "mixed", tmp_path / "one")
    _finish(tmp_path / "two")


def test_ranks_cut_the_same_student(tmp_path: Path) -> None:
    train(tmp_path / "one", ONE_RANK, student_params=cut_params(), teacher=tiny_teacher())
    _finish(tmp_path / "two", "--cut")


def test_ranks_prune_to_the_same_student(tmp_path: Path) -> None:
    train(tmp_path / "one", ONE_RANK, student_params=prune_params(), teacher=tiny_teacher())
    _finish(tmp_path / "two", "--prune")
    shapes = (json.loads((tmp_path / name / "config.json").read_text())["student"] for name in ("one", "two"))
    assert next(shapes) == next(shapes)


def test_ranks_share_units_and_grams_of_layers(tmp_path: Path) -> None:
    hints = {
        "losses": {"mse": 1.0, "gram": 1.0},
        "gram_of": "layers",
        "gram_centred": True,
        "normalise": True,
        "units": {"teacher_layer": 2, "clusters": 5, "seconds": 3.0},
    }
    train(tmp_path / "one", ONE_RANK, student_params=student_params(**hints))
    _finish(tmp_path / "two", "--hints", json.dumps(hints))


def test_ranks_share_a_student_whose_last_norm_nobody_reads(tmp_path: Path) -> None:
    shape = {"layer_norm_first": True, "final_norm": "none"}
    train(tmp_path / "one", ONE_RANK, student_params=reshaped(student_params(), **shape))
    _finish(tmp_path / "two", "--shape", json.dumps(shape))


def test_a_run_cut_into_other_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "student", listeners=[StopAt(4)])
    with pytest.raises(UserError, match=r"distill\.accumulate x ranks 1 there, 2 now"):
        train(tmp_path / "student", distill_params(accumulate=2))
