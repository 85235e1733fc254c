"""Tables for a terminal."""

import sys
from collections.abc import Mapping, Sequence

from fithubert.errors import UserError

#: Column of `compare_rows` -> its heading, where that is to be shorter.
_HEADINGS = {"params": "M params", "size_ratio": "size", "macs_per_second": "MMAC/s", "latency_ratio": "latency"}


def print_table(rows: Sequence[Mapping[str, str | float | None]]) -> None:
    """Print `rows` of equal keys, numbers as people read them. Raises UserError where there are none."""
    # rich comes with the command line, not with the report.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not rows:
        raise UserError("no model has been measured yet; `dvc repro` measures them")
    table = Table(box=box.SIMPLE, pad_edge=False)
    for place, name in enumerate(rows[0]):
        table.add_column(_HEADINGS.get(name, name), justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*[_cell(name, value) for name, value in row.items()])
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(name: str, value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if name in ("params", "macs_per_second"):
        return f"{value / 1e6:,.2f}"
    return f"{value:.1f}" if " " in name else f"{value:.3f}"
