"""The report: summary.json, a Markdown table, PNG figures and one HTML page that needs no network."""

from fithubert.report.summary import ReportPlan, build_summary, compare_rows, load_summary
from fithubert.report.write import ReportFiles, plan_report, write_report

__all__ = [
    "ReportFiles",
    "ReportPlan",
    "build_summary",
    "compare_rows",
    "load_summary",
    "plan_report",
    "write_report",
]
