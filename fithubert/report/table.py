"""Numbers as people read them, and reports/table.md."""

from collections.abc import Mapping
from typing import Any

from fithubert.tasks import task_columns, task_info


def format_count(value: float | None) -> str:
    """4,300 / 0.66M / 94.4M; `not run` for None."""
    if value is None:
        return "not run"
    if value >= 1e7:
        return f"{value / 1e6:.1f}M"
    return f"{value / 1e6:.2f}M" if value >= 1e5 else f"{value:,.0f}"


def format_macs(value: float | None) -> str:
    """Multiply-accumulates with their prefix; `not run` for None."""
    if value is None:
        return "not run"
    if value >= 1e9:
        return f"{value / 1e9:.2f} G"
    return f"{value / 1e6:.1f} M" if value < 1e8 else f"{value / 1e6:.0f} M"


def format_share(value: float | None) -> str:
    """A ratio as a percentage with three figures; `not run` for None."""
    if value is None:
        return "not run"
    return f"{100 * value:.1f} %" if 0 < value < 1 else f"{100 * value:.0f} %"


def format_bytes(value: float | None) -> str:
    """Mebibytes or gibibytes; `not measured` for None."""
    if value is None:
        return "not measured"
    return f"{value / 2**20:.0f} MiB" if value < 2**30 else f"{value / 2**30:.2f} GiB"


def format_seconds(value: float) -> str:
    """Seconds as `8.3 s`, `4 min 5 s` or `2 h 3 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_score(model: Mapping[str, Any], task: str, metric: str) -> str:
    """A score to two decimals, `not scored` where the corpus lacks what the task needs, else `not run`."""
    value = model.get("superb", {}).get(task, {}).get(metric)
    if value is not None:
        return f"{value:.2f}"
    return "not scored" if task in model.get("unscored", {}) else "not run"


def unscored_tasks(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title of the task, reason), each once, of what could not be scored."""
    found = {
        (task_info(task).title, str(reason)): None
        for model in summary["models"].values()
        for task, reason in model.get("unscored", {}).items()
    }
    return list(found)


def protocol_notes(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for every task that some model was scored on by the official protocol, with what departs from it."""
    departures: dict[str, dict[str, None]] = {}
    for model in summary["models"].values():
        for task, of_task in model.get("official", {}).items():
            departures.setdefault(task, {}).update(dict.fromkeys(of_task))
    return [
        f"{task_info(task).title}: SUPERB's official protocol" + (f", but {'; '.join(found)}." if found else ".")
        for task, found in departures.items()
    ]


def score_name(summary: Mapping[str, Any]) -> str:
    """What the share of the teacher's lead is called: the mini protocol's own score, where nothing else is in it."""
    official = any("official" in model for model in summary["models"].values())
    return "Lead kept" if official else "Mini-SUPERB score"


def score_note(summary: Mapping[str, Any]) -> str:
    """What that score is the mean of, and which tasks it skips."""
    over, skipped = (", ".join(task.upper() for task in summary["lead"][key]) for key in ("tasks", "skipped"))
    if not over:
        return "no task on which the teacher leads filter banks beyond the intervals"
    note = f"share of the teacher's lead over filter banks that is kept, mean over {over}"
    return note + (f"; no lead beyond the intervals on {skipped}" if skipped else "")


def chance_of(summary: Mapping[str, Any], task: str, metric: str) -> float | None:
    """What a model that hears nothing scores, from whichever model's result says it."""
    found = (model.get("chance", {}).get(task, {}).get(metric) for model in summary["models"].values())
    return next((value for value in found if value is not None), None)


def markdown_table(summary: Mapping[str, Any]) -> str:
    """Two Markdown tables, one row a model and every cell filled: cost, and tasks with their intervals and chance.

    Below them what is not scored, and why.
    """
    text = f"{_cost_table(summary)}\n{_task_table(summary)}"
    if any("kept" in model for model in summary["models"].values()):
        text += (
            f"\n{score_name(summary)}: {score_note(summary)}. 0 % are the filter banks, 100 % the teacher; no relation"
            " to SUPERB's `superb_s`.\n"
        )
    for title, reason in unscored_tasks(summary):
        text += f"\n{title} is not scored: {reason}.\n"
    for note in protocol_notes(summary):
        text += f"\n{note}\n"
    return text


def _cost_table(summary: Mapping[str, Any]) -> str:
    lines = [["model", "params", "of teacher", "MAC / s", "real-time factor", "latency", score_name(summary)]]
    lines.append(["---"] + ["---:"] * (len(lines[0]) - 1))
    for name, model in summary["models"].items():
        rtf, kept = model.get("rtf"), model.get("kept")
        lines.append([
            name,
            format_count(model.get("params", {}).get("total")),
            format_share(model.get("size_ratio")),
            format_macs(model.get("macs_per_second")),
            "not run" if rtf is None else f"{rtf:.4f}",
            format_share(model.get("latency_ratio")),
            "-" if kept is None else format_share(kept),
        ])  # fmt: skip
    return _join(lines)


def _task_table(summary: Mapping[str, Any]) -> str:
    columns = task_columns(summary)
    header = [f"{task.upper()} {metric.label} {'↓' if metric.lower else '↑'}" for task, metric in columns]
    lines = [["model", *header], ["---"] + ["---:"] * len(columns)]
    for name, model in summary["models"].items():
        row = [name]
        for task, metric in columns:
            ends = model.get("ci", {}).get(task, {}).get(metric.name)
            interval = f" ({ends[0]:.1f}-{ends[1]:.1f})" if ends else ""
            row.append(format_score(model, task, metric.name) + interval)
        lines.append(row)
    levels = [chance_of(summary, task, metric.name) for task, metric in columns]
    if any(level is not None for level in levels):
        lines.append(["chance", *("-" if level is None else f"{level:.1f}" for level in levels)])
    return _join(lines)


def _join(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
