"""DVC stage report: `python -m pipeline.report`. Also completes what MLflow can only know now."""

from pathlib import Path

from fithubert.config.params import Params, load_params
from fithubert.errors import exit_on_user_error
from fithubert.stages.report import report
from fithubert.stages.tracked import log_report
from fithubert.tracking.runs import complete_runs
from fithubert.workspace import Workspace


def run(params: Params, workspace: Workspace) -> None:
    """Write the report; then a summary run per model, a run with the page, and dvc.lock's hashes on every run."""
    log_report(params, workspace, report(params, workspace))
    complete_runs(workspace.root)


if __name__ == "__main__":
    with exit_on_user_error():
        run(load_params(), Workspace(Path()))
