"""A tracked training of a few steps."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from fithubert.files import write_json
from fithubert.records import Head
from fithubert.tracking.runs import TrackingListener, track_stage
from fithubert.tracking.sender import EXPERIMENT
from fithubert.training.events import Evaluated, StepDone

METRICS = Path("reports/metrics/distill/thin.json")


def runs_of(store: MlflowClient) -> list[Any]:
    experiment = store.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(store.search_runs([experiment.experiment_id]))


def track(workspace: Path, steps: int = 3, flush_seconds: float = 60.0) -> None:
    params = {"distill": {"updates": steps, "betas": [0.9, 0.98]}, "student": {"recipe": "fithubert"}}
    with track_stage(
        "distill@thin", params, workspace, METRICS, tags={"model": "thin"}, flush_seconds=flush_seconds
    ) as run:
        listener = TrackingListener(run)
        for update in range(1, steps + 1):
            listener.on_step(StepDone(update, 0, 1.0 / update, {1: 0.5}, 1e-3, None, 3600.0 * update, 1.0, 0.1, 0.0))
        listener.on_evaluation(Evaluated(steps, 10.0, 1.0, 0.5, 0.25, {Head(1, 1): 0.25, Head(2, 12): 0.125}, True))
        write_json(workspace / METRICS, {"best_dev_loss": 0.25, "curve": [], "readout": "last"})
