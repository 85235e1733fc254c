"""One run per model with its costs and scores, for MLflow's compare page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from fithubert.records import ModelSummary, Record, Summary
from fithubert.tasks import metric_key
from fithubert.tracking.local import RECORDS
from fithubert.tracking.runs import stage_tags
from fithubert.tracking.sender import FLUSH_SECONDS, MetricPoint, Session, now_milliseconds, send_all

_RECORD = RECORDS / "summary" / "runs.json"
#: Without it MLflow's sidebar opens in its view for generative AI.
_TRAINING_VIEW = "workflowType=machine_learning"


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
            shape = (shapes or {}).get(name)
            params = {} if shape is None else {key: str(value) for key, value in asdict(shape).items()}
            described = tags | {"model": name} | _describe(summary.models[name])
            session.start(name, described, {"teacher": summary.teacher} | params)
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
    query = f"runs={_encode(list(runs.values()))}&experiments={_encode([str(record.experiment_id)])}"
    return f"{server}/#/compare-runs?{query}&{_TRAINING_VIEW}"


def _describe(model: ModelSummary) -> dict[str, str]:
    """Tags: the start of the training, the states that are read, and the fingerprint."""
    tags = {"init": model.init, "readout": model.readout, "fingerprint": model.fingerprint}
    return {key: value for key, value in tags.items() if value is not None}


def _read_record(workspace: Path) -> SummaryRecord:
    path = workspace / _RECORD
    return SummaryRecord.read(path) if path.exists() else SummaryRecord()


def _encode(values: Sequence[str]) -> str:
    return quote(json.dumps(list(values), separators=(",", ":")))
