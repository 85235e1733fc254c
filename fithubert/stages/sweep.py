"""The sweep: short trials over many shapes of one student, on any number of processes, and the front that they find."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fithubert.config.params import Params
from fithubert.config.students import StudentParams
from fithubert.config.sweep import SpaceParams
from fithubert.models.weights import read_teacher
from fithubert.search.front import FILES, StudyResult, write_result
from fithubert.search.run import run_workers
from fithubert.search.space import Limits, Speed, check_space, find_choices, measure_speed
from fithubert.search.stopping import StoppingRule
from fithubert.search.study import create_study, describe_student, join_study, open_storage
from fithubert.search.trial import run_trial
from fithubert.search.worker import Plan, RunTrial
from fithubert.stages.trials import open_trial_data
from fithubert.tracking.sweeps import end_study, log_trial, start_study
from fithubert.training.events import StopTraining
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace, check_name

#: Where `report_sweep` writes, below the workspace.
REPORT = Path("experiments/width_depth")
_NO_LIMITS = Limits()


def sweep(
    params: Params,
    workspace: Workspace,
    name: str = "default",
    workers: int = 2,
    storage: str | None = None,
    limits: Limits = _NO_LIMITS,
    space: SpaceParams | None = None,
    warm_start: bool | None = None,
    threads: int | None = None,
) -> StudyResult:
    """Bring the study `name` to `params.sweep.trials` trained trials, and write `REPORT`.

    A study that is there goes on. `warm_start`: every trial starts as a cut of the teacher (True) or from random
    weights (False), not as the student does. `threads` of every worker: else its share of the cores. Raises UserError
    where the space does not fit the teacher or the study was made with other settings.
    """
    settings = params.sweep if space is None else params.sweep.model_copy(update={"space": space})
    check_name(settings.of, list(params.students), "sweep.of")
    student = params.students[settings.of]
    if warm_start is not None:
        student = student.model_copy(update={"init": "cut_teacher" if warm_start else "random"})
    teacher = read_teacher(workspace.teacher)
    depth, width = teacher.model.config.depth, teacher.model.config.width
    check_space(settings.space, student, depth, width)
    described = {
        **settings.model_dump(mode="json"),
        "student": describe_student(student),
        "limits": asdict(limits),
        "teacher": teacher.fingerprint,
        "corpus": workspace.load_manifest().fingerprint,
    }
    url = storage_url(workspace, name, storage)
    opened = open_storage(url)
    first = find_choices(student, settings.space)
    study, made = create_study(
        name,
        opened,
        settings.objectives,
        json.loads(json.dumps(described)),
        first,
        lambda: {"speed": asdict(measure_speed(student, teacher, params.profile.threads))},
    )
    if made:
        study.set_user_attr("mlflow_run", start_study(name, described, workspace.root))
    plan = Plan(
        study=name,
        storage=url,
        folder=workspace.sweep(name),
        sweep=settings,
        student=student,
        teacher_depth=depth,
        limits=limits,
        speed=Speed(**study.user_attrs["speed"]),
        objective="fithubert.stages.sweep:open_objective",
        context=(params, workspace, study.user_attrs.get("mlflow_run")),
        threads=threads or max(1, (os.cpu_count() or 1) // workers),
    )
    run_workers(plan, workers, progress_line(f"sweep {name}"))
    return report_sweep(workspace, name, storage)


def report_sweep(workspace: Workspace, name: str, storage: str | None = None) -> StudyResult:
    """Write what the study `name` has found so far to `REPORT` and to the stage's metrics file.

    Raises UserError where no trial has finished.
    """
    study = join_study(name, open_storage(storage_url(workspace, name, storage, there=True)))
    folder = workspace.root / REPORT
    result = write_result(study, folder, workspace.metrics("sweep"))
    states = [row.state for row in result.rows]
    figures = {"trials": len(states), "stopped": states.count("stopped"), "front": len(result.front)}
    run = study.user_attrs.get("mlflow_run")
    if run is not None:
        end_study(run, figures, [folder / file for file in FILES])
    return result


def storage_url(workspace: Workspace, name: str, storage: str | None, there: bool = False) -> str:
    """`storage`, or the journal of the study; with `there`, raises UserError where no journal has been written."""
    if storage is not None:
        return storage
    path = workspace.sweep(name) / "journal.log"
    if there:
        known = sorted(folder.parent.name for folder in path.parents[1].glob("*/journal.log"))
        check_name(name, known or ["(no study yet)"], "study")
    return str(path)


def open_objective(plan: Plan) -> RunTrial:
    """What runs the trials of a worker's process: a short training and its probe, inside an MLflow run of its own."""
    params, workspace, parent = plan.context
    data = open_trial_data(params, workspace)

    def run(name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]:
        shape = describe_student(student)
        try:
            done = run_trial(name, student, plan.sweep.budget, params, data, plan.sweep.seed, folder, [rule])
        except StopTraining as stop:
            log_trial(parent, plan.study, name, shape, {}, rule.curve, str(stop))
            raise
        figures = {task: value for task, score in done.tasks.items() for value in score.dev.values()}
        figures |= {f"{task}_test_{m}": v for task, score in done.tasks.items() for m, v in score.test.items()}
        figures |= {"seconds": done.seconds, "train_seconds": done.train_seconds, "audio_hours": done.audio_hours}
        costs: Mapping[str, Any] = {"params": done.parameters, "macs_per_second": done.macs_per_second}
        log_trial(parent, plan.study, name, shape, {**figures, **costs}, rule.curve, None)
        return figures

    return run
