"""Tables that people read, and the same values for machines."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fithubert.files import atomic_file, read_json

FOLDER = Path("reports/benchmarks")


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` of equal keys as a Markdown table; floats with three significant digits."""
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' if i == 0 else '---:' for i in range(len(head)))} |"]
    lines += [f"| {' | '.join(_show(row[key]) for key in head)} |" for row in rows]
    return "\n".join(lines)


def write_tables(name: str, title: str, sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write `sections` (what a table says -> its rows) to reports/benchmarks/`name`.md and .json, and print them."""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    text = "\n\n".join(
        [f"# {title}", machine, *(f"{words}\n\n{markdown_table(rows)}" for words, rows in sections.items())]
    )
    with atomic_file(FOLDER / f"{name}.md") as aside:
        aside.write_text(text + "\n", encoding="utf-8")
    # Columns keep their order, for `read_tables`.
    with atomic_file(FOLDER / f"{name}.json") as aside:
        aside.write_text(json.dumps({"machine": machine, "sections": sections}, indent=2) + "\n", encoding="utf-8")
    print(text)


def read_tables(name: str) -> dict[str, list[dict[str, Any]]]:
    """The sections that `write_tables` wrote last; none if it never did."""
    path = FOLDER / f"{name}.json"
    return read_json(path)["sections"] if path.is_file() else {}


def _show(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
