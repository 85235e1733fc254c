"""Runs that are stopped or killed in the middle, on one rank or several, and what they leave."""

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fithubert.training import checkpoint, updates

#: What is called at a place of a training: (module or class, name). A kill strikes in the middle of the call.
PLACES: dict[str, tuple[Any, str]] = {"update": (updates.Optimiser, "apply"), "checkpoint": (checkpoint.torch, "save")}


class Stop(BaseException):
    """Ends a run as abruptly as an exception can: no handler catches it."""


def stop() -> None:
    """Raise Stop."""
    raise Stop


def die() -> None:
    """SIGKILL to this process, if it is the last rank."""
    if int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def struck(place: tuple[Any, str], count: int, blow: Callable[[], None]) -> Iterator[None]:
    """A block in which the `count`-th call at `place` calls `blow` first."""
    owner, name = place
    original, calls = getattr(owner, name), 0

    def strike(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            blow()
        return original(*arguments, **named)

    setattr(owner, name, strike)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def killed_run(parser: ArgumentParser, places: Mapping[str, tuple[Any, str]] = PLACES) -> Iterator[Namespace]:
    """A block with the arguments of a program that dies at `--kill PLACE:COUNT`; `changes` are those of `--set`."""
    parser.add_argument("--kill", help="PLACE:COUNT, on the last rank", default="update:-1")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    pairs = (pair.partition("=") for pair in arguments.set)
    arguments.changes = {name: json.loads(value) for name, _, value in pairs}
    torch.set_num_threads(1)
    place, _, count = arguments.kill.partition(":")
    with struck(places[place], int(count), die):
        yield arguments


def run_ranks(ranks: int, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m module ARGUMENTS` on `ranks` processes of torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run([*launcher, "-m", module, *arguments], capture_output=True, text=True, check=False)


def run_killed(module: str, *arguments: str) -> None:
    """`python -m module ARGUMENTS` in one process, which is killed by the system."""
    process = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


def assert_close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """The same weights but for the order in which ranks add."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=0)
