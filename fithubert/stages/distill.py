"""One student, from the teacher's cached or live hidden states."""

from dataclasses import asdict

from fithubert.config.params import Params
from fithubert.distill.targets import CachedTargets, LiveTargets, Targets, TrainingData
from fithubert.distill.train import TrainingOptions, train_student
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import set_precision
from fithubert.models.student import parameter_counts
from fithubert.models.weights import fingerprint, read_teacher
from fithubert.records import DistillMetrics, TrainedParameters
from fithubert.stages import tracked_stage
from fithubert.store.extract import ExtractSettings, describe_store
from fithubert.store.format import Expected
from fithubert.store.read import FeatureStore
from fithubert.tracking.runs import TrackingListener
from fithubert.training.events import TrainingListener
from fithubert.training.progress import progress_listener
from fithubert.workspace import Workspace, check_name


def distill(params: Params, workspace: Workspace, student: str) -> DistillMetrics:
    """Train the student named `student` in `params.students` and save it; the metrics with its curve.

    A killed training resumes from its last checkpoint. Raises UserError for an unknown student.
    """
    check_name(student, list(params.students), "student")
    # A missing input is found before the run begins.
    data = open_targets(params, workspace)
    with tracked_stage(params, workspace, "distill", student) as run:
        return _train(params, workspace, student, data, TrackingListener(run))


def _train(
    params: Params, workspace: Workspace, student: str, data: TrainingData, listener: TrainingListener
) -> DistillMetrics:
    student_params = params.students[student]
    options = TrainingOptions(
        [progress_listener(f"distill {student}"), listener], checkpoint_dir=workspace.checkpoints(student)
    )
    result = train_student(student_params, params.distill, data, workspace.student(student), options)
    released, ended = result.student.config.released(), result.ended
    metrics = DistillMetrics(
        recipe=student_params.recipe,
        init=student_params.init,
        readout=released.readout,
        fingerprint=fingerprint(result.student),
        params=TrainedParameters(**asdict(parameter_counts(released))),
        end=ended.end,
        updates=ended.updates,
        best_update=ended.best_update,
        best_dev_loss=ended.best_dev_loss,
        audio_hours=ended.audio_hours,
        seconds=ended.seconds,
        wait_share=ended.wait_share,
        curve=ended.curve,
    )
    metrics.write(workspace.metrics(f"distill@{student}"))
    return metrics


def open_targets(params: Params, workspace: Workspace) -> TrainingData:
    """The teacher, and its hidden states on train and on dev, cached or live as `params.distill` says."""
    teacher = set_precision(read_teacher(workspace.teacher), params.teacher.precision)
    train, dev = (_targets(params, workspace, teacher, split) for split in ("train", "dev"))
    return TrainingData(train, dev, teacher)


def _targets(params: Params, workspace: Workspace, teacher: HubertTeacher, split: str) -> Targets:
    manifest = workspace.load_manifest().select(split=split)
    if params.distill.targets == "live":
        return LiveTargets(manifest, teacher)
    wanted = describe_store(teacher, manifest, ExtractSettings(**params.cache.model_dump()))
    expected = Expected(
        teacher.fingerprint, manifest.fingerprint, params.cache.codec, wanted.layers, wanted.variance_share
    )
    return CachedTargets(FeatureStore.open(workspace.cache(split), expected))
