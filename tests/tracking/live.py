"""`fithubert ui` as a process of its own."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LiveUi:
    """The command while it runs: all that it has printed, and every address in it."""

    process: "subprocess.Popen[str]"
    said: str

    @property
    def addresses(self) -> list[str]:
        """In the order of their lines: home, runs, compare, and compare by compression ratio."""
        return re.findall(r"http://\S+", self.said)


def start_ui(workspace: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command in `workspace`, its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "fithubert", "ui", *arguments],
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def run_ui(workspace: Path, *arguments: str) -> Iterator[LiveUi]:
    """The command once it answers; ended as by Ctrl-C at the latest."""
    with start_ui(workspace, *arguments) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        else:
            raise RuntimeError(said)
        try:
            yield LiveUi(process, said)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(30)
