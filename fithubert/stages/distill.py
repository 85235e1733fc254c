"""One student, from the teacher's cached or live hidden states."""

from dataclasses import asdict
from typing import Any

from fithubert.config.params import Params
from fithubert.distill.targets import CachedTargets, LiveTargets, Targets
from fithubert.distill.train import CurvePoint, train_student
from fithubert.files import write_json
from fithubert.models.hubert import HubertTeacher
from fithubert.models.readout import ReadOut
from fithubert.models.runtime import set_precision
from fithubert.models.weights import load_student, read_teacher
from fithubert.stages import tracked_stage
from fithubert.store.extract import ExtractSettings, describe_store
from fithubert.store.format import Expected
from fithubert.store.read import FeatureStore
from fithubert.tracking.training import TrackingListener
from fithubert.training.events import TrainingListener
from fithubert.training.progress import progress_listener
from fithubert.workspace import Workspace, check_name


def distill(params: Params, workspace: Workspace, student: str) -> dict[str, Any]:
    """Train the student that `params.students` calls `student` and save it; the metrics with its curve.

    A training that was killed goes on from its last checkpoint. Raises UserError for an unknown student.
    """
    check_name(student, list(params.students), "student")
    # A missing input is found before the run begins.
    data = open_targets(params, workspace)
    with tracked_stage(params, workspace, "distill", student) as run:
        return _train(params, workspace, student, data, TrackingListener(run))


def _train(
    params: Params,
    workspace: Workspace,
    student: str,
    data: tuple[HubertTeacher, Targets, Targets],
    listener: TrainingListener,
) -> dict[str, Any]:
    student_params = params.students[student]
    teacher, train, dev = data
    result = train_student(
        student_params,
        params.distill,
        train,
        dev,
        workspace.student(student),
        [progress_listener(f"distill {student}"), listener],
        teacher,
        checkpoint_dir=workspace.checkpoints(student),
    )
    trained = load_student(result.directory)
    metrics = {
        "recipe": student_params.recipe,
        "init": student_params.init,
        "readout": trained.config.readout,
        "fingerprint": ReadOut(trained, student).fingerprint,
        "params": asdict(trained.parameter_counts()),
        "end": result.reason,
        "updates": result.updates,
        "best_update": result.best_update,
        "best_dev_loss": result.best_dev_loss,
        "audio_hours": result.audio_seconds / 3600,
        "seconds": result.seconds,
        "wait_share": result.wait_share,
        "curve": [_curve_point(point) for point in result.curve],
    }
    write_json(workspace.metrics(f"distill@{student}"), metrics)
    return metrics


def open_targets(params: Params, workspace: Workspace) -> tuple[HubertTeacher, Targets, Targets]:
    """The teacher, and its hidden states on train and on dev, cached or live as `params.distill` says."""
    teacher = set_precision(read_teacher(workspace.teacher), params.teacher.precision)
    train, dev = (_targets(params, workspace, teacher, split) for split in ("train", "dev"))
    return teacher, train, dev


def _targets(params: Params, workspace: Workspace, teacher: HubertTeacher, split: str) -> Targets:
    manifest = workspace.load_manifest().select(split=split)
    if params.distill.targets == "live":
        return LiveTargets(manifest, teacher)
    wanted = describe_store(teacher, manifest, ExtractSettings(**params.cache.model_dump()))
    expected = Expected(
        teacher.fingerprint, manifest.fingerprint, params.cache.codec, wanted.layers, wanted.variance_share
    )
    return CachedTargets(FeatureStore.open(workspace.cache(split), expected))


def _curve_point(point: CurvePoint) -> dict[str, Any]:
    values = asdict(point)
    return {**values, "layer_losses": {str(k): v for k, v in values.pop("layer_dev_losses").items()}}
