"""reports/index.html and everything next to it; the page has its style, script, data and charts inside."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from fithubert.errors import UserError
from fithubert.files import atomic_file, format_bytes
from fithubert.records import SweepMetrics
from fithubert.report import table
from fithubert.report.chart import Chart
from fithubert.report.figures import draw_charts, draw_trial_curves
from fithubert.report.scores import scatter_models, scatter_trials
from fithubert.report.sections import PART_TITLES, Sections, build_sections
from fithubert.report.summary import ReportPlan, build_summary, gather


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report."""

    summary: Path
    table: Path
    page: Path
    figures: tuple[Path, ...]

    @classmethod
    def of(cls, reports_dir: Path, figures: tuple[Path, ...] = ()) -> "ReportFiles":
        """The files of the report in `reports_dir`."""
        return cls(reports_dir / "summary.json", reports_dir / "table.md", reports_dir / "index.html", figures)


def write_report(reports_dir: Path, plan: ReportPlan) -> ReportFiles:
    """Write summary, table, figures and page under `reports_dir`, from the metrics in its folder `metrics`.

    The page names every stage that has not run. Raises UserError if a metrics file is broken, or if matplotlib or
    Jinja2 is not installed.
    """
    metrics = gather(reports_dir)
    summary = build_summary(metrics, plan)
    sections = build_sections(metrics, summary, plan)
    charts = draw_charts(sections)
    page = render_page(sections, charts)
    folder = reports_dir / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figures = tuple(path for chart in charts for path in chart.save(folder))
    for stale in {*folder.glob("*.png"), *folder.glob("*.svg")} - set(figures):
        stale.unlink()
    files = ReportFiles.of(reports_dir, figures)
    for path, text in ((files.table, table.markdown_table(summary)), (files.page, page)):
        with atomic_file(path) as aside:
            aside.write_text(text, encoding="utf-8")
    summary.write(files.summary)
    return files


def render_page(sections: Sections, charts: Sequence[Chart] = ()) -> str:
    """The page as HTML, with `charts` inside. Raises UserError if Jinja2 is not installed."""
    return _render("page.html.j2", sections, charts)


def render_front(sweep: SweepMetrics) -> str:
    """The page of a study as HTML: quality against cost, every trial, the curves. Raises UserError as above."""
    curves = draw_trial_curves(sweep)
    return _render("front.html.j2", sweep, [] if curves is None else [curves])


def _render(template: str, content: Sections | SweepMetrics, charts: Sequence[Chart]) -> str:
    try:
        import jinja2
    except ImportError:
        raise UserError("the page needs Jinja2: pip install fithubert[report]") from None
    assets = resources.files("fithubert.report") / "assets"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (assets / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": table.format_count,
        "macs": table.format_macs,
        "share": table.format_share,
        "bytes": format_bytes,
        "duration": table.format_seconds,
        "heading": table.format_heading,
        "number": table.format_number,
        "plain": asdict,
    }
    environment.globals |= {
        "in_use": _command,
        "table": table,
        "part_titles": PART_TITLES,
        "scatter_models": scatter_models,
        "scatter_trials": scatter_trials,
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": (assets / "page.js").read_text(encoding="utf-8"),
    }
    drawn = {chart.name: _Inline(chart) for chart in charts}
    # A line never begins with a percent sign.
    return environment.get_template(template).render(page=content, charts=drawn).replace(" %", "\N{NO-BREAK SPACE}%")


def _command(command: str, dvc: bool) -> str:
    """`command`, a `dvc repro TARGETS`, or the command of fithubert that does its first target if DVC is not used."""
    if dvc or not command.startswith("dvc repro"):
        return command
    stage, _, of = command.removeprefix("dvc repro").replace("'", "").partition(" --glob")[0].strip().partition("@")
    stage = stage.split()[0] if stage else "report"
    return f"fithubert {'sweep' if '/' in stage else stage} {'MODEL' if stage == 'superb' else of}".strip()


@dataclass(frozen=True)
class _Inline:
    """A chart as Jinja inserts it: as HTML, without escaping."""

    chart: Chart

    def __html__(self) -> str:
        return self.chart.inline()
