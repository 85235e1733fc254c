"""One run per model with its costs and scores, so that MLflow's compare page says something."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fithubert.files import read_json, write_json
from fithubert.tasks import metric_key
from fithubert.tracking.runs import RECORDS, stage_tags
from fithubert.tracking.sender import FLUSH_SECONDS, MetricPoint, Sender, Session, now_milliseconds

_RATIOS = ("latency_ratio", "macs_ratio", "kept")
_RECORD = RECORDS / "summary" / "runs.json"
#: Without it MLflow's sidebar opens for generative AI.
_TRAINING_VIEW = "workflowType=machine_learning"


def log_summary(
    summary: Mapping[str, Any],
    workspace: Path,
    shapes: Mapping[str, Mapping[str, Any]] | None = None,
    files: Sequence[Path] = (),
    flush_seconds: float = FLUSH_SECONDS,
) -> None:
    """One MLflow run per model of `summary` (reports/summary.json), and a local record of their ids.

    `shapes`: model -> its parameters. The compare page draws the first three of them that differ, by the alphabet: they
    are kept to what tells shapes apart, and the rest are tags. `files`, page and figures, go to the run `report`.
    """
    tags = stage_tags("report", workspace) | {"kind": "summary"}
    entries: Mapping[str, Mapping[str, Any]] = summary["models"]
    models = {name: summary_metrics(entries[name]) for name in dict.fromkeys([*summary.get("order", ()), *entries])}
    runs: dict[str, str] = {}

    def log_models(session: Session) -> None:
        now = now_milliseconds()
        for name, metrics in models.items():
            params = {"teacher": str(summary["teacher"])} | {k: str(v) for k, v in (shapes or {}).get(name, {}).items()}
            session.start(name, tags | {"model": name} | _describe(entries[name]), params)
            session.log([MetricPoint(key, value, now) for key, value in metrics.items()])
            session.end()
            runs[name] = str(session.run_id)

    def keep_files(session: Session) -> None:
        session.start("report", tags | {"kind": "report"}, {})
        session.keep(str(session.run_id), files)
        session.end()

    sender = Sender(flush_seconds)
    sender.submit(log_models)
    sender.submit(keep_files)
    sender.close()
    experiment = sender.session.experiment_id if sender.session is not None else None
    record = {"runs": runs, "experiment_id": experiment, "models": models, "order": list(models), "tags": tags}
    write_json(workspace / _RECORD, record)


def summary_metrics(model: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one model of summary.json under the names that MLflow's tables show.

    `compression_ratio` is the teacher's parameters over the model's, `params_millions` those of the trunk and of what
    is read. A score is called after its task (`ks_acc`) unless the metric belongs to one task alone (`per`). What has
    not run is left out.
    """
    # The first of them that all runs have is what the compare page draws at first.
    values = {"compression_ratio": 1 / model["size_ratio"]} if model.get("size_ratio") else {}
    values |= {name: model.get(name) for name in _RATIOS}
    if (model.get("params") or {}).get("total") is not None:
        values["params_millions"] = model["params"]["total"] / 1e6
    for task, scores in (model.get("superb") or {}).items():
        for metric, score in (scores or {}).items():
            values[metric_key(task, metric)] = score
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def recorded_runs(workspace: Path) -> dict[str, str]:
    """Model -> run of the last summary, in its order; empty where there is none."""
    record = _read_record(workspace)
    return {name: record["runs"][name] for name in record.get("order", record["runs"]) if name in record["runs"]}


def experiment_url(workspace: Path, server: str) -> str | None:
    """The address of the experiment's runs in MLflow's training view; None where nothing was logged."""
    experiment = _read_record(workspace).get("experiment_id")
    return None if experiment is None else f"{server}/#/experiments/{experiment}/runs?{_TRAINING_VIEW}"


def compare_url(workspace: Path, server: str, compressed: bool = False) -> str | None:
    """The address of MLflow's compare page for the models of the last summary; None where there is none.

    `compressed` leaves out what has no compression ratio (filter banks): the page then draws this ratio at first.
    """
    record = _read_record(workspace)
    runs = recorded_runs(workspace)
    if compressed:
        runs = {name: run for name, run in runs.items() if "compression_ratio" in record["models"][name]}
    if not runs:
        return None
    query = f"runs={_encode(list(runs.values()))}&experiments={_encode([record['experiment_id']])}"
    return f"{server}/#/compare-runs?{query}&{_TRAINING_VIEW}"


def _describe(entry: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say where a model's weights come from and what is read of it."""
    return {key: str(entry[key]) for key in ("init", "readout", "fingerprint") if key in entry}


def _read_record(workspace: Path) -> dict[str, Any]:
    path = workspace / _RECORD
    return dict(read_json(path)) if path.exists() else {"runs": {}}


def _encode(values: Sequence[str]) -> str:
    return quote(json.dumps(list(values), separators=(",", ":")))
