"""A short seeded part of `make torture`: every kind of damage, kill and full disk once."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.torture.harness import Case, WrongError, run_case
from fithubert.errors import UserError

pytest.importorskip("espeakng_loader")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]


def _raise(error: BaseException) -> None:
    raise error


def _wait() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        (lambda: None, "same"),
        (lambda: _raise(UserError("x.json: no such file")), "refused"),
        (lambda: _raise(UserError("two\nlines")), "wrong"),
        (lambda: _raise(WrongError("lost")), "wrong"),
        (lambda: _raise(KeyError("x")), "traceback"),
        (_wait, "hang"),
    ],
)
def test_the_campaign_tells_right_from_wrong(action: object, verdict: str) -> None:
    assert run_case(Case("kind", "name", action), limit_seconds=2.0).verdict == verdict  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_part_of_the_campaign_passes() -> None:
    command = [sys.executable, "-m", "benchmarks.torture", "--share", "0.02", "--jobs", "1", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("'failed': 0") == 8, done.stdout
