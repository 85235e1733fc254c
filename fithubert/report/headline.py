"""The top of the page: one sentence, four figures, and every task between filter banks and teacher."""

from collections.abc import Mapping
from typing import Any

from fithubert.report.sections import clamp, format_interval, scores_of
from fithubert.report.summary import ReportPlan
from fithubert.report.table import format_count, format_score, format_share, score_name, score_note
from fithubert.tasks import share_of_lead, task_columns, task_info


def headline(summary: Mapping[str, Any], plan: ReportPlan) -> dict[str, Any]:
    """The sentence at the top about the first student, and its figures; tiles without a value say `not run`."""
    name = plan.students[0] if plan.students else plan.teacher
    model = summary["models"].get(name, {})
    teacher = summary["models"].get(plan.teacher, {})
    size, macs, latency = (model.get(key) for key in ("size_ratio", "macs_ratio", "latency_ratio"))
    kept = model.get("kept")
    if size is None or latency is None:
        sentence = f"{name} has not been measured yet."
    elif kept is None:
        sentence = (
            f"{name} has {format_share(size)} of its teacher's parameters"
            f" and takes {format_share(latency)} of its time."
        )
    else:
        sentence = (
            f"{name} keeps {100 * kept:.0f} % of its teacher's lead over filter banks, with"
            f" {format_share(size)} of the parameters and {format_share(latency)} of the time."
        )
    interval = model.get("latency_ratio_ci")
    own, whole = (m.get("params", {}).get("total") for m in (model, teacher))
    tiles = [
        ("Parameters", size, f"{format_count(own)} of {format_count(whole)}" if size is not None else ""),
        ("Multiply-accumulates", macs, "per second of audio"),
        ("Latency", latency, f"95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f} %" if interval else ""),
        (score_name(summary), kept, score_note(summary)),
    ]
    return {"model": name, "sentence": sentence, "tiles": tiles, "tracks": _tracks(summary, plan, name)}


def _tracks(summary: Mapping[str, Any], plan: ReportPlan, name: str) -> list[dict[str, Any]]:
    """Each task's position of the headline's model between filter banks (0) and teacher (1)."""
    own, low, high = (scores_of(summary, model) for model in (name, plan.baseline, plan.teacher))
    model = summary["models"].get(name, {})
    tracks = []
    for task, metric in task_columns(summary):
        led = task in summary["lead"]["tasks"]
        share = share_of_lead([metric], own.get(task, {}), low.get(task, {}), high.get(task, {})) if led else None
        tracks.append(
            {
                "task": task_info(task),
                "metric": metric,
                "text": format_score(model, task, metric.name),
                "interval": format_interval(model.get("ci", {}).get(task, {}).get(metric.name)),
                "low": low.get(task, {}).get(metric.name),
                "high": high.get(task, {}).get(metric.name),
                "share": clamp(share),
            }
        )
    return tracks
