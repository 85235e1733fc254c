"""reports/index.html: one file with its style, script and data inside, readable without a network."""

from importlib import resources
from typing import Any

from fithubert.errors import UserError
from fithubert.report import table
from fithubert.report.ablations import ablation_charts, read_ablations
from fithubert.report.charts import layer_strips, probe_chart, training_charts
from fithubert.report.gather import Metrics
from fithubert.report.sections import (
    PART_TITLES,
    cache_facts,
    commands,
    corpus_facts,
    corpus_splits,
    cost_rows,
    headline,
    model_colours,
    paper_rows,
    part_bars,
    scatter_data,
    score_rows,
    skipped_recordings,
)
from fithubert.report.summary import ReportPlan
from fithubert.report.tasks import task_info


def render_page(summary: dict[str, Any], metrics: Metrics, plan: ReportPlan) -> str:
    """The whole page as HTML; raises UserError where Jinja2 is not installed."""
    try:
        import jinja2
    except ImportError:
        raise UserError("the report needs Jinja2: pip install fithubert[report]") from None
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "count": table.format_count,
        "macs": table.format_macs,
        "share": table.format_share,
        "bytes": table.format_bytes,
        "duration": table.format_seconds,
    }
    assets = resources.files("fithubert.report") / "assets"
    colours = model_colours(summary, plan)
    columns = [(task, metric) for task in summary["tasks"] for metric in task_info(task).metrics]
    page = environment.from_string((assets / "page.html.j2").read_text()).render(
        style=(assets / "page.css").read_text(),
        script=(assets / "page.js").read_text(),
        plan=plan,
        summary=summary,
        colours=colours,
        columns=columns,
        task_info=task_info,
        part_titles=PART_TITLES,
        score=table.format_score,
        headline=headline(summary, plan),
        unscored=table.unscored_tasks(summary),
        protocol_notes=table.protocol_notes(summary),
        scores=score_rows(summary, plan, columns),
        scatter=scatter_data(summary, colours, columns),
        costs=cost_rows(summary, metrics),
        lengths=cost_lengths(metrics),
        profile=metrics.single.get("profile", {}),
        bars=part_bars(metrics, "macs"),
        times=part_bars(metrics, "time"),
        paper=paper_rows(summary),
        paper_bars=part_bars(metrics, "macs", paper=True),
        paper_times=part_bars(metrics, "time", paper=True),
        training=training_charts(metrics, plan),
        probe=probe_chart(metrics, colours, plan),
        strips=layer_strips(metrics, summary, plan),
        ablations=[(title, a, ablation_charts(a) if a else []) for title, a in read_ablations(metrics, plan.ablations)],
        corpus=corpus_facts(metrics),
        splits=corpus_splits(metrics),
        skipped=skipped_recordings(metrics),
        cache=cache_facts(metrics),
        commands=commands(summary, plan),
    )
    # A percent sign does not stand alone on a line.
    return page.replace(" %", "\N{NO-BREAK SPACE}%")


def cost_lengths(metrics: Metrics) -> list[str]:
    """The lengths in seconds at which models were timed, as the keys of the latency tables."""
    models = metrics.single.get("profile", {}).get("models", {})
    return sorted(next(iter(models.values()))["rtf_by_seconds"], key=float) if models else []
