"""Two ranks of gloo DDP give the student of one rank, and share its checkpoints."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fithubert.errors import UserError
from tests.distill.fakes import Recorder, Stop, StopAt, cut_params, distill_params, tiny_teacher, train

pytestmark = pytest.mark.slow


def _run_two_ranks(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    training = ["-m", "tests.distill.tiny_run", str(out), "--set", "accumulate=2", "--set", "learning_rate=1e-3"]
    return subprocess.run([*launcher, *training, *arguments], capture_output=True, text=True, check=False)


def _assert_close(one: Path, other: Path) -> None:
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=0)


def test_ranks_share_an_update_and_any_number_of_them_resumes_after_a_death(tmp_path: Path) -> None:
    # Four parts on one rank draw the dropout of two parts on each of two ranks.
    one_rank = distill_params(accumulate=4, learning_rate=1e-3)
    train(tmp_path / "one", one_rank)
    died = _run_two_ranks(tmp_path / "two", "--kill-at", "8")
    assert died.returncode != 0
    assert "SIGKILL" in died.stderr
    assert not (tmp_path / "two").exists()
    shutil.copytree(tmp_path / "two.checkpoints", tmp_path / "mixed.checkpoints")

    recorder = Recorder()
    train(tmp_path / "mixed", one_rank, listeners=[recorder])
    assert recorder.started[0].resumed_from == 6
    _assert_close(tmp_path / "mixed", tmp_path / "one")

    finished = _run_two_ranks(tmp_path / "two")
    assert finished.returncode == 0, finished.stderr
    _assert_close(tmp_path / "two", tmp_path / "one")


def test_a_rank_that_dies_ends_the_job_with_one_line_and_no_damage(tmp_path: Path) -> None:
    one_rank = distill_params(accumulate=4, learning_rate=1e-3)
    train(tmp_path / "one", one_rank)
    died = _run_two_ranks(tmp_path / "two", "--kill-rank", "1")
    assert died.returncode != 0
    errors = [line for line in died.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: rank 0 of 2: another rank has died")
    assert [path.name for path in tmp_path.glob("two*")] == ["two.checkpoints"]
    left = sorted(path.name for path in (tmp_path / "two.checkpoints").iterdir())
    assert left == [".writer", "update-00000003.pt"]
    finished = _run_two_ranks(tmp_path / "two")
    assert finished.returncode == 0, finished.stderr
    _assert_close(tmp_path / "two", tmp_path / "one")


def test_ranks_cut_the_same_student(tmp_path: Path) -> None:
    one_rank = distill_params(accumulate=4, learning_rate=1e-3)
    train(tmp_path / "one", one_rank, student_params=cut_params(), teacher=tiny_teacher())
    finished = _run_two_ranks(tmp_path / "two", "--cut")
    assert finished.returncode == 0, finished.stderr
    _assert_close(tmp_path / "two", tmp_path / "one")


def test_a_run_cut_into_other_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "student", listeners=[StopAt(1, "checkpoint")])
    with pytest.raises(UserError, match=r"distill\.accumulate x ranks 1 there, 2 now"):
        train(tmp_path / "student", distill_params(accumulate=2))
