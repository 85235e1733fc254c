"""The summary, the table and the page."""

from fithubert.config.params import Params
from fithubert.report import ReportFiles, plan_report, write_report
from fithubert.stages.tracked import log_report
from fithubert.tracking.runs import complete_runs
from fithubert.workspace import Workspace


def report(params: Params, workspace: Workspace) -> ReportFiles:
    """Write the report from every metrics file of the workspace, then complete its MLflow runs.

    Completing means: a summary run per model, a run with the page, and the hashes of dvc.lock on every run.
    """
    files = write_report(workspace.reports, plan_report(params))
    log_report(params, workspace, files)
    complete_runs(workspace.root)
    return files
