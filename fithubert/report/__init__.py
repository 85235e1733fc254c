"""The report: summary.json, a Markdown table, figures and one HTML page that needs no network."""

from fithubert.records import load_summary
from fithubert.report.figures import draw_front, draw_importance
from fithubert.report.page import ReportFiles, render_front, write_report
from fithubert.report.summary import ReportPlan, build_summary, compare_rows, gather, plan_report, read_scores

__all__ = [
    "ReportFiles",
    "ReportPlan",
    "build_summary",
    "compare_rows",
    "draw_front",
    "draw_importance",
    "gather",
    "load_summary",
    "plan_report",
    "read_scores",
    "render_front",
    "write_report",
]
