"""Tables to which an experiment adds a row as soon as it has one, so that a stopped run loses one at most."""

import csv
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where it has not been begun."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_row(path: Path, row: "DataclassInstance") -> None:
    """Add a dataclass as a row, its fields being the columns."""
    begin = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(row)], lineterminator="\n")
        if begin:
            writer.writeheader()
        writer.writerow(asdict(row))
