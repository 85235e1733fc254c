"""DVC stage profile: `python -m pipeline.profile`."""

from pathlib import Path

from fithubert.config.params import Params, load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.profile import profile
from fithubert.tracking.runs import track_stage
from fithubert.workspace import Workspace, metrics_file


def run(params: Params, workspace: Workspace) -> None:
    """Measure all models inside one MLflow run."""
    values = params.model_dump(mode="json", include={"profile", "students", "teacher"})
    with track_stage("profile", values, workspace.root, metrics_file("profile")):
        profile(params, workspace)


if __name__ == "__main__":
    with exit_on_user_error():
        run(load_params(), Workspace(Path()))
