"""Students as models of MLflow: written to a folder, logged with a run, registered under a name."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fithubert.errors import UserError, without_password
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.tracking.runs import stage_tags
from fithubert.tracking.sender import Session, connect, import_quietly, mlflow_installed, send_all, tracking_uri
from fithubert.tracking.summary import recorded_runs

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

#: The packages that a served student imports, besides MLflow itself.
_REQUIREMENTS = ("torch", "numpy", "pandas", "safetensors")
#: Longest wait for the models of a report: each is written, checked on its example and copied to the store.
_FLUSH_SECONDS = 300.0
_EXAMPLE_SAMPLES = 1600


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
    import_quietly()
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


def log_students(students: Sequence[TrackedStudent], workspace: Path, flush_seconds: float = _FLUSH_SECONDS) -> None:
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
        model = client.create_logged_model(session.experiment_id, student.name, run_id, tags, model_type="student")
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
