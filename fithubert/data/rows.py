"""Utterances as an Arrow table and back, in the columns of a manifest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fithubert.data.utterance import Intent, Phone, Slot, Turn, Utterance

_SPAN = [("start_seconds", pa.float64()), ("end_seconds", pa.float64())]
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "audio", "digest", "split", "kind")),
        ("num_samples", pa.int64()),
        *((name, pa.string()) for name in ("speaker", "text")),
        ("words", pa.list_(pa.string())),
        ("phones", pa.list_(pa.struct([("label", pa.string()), *_SPAN]))),
        ("keyword", pa.string()),
        ("intent", pa.struct([(name, pa.string()) for name in ("action", "object", "location")])),
        (
            "slots",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("value", pa.string()),
                        ("first_word", pa.int64()),
                        ("num_words", pa.int64()),
                    ]
                )
            ),
        ),
        ("style", pa.string()),
        ("turns", pa.list_(pa.struct([("speaker", pa.string()), *_SPAN]))),
        ("query", pa.string()),
    ]
)
#: Columns that a manifest has only where one of its utterances does: all others stay as they were, to the byte.
_OPTIONAL = pa.schema(
    [
        ("pronunciation", pa.list_(pa.string())),
        ("first_sample", pa.int64()),
        ("trials", pa.list_(pa.string())),
        ("matches", pa.list_(pa.string())),
        ("gain_db", pa.float64()),
        ("trimmed", pa.bool_()),
    ]
)
_STRING_LISTS = ("words", "pronunciation", "trials", "matches")
#: Utterances that are converted at a time.
_ROWS = 4096


def to_table(utterances: Sequence[Utterance], metadata: dict[bytes, bytes]) -> pa.Table:
    """A row for each utterance; optional columns only where an utterance has a value."""
    used = [c for c in _OPTIONAL if any(getattr(u, c.name) is not None for u in utterances)]
    schema = pa.schema([*_SCHEMA, *used], metadata=metadata or None)
    parts = (utterances[first : first + _ROWS] for first in range(0, len(utterances), _ROWS))
    batches = [pa.RecordBatch.from_pylist([_row(u) for u in part], schema=schema) for part in parts]
    return pa.Table.from_batches(batches, schema)


def foreign_columns(schema: pa.Schema) -> list[str] | None:
    """None where `schema` is that of a manifest; else the columns that it lacks or has beside those."""
    known = pa.schema([*_SCHEMA, *(c for c in _OPTIONAL if c.name in schema.names)])
    return None if schema.equals(known) else sorted(set(known.names) ^ set(schema.names))


def from_table(table: pa.Table) -> tuple[Utterance, ...]:
    """The utterances of a table whose columns are known."""
    lists = {name: _read_strings(table.column(name)) for name in _STRING_LISTS if name in table.schema.names}
    batches = table.drop_columns(list(lists)).to_batches(max_chunksize=_ROWS)
    rows = (row for batch in batches for row in batch.to_pylist())
    strings = zip(*lists.values(), strict=True)
    return tuple(
        _utterance(row | dict(zip(lists, of_row, strict=True))) for row, of_row in zip(rows, strings, strict=True)
    )


def _read_strings(column: pa.ChunkedArray) -> list[tuple[str, ...] | None]:
    """Lists of strings as tuples in which equal strings are one: nine million words of 960 hours are 90 thousand."""
    encoded = column.combine_chunks().flatten().dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), dtype=object)
    flat = names[encoded.indices.to_numpy()].tolist() if len(encoded) else []
    rows: list[tuple[str, ...] | None] = []
    at = 0
    for length in pc.list_value_length(column).to_pylist():
        rows.append(None if length is None else tuple(flat[at : at + length]))
        at += length or 0
    return rows


def _row(utterance: Utterance) -> dict[str, Any]:
    """The values by column. `dataclasses.asdict` says the same after copying every string, five times slower."""
    row = dict(vars(utterance))
    row["intent"] = None if utterance.intent is None else vars(utterance.intent)
    for name in ("phones", "slots", "turns"):
        row[name] = None if row[name] is None else [vars(part) for part in row[name]]
    return row


def list_values(utterance: Utterance) -> list[Any]:
    """All values in order, those of optional columns only where there are any, so that old fingerprints hold."""
    row = _row(utterance)
    optional = {name: value for name in _OPTIONAL.names if (value := row.pop(name)) is not None}
    row["intent"] = None if row["intent"] is None else list(row["intent"].values())
    for name in ("phones", "slots", "turns"):
        row[name] = None if row[name] is None else [list(part.values()) for part in row[name]]
    return [*row.values(), *([optional] if optional else [])]


def _utterance(row: dict[str, Any]) -> Utterance:
    def parts(name: str, kind: type) -> Any:
        return None if row[name] is None else tuple(kind(**value) for value in row[name])

    row["intent"] = None if row["intent"] is None else Intent(**row["intent"])
    row |= {"phones": parts("phones", Phone), "slots": parts("slots", Slot), "turns": parts("turns", Turn)}
    return Utterance(**row)
