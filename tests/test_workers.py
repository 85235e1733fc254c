"""Jobs side by side: the same results for any number of processes, and no process outlives its parent."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fithubert.errors import UserError
from fithubert.workers import run_side_by_side

_factor = 1


def begin(factor: int) -> None:
    global _factor
    _factor = factor


def multiply(number: int) -> tuple[int, int]:
    if number == 3:
        raise UserError("no threes")
    if number == 5:
        os.kill(os.getpid(), 9)
    return _factor * number, torch.get_num_threads()


def sleep(mark: Path) -> None:
    mark.write_text(str(os.getpid()))
    time.sleep(120)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_job_has_its_result_or_its_error(workers: int) -> None:
    before = torch.get_num_threads()
    found = dict(run_side_by_side("jobs", multiply, [1, 2, 3, 4], workers, 3, (begin, (10,))))
    assert {job: str(result) for job, result in found.items()} == {
        1: "(10, 3)",
        2: "(20, 3)",
        3: "no threes",
        4: "(40, 3)",
    }
    assert torch.get_num_threads() == before


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^jobs: a process was killed; what is finished is kept, run it again$"):
        list(run_side_by_side("jobs", multiply, [5, 1], 2, 1))


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    marks = [tmp_path / "first", tmp_path / "second"]
    code = (
        "import sys; from pathlib import Path; from fithubert.workers import run_side_by_side\n"
        "from tests.test_workers import sleep\n"
        "if __name__ == '__main__': list(run_side_by_side('', sleep, [Path(p) for p in sys.argv[1:]], 2, 1))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, *map(str, marks)])
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while any(Path("/proc", mark.read_text()).exists() for mark in marks):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def refuse() -> None:
    raise UserError("no cache")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_no_process_can_begin_with_is_the_reason_of_every_job(workers: int) -> None:
    reasons = []
    try:
        reasons += [result for _, result in run_side_by_side("jobs", multiply, [1, 2], workers, 1, (refuse, ()))]
    except UserError as error:  # A single worker is this process.
        reasons.append(error)
    assert {str(reason) for reason in reasons} == {"no cache"}
