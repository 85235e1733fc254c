"""DVC stage ablation@NAME: `python -m pipeline.ablation NAME`."""

import sys
from pathlib import Path

from fithubert.config.params import Params, load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.ablation import ablation
from fithubert.tracking.runs import track_stage
from fithubert.workspace import Workspace, check_name, metrics_file


def run(params: Params, workspace: Workspace, name: str) -> None:
    """Run one ablation inside its MLflow run."""
    check_name(name, list(params.ablation), "ablation")
    stage = f"ablation@{name}"
    values = params.model_dump(mode="json", include={"distill", "extract", "teacher", "data"})
    values["ablation"] = params.ablation[name].model_dump(mode="json")
    with track_stage(stage, values, workspace.root, metrics_file(stage), tags={"ablation": name}):
        ablation(params, workspace, name)


if __name__ == "__main__":
    [ablation_name] = sys.argv[1:]
    with exit_on_user_error():
        run(load_params(), Workspace(Path()), ablation_name)
