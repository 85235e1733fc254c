"""The summary, the table and the page."""

from fithubert.config.params import Params
from fithubert.report.write import ReportFiles, plan_report, write_report
from fithubert.workspace import Workspace


def report(params: Params, workspace: Workspace) -> ReportFiles:
    """Write the report from every metrics file of the workspace."""
    return write_report(workspace.reports, plan_report(params))
