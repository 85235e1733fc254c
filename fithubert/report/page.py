"""reports/index.html: one file with its style, script and data inside, readable without a network."""

from collections.abc import Sequence
from typing import Any

from fithubert.report import table
from fithubert.report.ablations import ablation_charts, read_ablations
from fithubert.report.charts import layer_strips, probe_chart, training_charts
from fithubert.report.front import front_scatter, read_front
from fithubert.report.gather import Metrics
from fithubert.report.headline import headline
from fithubert.report.sections import (
    PART_TITLES,
    cache_facts,
    corpus_facts,
    corpus_splits,
    cost_rows,
    model_colours,
    paper_rows,
    part_bars,
    scatter_data,
    score_rows,
    skipped_recordings,
)
from fithubert.report.summary import ReportPlan
from fithubert.report.templates import render
from fithubert.tasks import task_columns, task_info


def render_page(summary: dict[str, Any], metrics: Metrics, plan: ReportPlan, drawn: Sequence[str] = ()) -> str:
    """The whole page as HTML; `drawn` are the PNG figures that lie beside it.

    Raises UserError where Jinja2 is not installed.
    """
    colours = model_colours(summary, plan)
    columns = task_columns(summary)
    sweep = read_front(metrics.single["sweep"]) if "sweep" in metrics.single else None
    return render(
        "page.html.j2",
        plan=plan,
        summary=summary,
        drawn=drawn,
        colours=colours,
        columns=columns,
        task_info=task_info,
        part_titles=PART_TITLES,
        headline=headline(summary, plan),
        unscored=table.unscored_tasks(summary),
        protocol_notes=table.protocol_notes(summary),
        score_name=table.score_name(summary),
        score_note=table.score_note(summary),
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
        ablations=[
            (name, title, ablation, ablation_charts(ablation) if ablation else [])
            for name, title, ablation in read_ablations(metrics, plan.ablations)
        ],
        sweep=sweep,
        sweep_scatter=front_scatter(sweep) if sweep else None,
        corpus=corpus_facts(metrics),
        splits=corpus_splits(metrics),
        skipped=skipped_recordings(metrics),
        cache=cache_facts(metrics),
    )


def cost_lengths(metrics: Metrics) -> list[str]:
    """The lengths in seconds at which models were timed, as the keys of the latency tables."""
    models = metrics.single.get("profile", {}).get("models", {})
    return sorted(next(iter(models.values()))["rtf_by_seconds"], key=float) if models else []
