"""Tables for a terminal."""

import sys
from collections.abc import Mapping, Sequence

from fithubert.errors import UserError

#: Column of `compare_rows` -> its heading, where that is to be shorter.
_HEADINGS = {"params": "M params", "size_ratio": "size", "macs_per_second": "MMAC/s", "latency_ratio": "latency"}

#: Where no terminal says how wide it is: every column in one table.
_FILE_WIDTH = 200
#: What rich puts between two columns, and at both ends of a line together.
_COLUMN_GAP, _EDGES = 3, 2


def print_table(rows: Sequence[Mapping[str, str | float | None]]) -> None:
    """Print `rows` of equal keys, numbers as people read them. Raises UserError where there are none.

    On a terminal that is too narrow the columns go into tables below one another, each with the first column.
    """
    # rich comes with the command line, not with the report.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not rows:
        raise UserError("no model has been measured yet; `dvc repro` measures them")
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    columns = [[_HEADINGS.get(name, name), *(_cell(name, row[name]) for row in rows)] for name in rows[0]]
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


def _cell(name: str, value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name in ("params", "macs_per_second"):
        return f"{value / 1e6:,.2f}"
    return f"{value:.1f}" if " " in name else f"{value:.3f}"
