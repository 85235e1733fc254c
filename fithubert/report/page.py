"""reports/index.html, table.md and everything next to them; the page has style, script, data and charts inside."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fithubert.errors import UserError
from fithubert.files import atomic_file, format_bytes
from fithubert.records import JsonObject, ModelSummary, Summary, SweepMetrics
from fithubert.report import sections as views
from fithubert.report import table
from fithubert.report.chart import Chart
from fithubert.report.figures import draw_charts, draw_trial_curves
from fithubert.report.sections import Columns, Sections, build_score_rows, build_sections
from fithubert.report.summary import ReportPlan, build_summary, gather, task_columns
from fithubert.tasks import task_info


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
    metrics = gather(reports_dir, plan)
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
    for path, text in ((files.table, markdown_table(summary)), (files.page, page)):
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
    }
    environment.globals |= {
        "in_use": _command,
        "table": table,
        "views": views,
        "task_info": task_info,
        "scatter_models": scatter_models,
        "scatter_trials": scatter_trials,
        "not_measured": ModelSummary(),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": (assets / "page.js").read_text(encoding="utf-8"),
    }
    drawn = {chart.name: chart for chart in charts}
    # A line never begins with a percent sign.
    return environment.get_template(template).render(page=content, charts=drawn).replace(" %", "\N{NO-BREAK SPACE}%")


def _command(command: str, dvc: bool) -> str:
    """`command`, a `dvc repro TARGETS`, or the command of fithubert that does its first target if DVC is not used."""
    if dvc or not command.startswith("dvc repro"):
        return command
    stage, _, of = command.removeprefix("dvc repro").replace("'", "").partition(" --glob")[0].strip().partition("@")
    stage = stage.split()[0] if stage else "report"
    return f"fithubert {'sweep' if '/' in stage else stage} {'MODEL' if stage == 'superb' else of}".strip()


def markdown_table(summary: Summary) -> str:
    """Two Markdown tables, one row a model and every cell filled: cost, and scores with their intervals and chance.

    Below them the tasks that are not scored, and why.
    """
    score_name, columns = table.score_name(summary), task_columns(summary)
    costs = [["model", "params", "of teacher", "MAC / s", "real-time factor", "latency", score_name]]
    for name, model in summary.ordered.items():
        costs.append([
            name,
            table.format_count(None if model.params is None else model.params.total),
            table.format_share(model.size_ratio),
            table.format_macs(model.macs_per_second),
            "not run" if model.rtf is None else f"{model.rtf:.4f}",
            table.format_share(model.latency_ratio),
            "-" if model.kept is None else table.format_share(model.kept),
        ])  # fmt: skip
    scores = [["model", *(f"{task.upper()} {table.format_heading(metric)}" for task, metric in columns)]]
    for row in build_score_rows(summary, columns):
        intervals = ("" if cell.ends is None else " ({:.1f}-{:.1f})".format(*cell.ends) for cell in row.cells)
        scores.append([row.name, *(cell.text + ends for cell, ends in zip(row.cells, intervals, strict=True))])
    notes = [f"{title} is not scored: {reason}." for title, reason in table.unscored_tasks(summary)]
    notes += table.protocol_notes(summary)
    if any(model.kept is not None for model in summary.models.values()):
        note = f"{score_name}: {table.score_note(summary)}. 0 % are the filter banks, 100 % the teacher; no relation"
        notes.insert(0, f"{note} to SUPERB's `superb_s`.")
    return "\n".join([_join(costs), _join(scores), *(f"{note}\n" for note in notes)])


def _join(lines: list[list[str]]) -> str:
    """The lines as a Markdown table; the first one is the header. Nothing in a cell is taken for Markdown or HTML."""
    ruled = [lines[0], ["---"] + ["---:"] * (len(lines[0]) - 1), *lines[1:]]
    plain = ([cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells] for cells in ruled)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in plain)


def scatter_models(sections: Sections) -> JsonObject:
    """Quality against cost of every model whose cost was measured, for the script of the page.

    `qualities`, `costs`: the choices of both axes. `points`: costs, and scores with the ends of their intervals.
    """
    summary, colours = sections.summary, sections.colours
    models = {name: model for name, model in summary.ordered.items() if model.macs_per_second is not None}
    choices = [("kept", f"{table.score_name(summary)}, %", False)]
    for task, metric in sections.columns:
        choices.append((f"{task} {metric.name}", f"{task_info(task).title}: {metric.label}, %", metric.lower))
    scores = {name: _scores_of(model, sections.columns) for name, model in models.items()}
    return {
        "qualities": [_quality(*choice) for choice in choices if any(choice[0] in of for of in scores.values())],
        "costs": ("params", "macs", "time"),
        "points": [
            {
                "name": name,
                "colour": f"var(--{colours[name]})",
                "costs": {
                    "params": float(model.params.total if model.params else 0),
                    "macs": model.macs_per_second,
                    "time": 1000 * (model.rtf or 0.0),
                },
                "scores": scores[name],
                "on_front": None,
            }
            for name, model in models.items()
        ],
    }


def _scores_of(model: ModelSummary, columns: Columns) -> dict[str, tuple[float, ...]]:
    """Quality -> its value, and the ends of its interval if it has one."""
    scores: dict[str, tuple[float, ...]] = {} if model.kept is None else {"kept": (100 * model.kept,)}
    for task, metric in columns:
        value = model.score(task, metric.name)
        if value is not None:
            scores[f"{task} {metric.name}"] = (value, *(model.interval(task, metric.name) or ()))
    return scores


def _quality(key: str, label: str, lower: bool) -> JsonObject:
    return {"key": key, "label": label, "lower": lower}


def scatter_trials(sweep: SweepMetrics) -> JsonObject:
    """The same of every finished trial; those off the front are drawn without their names."""
    return {
        "qualities": [_quality(quality, *sweep.labels[quality]) for quality in sweep.qualities],
        "costs": ("macs", "params", "ratio"),
        "points": [
            {
                "name": sweep.title(point),
                "colour": "var(--accent)" if point.on_front else "var(--quiet)",
                "costs": {
                    "macs": point.metrics["macs_per_second"],
                    "params": point.metrics["params"],
                    "ratio": 100 * point.metrics["latency_ratio"],
                },
                "scores": {quality: (point.values[quality],) for quality in sweep.qualities},
                "on_front": point.on_front,
            }
            for point in sweep.finished
        ],
    }
