"""DVC stage report: `python -m pipeline.report`. Also completes what MLflow can only know now."""

from pathlib import Path

from fithubert.config.params import Params, load_params
from fithubert.errors import exit_on_user_error
from fithubert.files import read_json
from fithubert.stages.report import report
from fithubert.stages.workspace import Workspace
from fithubert.tracking.runs import complete_from_lock
from fithubert.tracking.summary import log_summary


def run(params: Params, workspace: Workspace) -> None:
    """Write the report; then a summary run per model, a run with the page, and dvc.lock's hashes on every run."""
    files = report(params, workspace)
    log_summary(read_json(files.summary), (files.page, files.table, files.summary, *files.figures), workspace.root)
    complete_from_lock(workspace.root)


if __name__ == "__main__":
    with exit_on_user_error():
        run(load_params(), Workspace(Path()))
