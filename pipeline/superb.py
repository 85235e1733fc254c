"""DVC stage superb@MODEL-TASK: `python -m pipeline.superb MODEL TASK`."""

import sys
from pathlib import Path
from typing import Any

from fithubert.config.params import Params, load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.superb import superb
from fithubert.tracking.runs import track_stage
from fithubert.workspace import Workspace, check_name, metrics_file


def run(params: Params, workspace: Workspace, model: str, task: str) -> None:
    """Score one model on one task inside its MLflow run."""
    check_name(task, list(params.superb.tasks), "task")
    stage = f"superb@{model}-{task}"
    values: dict[str, Any] = {"model": model, "task": task, "seeds": list(params.superb.seeds)}
    values |= params.superb.model_dump(mode="json", include={"protocol", "quirks"})
    values |= {"budget": params.superb.tasks[task].model_dump(mode="json")}
    tags = {"model": model, "task": task}
    with track_stage(stage, values, workspace.root, metrics_file(stage), tags=tags, live=False):
        superb(params, workspace, model, task)


if __name__ == "__main__":
    [model_name, task_name] = sys.argv[1:]
    with exit_on_user_error():
        run(load_params(), Workspace(Path()), model_name, task_name)
