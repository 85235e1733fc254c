"""`python -m tests.distill.tiny_run OUT [--kill-...] [--set NAME=VALUE ...]`: a tiny training that may kill itself."""

import argparse
import itertools
import json
import os
import signal
from pathlib import Path
from typing import IO, Any

import torch

from fithubert.distill.step import Stepper
from fithubert.errors import exit_on_user_error
from fithubert.training.events import StepDone, TrainingListener
from tests.distill.fakes import cut_params, distill_params, student_params, tiny_teacher, train


class KillAt(TrainingListener):
    """SIGKILL after an update."""

    def __init__(self, update: int | None) -> None:
        self.update = update

    def on_step(self, event: StepDone) -> None:
        if event.update == self.update:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_while_saving(update: int) -> None:
    """From now on SIGKILL in the middle of the checkpoint of `update`."""
    save = torch.save

    def save_half(state: dict[str, Any], file: IO[bytes]) -> None:
        save(state, file)
        if state["progress"]["update"] == update:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half  # type: ignore[assignment]


def kill_in_update(update: int) -> None:
    """From now on SIGKILL before the optimiser's step of `update`."""
    apply, calls = Stepper.apply, itertools.count(1)

    def apply_or_die(self: Stepper, learning_rate: float) -> None:
        if next(calls) == update:
            os.kill(os.getpid(), signal.SIGKILL)
        apply(self, learning_rate)

    Stepper.apply = apply_or_die  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--kill-while-saving", type=int)
    parser.add_argument("--kill-rank", type=int, help="this rank dies in update 5, with gradients at hand")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--cut", action="store_true", help="start from a real teacher, cut to size")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.kill_while_saving is not None:
        kill_while_saving(arguments.kill_while_saving)
    if arguments.kill_rank is not None and int(os.environ["RANK"]) == arguments.kill_rank:
        kill_in_update(5)
    changes = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in arguments.set)}
    train(
        arguments.out,
        distill_params(**changes),
        student_params=(cut_params if arguments.cut else student_params)(arguments.dropout),
        teacher=tiny_teacher() if arguments.cut else None,
        listeners=[KillAt(arguments.kill_at)],
    )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
