"""One student, from the teacher's cached or live hidden states."""

from dataclasses import asdict

from fithubert.config.params import Params
from fithubert.distill import TrainingOptions, train_student
from fithubert.distill.targets import open_targets
from fithubert.files import only_writer
from fithubert.models.weights import parameter_counts
from fithubert.records import DistillMetrics, TrainedParameters
from fithubert.stages import tracked_stage
from fithubert.tracking.runs import TrackingListener
from fithubert.tracking.sender import is_first_rank
from fithubert.training.progress import ProgressLines
from fithubert.workspace import Workspace, check_name


def distill(params: Params, workspace: Workspace, student: str) -> DistillMetrics:
    """Train the student named `student` in `params.students` and save it; the metrics with its curve.

    A killed training resumes from its last checkpoint. Raises UserError for an unknown student.
    """
    check_name(student, list(params.students), "student")
    # A missing input is found before the run begins.
    data = open_targets(workspace, params.distill.targets, params.cache, params.teacher.precision)
    checkpoints = workspace.checkpoints(student)
    if checkpoints.exists() and is_first_rank():
        # Refused here, a second process does not replace the run record of the first one.
        with only_writer(checkpoints, "the same training"):
            pass
    with tracked_stage(params, workspace, "distill", student) as run:
        listeners = [ProgressLines(f"distill {student}"), TrackingListener(run)]
        options = TrainingOptions(listeners, checkpoint_dir=checkpoints)
        settings = params.students[student]
        result = train_student(settings, params.distill, data, workspace.student(student), options)
        config = result.student.config.released()
        metrics = DistillMetrics(
            recipe=settings.recipe,
            init=settings.init,
            readout=config.readout,
            fingerprint=result.fingerprint,
            params=TrainedParameters(**asdict(parameter_counts(config))),
            **vars(result.ended),
        )
        if is_first_rank():
            metrics.write(workspace.metrics(f"distill@{student}"))
    return metrics
