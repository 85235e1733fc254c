"""DVC stage distill@STUDENT: `python -m pipeline.distill STUDENT`."""

import sys
from pathlib import Path

from fithubert.config.params import Params, load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.distill import distill
from fithubert.tracking.runs import track_stage
from fithubert.tracking.training import TrackingListener
from fithubert.workspace import Workspace, check_name, metrics_file


def run(params: Params, workspace: Workspace, student: str) -> None:
    """Train one student inside its MLflow run."""
    check_name(student, list(params.students), "student")
    stage = f"distill@{student}"
    values = params.model_dump(mode="json", include={"distill", "cache", "teacher", "data"})
    values["student"] = params.students[student].model_dump(mode="json")
    with track_stage(stage, values, workspace.root, metrics_file(stage), tags={"model": student}) as tracked:
        distill(params, workspace, student, [TrackingListener(tracked)])


if __name__ == "__main__":
    [name] = sys.argv[1:]
    with exit_on_user_error():
        run(load_params(), Workspace(Path()), name)
