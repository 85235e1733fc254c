"""A sweep whose trials take no time: plans, and what runs a trial in a worker's process."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fithubert.config.students import StudentParams
from fithubert.config.sweep import SweepParams
from fithubert.models.recipes import resolve
from fithubert.profile.counts import PARTS
from fithubert.records import Head
from fithubert.search.space import Limits, Speed
from fithubert.search.stopping import StoppingRule
from fithubert.search.study import create_study, open_storage
from fithubert.search.worker import Plan, RunTrial
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


def make_plan(folder: Path, trials: int = 6, storage: str | None = None, **changes: Any) -> Plan:
    """A plan of fast trials in a study that this call has made."""
    plan = Plan(
        study="s",
        storage=storage or str(folder / "s.log"),
        folder=folder,
        sweep=SweepParams(trials=trials),
        student=STUDENT,
        teacher_depth=12,
        limits=Limits(),
        speed=SPEED,
        objective="tests.search.fakes:open_fast",
        beat_seconds=0.2,
        grace_seconds=4.0,
        poll_seconds=0.1,
    )
    plan = replace(plan, **changes)
    create_study(plan.study, open_storage(plan.storage), plan.sweep.objectives, {"of": "x"}, None)
    return plan


def error_of(student: StudentParams) -> float:
    """Error that falls with width and depth, as a real one does, and is no function of cost alone."""
    config = resolve(student.recipe, student.shape)
    return 30 + 400 / config.width + 60 / config.depth + 2 * config.time_reduction.factor


def open_fast(plan: Plan) -> RunTrial:
    """Trials that note that they ran in a file of their own."""
    return _runner(plan, lambda name: time.sleep(0.02))


def open_slow(plan: Plan) -> RunTrial:
    """Trials of half a second."""
    return _runner(plan, lambda name: time.sleep(0.5))


def open_once_hanging(plan: Plan) -> RunTrial:
    """The first trial of all hangs until its process is killed; every other is fast."""

    def wait(name: str) -> None:
        try:
            (plan.folder / "hangs").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(0.05)
            return
        (plan.folder / "pid").write_text(str(__import__("os").getpid()))
        time.sleep(600)

    return _runner(plan, wait)


def _runner(plan: Plan, wait: Callable[[str], None]) -> RunTrial:
    def run(name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
        wait(name)
        error = error_of(student)
        for update in (25, 50, 75, 100):
            rule.on_evaluation(Evaluated(update, 0.0, 0.0, 1.0, 1.0, {Head(2, 12): error / 40}, True))
        (plan.folder / f"ran-{name}-{time.monotonic_ns()}").touch()
        return {"pr": error, "pr_test_per": error + 1}

    return run
