"""The models of a report in MLflow: one run each with costs and scores, and students as models that it can serve."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import quote

from fithubert.errors import UserError, without_password
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.records import ModelSummary, Record, Summary
from fithubert.tasks import metric_key
from fithubert.tracking.local import RECORDS
from fithubert.tracking.runs import stage_tags
from fithubert.tracking.sender import (
    FLUSH_SECONDS,
    MetricPoint,
    Session,
    connect,
    import_quietly,
    mlflow_installed,
    now_milliseconds,
    send_all,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_RECORD = RECORDS / "summary" / "runs.json"
#: Without it MLflow's sidebar opens in its view for generative AI.
_TRAINING_VIEW = "workflowType=machine_learning"
#: The packages that a served student imports, besides MLflow itself.
_REQUIREMENTS = ("torch", "numpy", "pandas", "safetensors")
#: Longest wait for the models of a report: each is written, checked on its example and copied to the store.
_MODELS_FLUSH_SECONDS = 300.0
_EXAMPLE_SAMPLES = 1600


@dataclass(frozen=True)
class ModelShape:
    """The parameters of a summary run: what distinguishes the shape of a model."""

    depth: int
    width: int
    time_reduction: str


@dataclass(frozen=True)
class SummaryRecord(Record):
    """The local record of a logged summary. `runs`: model -> run id. `models`: model -> its metrics."""

    runs: Mapping[str, str] = field(default_factory=dict)
    experiment_id: str | None = None
    models: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    order: tuple[str, ...] = ()


def log_summary(
    summary: Summary,
    workspace: Path,
    shapes: Mapping[str, ModelShape] | None = None,
    files: Sequence[Path] = (),
    flush_seconds: float = FLUSH_SECONDS,
) -> None:
    """Log one MLflow run per model of `summary`, and keep a local record of their ids.

    `shapes`: the parameters of the runs. The compare page draws the first three parameters that differ, in alphabetical
    order, so everything else is a tag. `files` (page and figures) go to the run `report`.
    """
    tags = stage_tags("report", workspace) | {"kind": "summary"}
    models = {name: summary_metrics(model) for name, model in summary.ordered.items()}
    runs: dict[str, str] = {}

    def log_models(session: Session) -> None:
        now = now_milliseconds()
        for name, metrics in models.items():
            shape, model = (shapes or {}).get(name), summary.models[name]
            params = {} if shape is None else {key: str(value) for key, value in asdict(shape).items()}
            described = {"model": name, "init": model.init, "readout": model.readout, "fingerprint": model.fingerprint}
            known = {key: value for key, value in described.items() if value is not None}
            session.start(name, tags | known, {"teacher": summary.teacher} | params)
            session.log([MetricPoint(key, value, now) for key, value in metrics.items()])
            session.end()
            runs[name] = str(session.run_id)

    def keep_files(session: Session) -> None:
        session.start("report", tags | {"kind": "report"}, {})
        session.keep(str(session.run_id), files)
        session.end()

    session = send_all([log_models, keep_files], flush_seconds)
    experiment = None if session is None else session.experiment_id
    SummaryRecord(dict(runs), experiment, models, tuple(models)).write(workspace / _RECORD)


def summary_metrics(model: ModelSummary) -> dict[str, float]:
    """The figures of one model under the names that MLflow's tables show; what has not run is left out.

    `compression_ratio`: the teacher's parameters over the model's. `params_millions`: trunk and read-out. A score is
    named after its task (`ks_acc`) unless its metric belongs to one task alone (`per`).
    """
    # The compare page first draws the first metric that all runs have.
    values = {
        "compression_ratio": 1 / model.size_ratio if model.size_ratio else None,
        "latency_ratio": model.latency_ratio,
        "macs_ratio": model.macs_ratio,
        "kept": model.kept,
        "params_millions": None if model.params is None else model.params.total / 1e6,
    }
    for task, scores in model.superb.items():
        values |= {metric_key(task, metric): score for metric, score in scores.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def recorded_runs(workspace: Path) -> dict[str, str]:
    """Model -> run id of the last summary, in its order; empty if there is none."""
    record = _read_record(workspace)
    return {name: record.runs[name] for name in record.order or record.runs if name in record.runs}


def experiment_url(workspace: Path, server: str) -> str | None:
    """The address of the experiment's runs in MLflow's training view; None if nothing was logged."""
    experiment = _read_record(workspace).experiment_id
    return None if experiment is None else f"{server}/#/experiments/{experiment}/runs?{_TRAINING_VIEW}"


def compare_url(workspace: Path, server: str, compressed: bool = False) -> str | None:
    """The address of MLflow's compare page for the models of the last summary; None if there is none.

    `compressed` leaves out models without a compression ratio (filter banks), so that the page first draws this ratio.
    """
    record, runs = _read_record(workspace), recorded_runs(workspace)
    if compressed:
        runs = {name: run for name, run in runs.items() if "compression_ratio" in record.models[name]}
    if not runs:
        return None
    ids, experiments = (
        quote(json.dumps(values, separators=(",", ":")))
        for values in (list(runs.values()), [str(record.experiment_id)])
    )
    return f"{server}/#/compare-runs?runs={ids}&experiments={experiments}&{_TRAINING_VIEW}"


def _read_record(workspace: Path) -> SummaryRecord:
    path = workspace / _RECORD
    return SummaryRecord.read(path) if path.exists() else SummaryRecord()


@dataclass(frozen=True)
class TrackedStudent:
    """A student that can be logged.

    `write` writes its source, weights and configuration to a folder (`fithubert.export.folder`).
    """

    name: str
    fingerprint: str
    write: Callable[[Path], object]


def write_model(student: TrackedStudent, out: Path) -> None:
    """Write the MLflow model of `student` to `out`, a new or empty folder, with signature and input example.

    `mlflow.pyfunc.load_model` and `mlflow models serve` take it. It contains the student's own source and needs only
    MLflow, torch, numpy, pandas and safetensors. Raises UserError if MLflow is not installed.
    """
    _require_mlflow()
    import pandas as pd
    from mlflow import pyfunc

    # A tone of 440 Hz: short, since the example is JSON.
    tone = [round(0.1 * math.sin(2 * math.pi * 440 * n / SAMPLE_RATE_HZ), 4) for n in range(_EXAMPLE_SAMPLES)]
    with TemporaryDirectory() as folder:
        portable = Path(folder) / "student"
        portable.mkdir()
        student.write(portable)
        pyfunc.save_model(
            path=str(out),
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"student": str(portable)},
            signature=_signature(),
            input_example=pd.DataFrame({"waveform": [tone], "sampling_rate": [SAMPLE_RATE_HZ]}),
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS],
            metadata={"student": student.name, "fingerprint": student.fingerprint},
        )


def log_students(
    students: Sequence[TrackedStudent], workspace: Path, flush_seconds: float = _MODELS_FLUSH_SECONDS
) -> None:
    """Log each student that has a run in the last summary as the model of this run; a failure costs one warning."""
    runs = recorded_runs(workspace)
    tracked = [student for student in students if student.name in runs]
    send_all([partial(_log_student, student=student, run_id=runs[student.name]) for student in tracked], flush_seconds)


def register_student(student: TrackedStudent, name: str, workspace: Path) -> str:
    """Register the student as `name`; the version. The same weights get no second version.

    A student that no report has logged is logged first, with a run of its own. Raises UserError if MLflow is not
    installed, the store does not answer, or it rejects the name.
    """
    _require_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        session = connect()
        model_id = _find_model(session, student.fingerprint)
        if model_id is None:
            run_id = recorded_runs(workspace).get(student.name) or _start_run(session, student, workspace)
            model_id = _log_student(session, student, run_id)
        return _add_version(session, name, model_id)
    except MlflowException as error:
        uri, reason = tracking_uri(), " ".join(str(error).split())
        shown = without_password(uri)
        raise UserError(f"MLflow at {shown}: {reason.replace(uri, shown)[:300]}") from error


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    waveform, features = Array(DataType.double), Array(Array(DataType.double))
    return ModelSignature(
        inputs=Schema([ColSpec(waveform, "waveform"), ColSpec(DataType.long, "sampling_rate")]),
        outputs=Schema([ColSpec(features, "features"), ColSpec(DataType.long, "frames")]),
    )


def _start_run(session: Session, student: TrackedStudent, workspace: Path) -> str:
    tags: Mapping[str, str] = stage_tags("export", workspace) | {"model": student.name}
    session.start(f"export@{student.name}", tags, {"fingerprint": student.fingerprint})
    session.end()
    assert session.run_id is not None
    return session.run_id


def _log_student(session: Session, student: TrackedStudent, run_id: str) -> str:
    """Log the student's model as an output of the run; the id of the model. The same weights are stored once."""
    from mlflow.entities import LoggedModelOutput

    client = session.client
    model_id = _find_model(session, student.fingerprint)
    if model_id is None:
        tags = {"fingerprint": student.fingerprint, "student": student.name}
        # MLflow refuses these characters in the name of a model.
        model_name = re.sub(r"[/:.%\"']", "_", student.name)
        model = client.create_logged_model(session.experiment_id, model_name, run_id, tags, model_type="student")
        model_id = str(model.model_id)
        status = "FAILED"
        try:
            with TemporaryDirectory() as aside:
                write_model(student, Path(aside) / "model")
                client.log_model_artifacts(model_id, str(Path(aside) / "model"))
            status = "READY"
        finally:
            client.finalize_logged_model(model_id, status)
    client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    return model_id


def _find_model(session: Session, fingerprint: str) -> str | None:
    """The id of a complete model with these weights, or None."""
    # The search of MLflow 3.17 accepts `status = 'READY'` but then finds nothing.
    found = session.client.search_logged_models([session.experiment_id], f"tags.fingerprint = '{fingerprint}'")
    return next((str(model.model_id) for model in found if model.status == "READY"), None)


def _add_version(session: Session, name: str, model_id: str) -> str:
    from mlflow.exceptions import MlflowException

    client = session.client
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    source = f"models:/{model_id}"
    for version in client.search_model_versions(f"name='{name}'"):
        if source in (version.source, f"models:/{version.model_id}"):
            return str(version.version)
    model = client.get_logged_model(model_id)
    made = client.create_model_version(name, source, run_id=model.source_run_id, model_id=model_id)
    return str(made.version)


def _require_mlflow() -> None:
    if not mlflow_installed():
        raise UserError("an MLflow model needs MLflow: pip install fithubert[tracking]")
    import_quietly()
