"""The stage `sweep`: short trials over many shapes of one student, and the front of quality against cost."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from fithubert.config.base import check_folder_name
from fithubert.config.params import Params
from fithubert.config.search import SpaceParams
from fithubert.config.students import StudentParams
from fithubert.errors import UserError
from fithubert.models.weights import read_teacher
from fithubert.records import SweepMetrics
from fithubert.search.front import FILES, write_result
from fithubert.search.space import (
    Limits,
    Speed,
    check_space,
    describe_reference,
    describe_student,
    find_choices,
    measure_speed,
)
from fithubert.search.study import Search, StudyPlace, create_study
from fithubert.search.sweep import Pool, run_workers
from fithubert.search.trial import RunTrial, StoppingRule, Trial, TrialData, run_trial
from fithubert.stages.ablation import open_trial_data
from fithubert.tracking.runs import end_study, log_trial, start_study
from fithubert.training.events import StopTraining
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace, check_name

#: Where `report_sweep` writes, below the workspace.
REPORT = Path("experiments/width_depth")


@dataclass(frozen=True)
class SweepOptions:
    """How to run a sweep.

    `study`: its name. `storage`: the URL of a database; None: an SQLite file in the study's folder. `space`: instead of
    `sweep.space`. `warm_start`: start every trial as a cut of the teacher (True) or from random weights (False); None:
    as the student does. `threads` of each worker; None: its share of the cores.
    """

    study: str = "default"
    storage: str | None = None
    workers: int = 2
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    space: SpaceParams | None = None
    warm_start: bool | None = None

    def __post_init__(self) -> None:
        check_folder_name(self.study, "--study")


_DEFAULT = SweepOptions()


def sweep(params: Params, workspace: Workspace, options: SweepOptions = _DEFAULT) -> SweepMetrics:
    """Train trials until the study has `params.sweep.trials`, and write its result to `REPORT`.

    An existing study is continued. Raises UserError if the space does not fit the teacher or if the study was created
    with other settings.
    """
    settings = params.sweep
    if options.space is not None:
        settings = settings.model_copy(update={"space": options.space})
    check_name(settings.of, list(params.students), "sweep.of")
    student = params.students[settings.of]
    if options.warm_start is not None:
        student = student.model_copy(update={"init": "cut_teacher" if options.warm_start else "random"})
    teacher = read_teacher(workspace.teacher)
    shape = teacher.model.config
    check_space(settings.space, student, shape.depth, shape.width)
    if "dev_loss" in settings.objectives and any(key.startswith("hints.") for key in settings.space.keys):
        raise UserError("sweep.objectives: dev_loss cannot compare different hints; name tasks instead, as pr")
    described = {
        **settings.model_dump(mode="json"),
        "student": describe_student(student),
        "limits": asdict(options.limits),
        "teacher": teacher.fingerprint,
        "corpus": workspace.load_manifest().fingerprint,
        **params.model_dump(mode="json", include={"distill", "extract"}),
    }
    place = StudyPlace(options.study, storage_url(workspace, options.study, options.storage))
    own_choices = find_choices(student, settings.space, params.distill)
    study, created = create_study(
        place,
        settings.objectives,
        json.loads(json.dumps(described)),
        own_choices,
        lambda: {
            "speed": asdict(measure_speed(student, teacher, params.profile.threads)),
            "reference": describe_reference(settings.of, own_choices, teacher),
        },
    )
    if created:
        study.set_user_attr("mlflow_run", start_study(options.study, described, workspace.root))
    search = Search(
        place=place,
        folder=workspace.sweep(options.study),
        settings=settings,
        student=student,
        teacher_depth=shape.depth,
        limits=options.limits,
        speed=Speed(**study.user_attrs["speed"]),
    )
    # Of the parameters, only the sweep's own settings differ from `params`.
    trials = TrackedTrials(
        params.model_copy(update={"sweep": settings}),
        partial(open_trial_data, params, workspace),
        options.study,
        study.user_attrs.get("mlflow_run"),
    )
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.workers)
    run_workers(search, trials.open, Pool(options.workers, threads), progress_line(f"sweep {options.study}"))
    return report_sweep(workspace, options.study, options.storage)


def report_sweep(workspace: Workspace, name: str, storage: str | None = None) -> SweepMetrics:
    """Write the present result of the study `name` to `REPORT` and to the stage's metrics file.

    Raises UserError if no trial has finished.
    """
    if storage is None:
        known = sorted(path.parent.name for path in workspace.sweep(name).parent.glob("*/study.db"))
        check_name(name, known or ["(no study yet)"], "study")
    place, folder = StudyPlace(name, storage_url(workspace, name, storage)), workspace.root / REPORT
    study = place.join()
    with place.names_outage():
        result = write_result(study, folder, workspace.metrics("sweep"))
    trained, finished = len(result.points), len(result.finished)
    figures = {"trials": trained, "stopped": trained - finished, "front": len(result.front)}
    run = study.user_attrs.get("mlflow_run")
    if run is not None:
        end_study(run, figures, [folder / file for file in FILES])
    return result


def storage_url(workspace: Workspace, name: str, storage: str | None) -> str:
    """`storage`, or an SQLite file in the study's folder."""
    return storage or f"sqlite:///{workspace.sweep(name)}/study.db"


@dataclass(frozen=True)
class TrackedTrials:
    """Trials of a study, each with its own MLflow run inside the run `parent`."""

    params: Params
    open_data: Callable[[], TrialData]
    study: str
    parent: str | None

    def open(self) -> RunTrial:
        """The function that trains and probes one student, with its data opened."""
        return partial(self._run, self.open_data())

    def _run(
        self, data: TrialData, name: str, student: StudentParams, folder: Path, rule: StoppingRule
    ) -> dict[str, float]:
        trial = Trial(name, student, self.params.sweep.budget, self.params.sweep.seed)
        shape = describe_student(student)
        try:
            done = run_trial(trial, self.params, data, folder, [rule])
        except StopTraining as stop:
            log_trial(self.parent, self.study, name, shape, {}, rule.curve, str(stop))
            raise
        figures = {task: value for task, score in done.tasks.items() for value in score.dev.values()}
        figures |= {f"{task}_test_{m}": v for task, score in done.tasks.items() for m, v in score.test.items()}
        figures |= {"seconds": done.seconds, "train_seconds": done.train_seconds, "audio_hours": done.audio_hours}
        costs = {"params": done.parameters, "macs_per_second": done.macs_per_second}
        log_trial(self.parent, self.study, name, shape, {**figures, **costs}, rule.curve, None)
        return figures
