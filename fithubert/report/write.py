"""Everything the report stage writes, in one call."""

from dataclasses import dataclass
from pathlib import Path

from fithubert.config.params import Params
from fithubert.files import atomic_file, write_json
from fithubert.report.figures import draw_figures
from fithubert.report.gather import gather
from fithubert.report.page import render_page
from fithubert.report.summary import ReportPlan, build_summary
from fithubert.report.table import markdown_table


@dataclass(frozen=True)
class ReportFiles:
    """Where the report lies."""

    summary: Path
    table: Path
    page: Path
    figures: tuple[Path, ...]


def plan_report(params: Params) -> ReportPlan:
    """What these parameters mean to produce."""
    return ReportPlan(
        params.superb.models,
        tuple(params.superb.tasks),
        tuple(params.students),
        tuple(params.ablation),
        params.report.title,
    )


def write_report(reports_dir: Path, plan: ReportPlan) -> ReportFiles:
    """Summary, table, figures and page under `reports_dir`, from the metrics in its folder `metrics`.

    A stage that has not run is said to have not run. Raises UserError where a metrics file is broken.
    """
    metrics = gather(reports_dir / "metrics")
    summary = build_summary(metrics, plan)
    figures = draw_figures(reports_dir / "figures", summary, metrics, plan)
    files = ReportFiles(
        reports_dir / "summary.json",
        reports_dir / "table.md",
        reports_dir / "index.html",
        figures,
    )
    page = render_page(summary, metrics, plan, [path.stem for path in figures])
    for path, text in ((files.table, markdown_table(summary)), (files.page, page)):
        with atomic_file(path) as aside:
            aside.write_text(text)
    write_json(files.summary, summary)
    return files
