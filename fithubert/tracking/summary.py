"""One run per model with its costs and scores, so that MLflow's compare page says something."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fithubert.files import read_json, write_json
from fithubert.tracking.runs import RECORDS, stage_tags
from fithubert.tracking.sender import FLUSH_SECONDS, MetricPoint, Sender, Session

#: Metrics that belong to one task alone and need no task before their name.
_OWN_NAMES = ("per", "wer", "eer", "der", "mtwv")
_COSTS = ("macs_per_second", "rtf", "size_ratio", "latency_ratio")


def log_summary(
    summary: Mapping[str, Any], files: Sequence[Path], workspace: Path, flush_seconds: float = FLUSH_SECONDS
) -> None:
    """One MLflow run per model of `summary` (reports/summary.json), and a local record of their ids.

    The run `report` keeps `files`: the page and its figures.
    """
    tags = stage_tags("report", workspace) | {"kind": "summary"}
    models = {name: summary_metrics(values) for name, values in summary["models"].items()}
    starts = {
        name: {key: str(values[key]) for key in ("init", "readout") if key in values}
        for name, values in summary["models"].items()
    }
    runs: dict[str, str] = {}

    def log_models(session: Session) -> None:
        now = int(time.time() * 1000)
        for name, metrics in models.items():
            session.start(
                name, tags | {"model": name}, {"model": name, "teacher": str(summary["teacher"]), **starts[name]}
            )
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
    record = {"runs": runs, "experiment_id": experiment, "models": models, "tags": tags}
    write_json(workspace / RECORDS / "summary" / "runs.json", record)


def summary_metrics(model: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one model of summary.json under the names that MLflow's tables show.

    `compression_ratio` is the teacher's parameters over the model's. A score is called after its task (`ks_acc`)
    unless the metric belongs to one task alone (`per`). What has not run is left out.
    """
    values = {f"params_{part}": count for part, count in (model.get("params") or {}).items()}
    values |= {name: model.get(name) for name in _COSTS}
    if model.get("size_ratio"):
        values["compression_ratio"] = 1 / model["size_ratio"]
    for task, scores in (model.get("superb") or {}).items():
        for metric, score in (scores or {}).items():
            values[metric if metric in _OWN_NAMES else f"{task.lower()}_{metric}"] = score
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def compare_url(workspace: Path, server: str = "http://127.0.0.1:5000") -> str | None:
    """The address of MLflow's compare page for the models of the last report; None where there is none."""
    path = workspace / RECORDS / "summary" / "runs.json"
    record = read_json(path) if path.exists() else {"runs": {}}
    if not record["runs"]:
        return None
    runs, experiments = _encode(list(record["runs"].values())), _encode([record["experiment_id"]])
    return f"{server}/#/compare-runs?runs={runs}&experiments={experiments}"


def _encode(values: Sequence[str]) -> str:
    return quote(json.dumps(list(values), separators=(",", ":")))
