"""Numbers and notes as people read them, and tables for a terminal."""

import sys
from collections.abc import Mapping, Sequence

from fithubert.errors import UserError
from fithubert.records import ModelSummary, Summary
from fithubert.tasks import TASKS, Metric, task_info

#: Width of a table in characters if the output is no terminal: all columns in one table.
_FILE_WIDTH = 200
#: The characters that rich puts between two columns, and at both ends of a line together.
_COLUMN_GAP, _EDGES = 3, 2
#: Column of `compare_rows` -> its heading with its unit, and the factor to that unit.
_UNITS = {
    "params": ("params, M ↓", 1e-6),
    "size_ratio": ("size, % ↓", 100.0),
    "macs_per_second": ("MMAC/s ↓", 1e-6),
    "rtf": ("RTF ↓", 1.0),
    "latency_ratio": ("latency, % ↓", 100.0),
    "kept": ("kept, % ↑", 100.0),
}


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
    """A ratio as a percentage with three digits; `not run` for None."""
    if value is None:
        return "not run"
    return f"{100 * value:.1f} %" if 0 < value < 1 else f"{100 * value:.0f} %"


def format_seconds(value: float) -> str:
    """Seconds as `8.3 s`, `4 min 5 s` or `2 h 3 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_number(value: float) -> str:
    """Three digits below 1,000, else thousands with commas; whole numbers in full."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def format_score(model: ModelSummary, task: str, metric: str) -> str:
    """A score to two decimals, `not scored` if the corpus lacks what the task needs, else `not run`."""
    value = model.score(task, metric)
    if value is not None:
        return f"{value:.2f}"
    return "not scored" if task in model.unscored else "not run"


def format_heading(metric: Metric) -> str:
    """`PER ↓`: the label of a metric and the direction that is better."""
    return f"{metric.label} {'↓' if metric.lower else '↑'}"


def unscored_tasks(summary: Summary) -> list[tuple[str, str]]:
    """(title of the task, reason), each once, of the tasks that could not be scored."""
    found = {
        (task_info(task).title, reason): None
        for model in summary.ordered.values()
        for task, reason in model.unscored.items()
    }
    return list(found)


def protocol_notes(summary: Summary) -> list[str]:
    """A sentence for every task that was scored by the official protocol, with the departures from it."""
    departures: dict[str, dict[str, None]] = {}
    for model in summary.ordered.values():
        for task, of_task in (model.official or {}).items():
            departures.setdefault(task, {}).update(dict.fromkeys(of_task))
    return [
        f"{task_info(task).title}: SUPERB's official protocol" + (f", but {'; '.join(found)}." if found else ".")
        for task, found in departures.items()
    ]


def score_name(summary: Summary) -> str:
    """The name of the share of the teacher's lead: `Mini-SUPERB score` if all scores are of the mini protocol."""
    official = any(model.official for model in summary.models.values())
    return "Lead kept" if official else "Mini-SUPERB score"


def score_note(summary: Summary) -> str:
    """The tasks over which that score is a mean, and the tasks that it skips."""
    over, skipped = (", ".join(task.upper() for task in tasks) for tasks in (summary.lead.tasks, summary.lead.skipped))
    if not over:
        return "no task on which the teacher clearly leads filter banks on dev"
    note = f"share of the teacher's lead over filter banks that is kept, mean over {over}"
    return note + (f"; no clear lead on {skipped}" if skipped else "")


def explain_missing_shares(summary: Summary) -> str | None:
    """Why models have no share of the teacher's lead (`kept`); None if all have one."""
    without = [name for name, model in summary.ordered.items() if model.kept is None]
    if not without:
        return None
    if summary.lead.tasks:
        return f"no kept for {', '.join(without)}: not scored on each of {', '.join(summary.lead.tasks).upper()}"
    skipped = f" ({', '.join(summary.lead.skipped).upper()})" if summary.lead.skipped else ""
    return f"no kept: {score_note(summary)}{skipped}"


def print_table(rows: Sequence[Mapping[str, str | float | None]]) -> None:
    """Print `rows` of equal keys with units; an arrow shows if lower or higher is better. Raises UserError for no rows.

    On a terminal that is too narrow the columns go into tables below one another, each with the first column.
    """
    # rich comes with the command line, not with the report.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not rows:
        raise UserError("no model has been measured yet; `dvc repro` measures them")
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    columns = [[_heading(name), *(_cell(name, row[name]) for row in rows)] for name in rows[0]]
    for part in _split_columns(columns, console.width):
        table = Table(box=box.SIMPLE, pad_edge=False)
        for place, (heading, *_) in enumerate(part):
            table.add_column(heading, justify="right" if place else "left", no_wrap=True)
        for cells in zip(*(column[1:] for column in part), strict=True):
            table.add_row(*cells)
        console.print(table)


def _split_columns(columns: Sequence[list[str]], width: int) -> list[list[list[str]]]:
    """`columns` in order as tables of at most `width` characters, each with the first column and one more."""
    first, *others = columns
    needs = [max(map(len, column)) + _COLUMN_GAP for column in others]
    free = width - max(map(len, first)) - _EDGES
    parts: list[list[list[str]]] = []
    left = 0
    for column, need in zip(others, needs, strict=True):
        if not parts or need > left:
            parts.append([first])
            left = free
        parts[-1].append(column)
        left -= need
    return parts


def _heading(name: str) -> str:
    if name in _UNITS:
        return _UNITS[name][0]
    task, _, metric = name.partition(" ")
    found = [m for m in TASKS[task].metrics if m.name == metric] if task in TASKS else []
    return f"{task.upper()} {found[0].label}, % {'↓' if found[0].lower else '↑'}" if found else name


def _cell(name: str, value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name in ("params", "macs_per_second"):
        return f"{value * _UNITS[name][1]:,.2f}"
    if name in _UNITS and _UNITS[name][1] == 100.0:
        return f"{100 * value:.1f}"
    return f"{value:.1f}" if " " in name else f"{value:.3f}"
