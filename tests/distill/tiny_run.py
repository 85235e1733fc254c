"""`python -m tests.distill.tiny_run OUT [--kill-at N] [--set NAME=VALUE ...]`: a tiny training that may kill itself."""

import argparse
import json
import os
import signal
from pathlib import Path

import torch

from fithubert.distill.events import CheckpointWritten, StepDone, TrainingListener
from tests.distill.fakes import cut_params, distill_params, student_params, tiny_teacher, train


class KillAt(TrainingListener):
    """SIGKILL at an update, or while the checkpoint of that update has just been renamed."""

    def __init__(self, update: int | None, in_checkpoint: bool = False) -> None:
        self.update, self.in_checkpoint = update, in_checkpoint

    def on_step(self, event: StepDone) -> None:
        if event.update == self.update and not self.in_checkpoint:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_checkpoint(self, event: CheckpointWritten) -> None:
        if event.update == self.update and self.in_checkpoint:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--cut", action="store_true", help="start from a real teacher, cut to size")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    changes = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in arguments.set)}
    train(
        arguments.out,
        distill_params(**changes),
        student_params=(cut_params if arguments.cut else student_params)(arguments.dropout),
        teacher=tiny_teacher() if arguments.cut else None,
        listeners=[KillAt(arguments.kill_at)],
    )


if __name__ == "__main__":
    main()
