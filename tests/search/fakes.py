"""Sweeps whose trials take no time: their settings, and functions that stand for a training."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fithubert.config.search import SweepParams
from fithubert.config.students import StudentParams
from fithubert.models.macs import PARTS
from fithubert.models.recipes import resolve
from fithubert.records import Head
from fithubert.search.space import Limits, Speed
from fithubert.search.study import Search, StudyPlace, create_study
from fithubert.search.trial import RunTrial, StoppingRule
from fithubert.training.events import Evaluated

SPEED = Speed(dict.fromkeys(PARTS, 1e9), 0.01, 1.0)
STUDENT = StudentParams(
    recipe="fithubert",
    shape={
        "conv_layers": [[16, 10, 5], [16, 3, 2], [16, 3, 2], [16, 3, 2], [16, 3, 2], [16, 2, 2], [16, 2, 2]],
        "width": 120,
        "ffn_width": 120,
        "attention_heads": 12,
        "pos_conv_groups": 12,
        "heads": {"teacher_width": 192},
    },
)


def make_search(folder: Path, trials: int = 6, url: str | None = None, **changes: Any) -> Search:
    """A sweep in a new study, whose lost trials are retried after seconds."""
    search = Search(
        place=StudyPlace("s", url or f"sqlite:///{folder}/study.db", heartbeat_seconds=1, grace_seconds=2),
        folder=folder,
        settings=SweepParams(trials=trials),
        student=STUDENT,
        teacher_depth=12,
        limits=Limits(),
        speed=SPEED,
    )
    search = replace(search, **changes)
    create_study(search.place, search.settings.objectives, {"of": "x"})
    return search


def with_trials(search: Search, trials: int) -> Search:
    """The sweep with another number of trials."""
    return replace(search, settings=search.settings.model_copy(update={"trials": trials}))


def error_of(student: StudentParams) -> float:
    """An error that falls with width and depth, as a real one does, and does not depend on cost alone."""
    config = resolve(student.recipe, student.shape)
    return 30 + 400 / config.width + 60 / config.depth + 2 * config.time_reduction.factor


@dataclass(frozen=True)
class FakeTrials:
    """Trials of `seconds` each. If `hang`, the first one of the folder hangs after its first evaluation."""

    folder: Path
    seconds: float = 0.02
    hang: bool = False

    def open(self) -> RunTrial:
        """The function that stands for a training."""
        return self._run

    def _run(self, name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
        error = error_of(student)

        def evaluate(update: int) -> None:
            rule.on_evaluation(Evaluated(update, 0.0, 0.0, 1.0, 1.0, {Head(2, 12): error / 40}, True))

        # A retried trial resumes after its last evaluation.
        if not rule.curve:
            evaluate(25)
        if self.hang and _create(self.folder / "hangs"):
            (self.folder / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        time.sleep(self.seconds)
        for update in (50, 75, 100):
            evaluate(update)
        return {"pr": error, "pr_test_per": error + 1}


def _create(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when the condition holds."""
    while not condition():
        time.sleep(0.05)
