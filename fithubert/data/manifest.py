"""What the corpus holds: one frozen row per utterance with every label it has, kept in one Parquet file."""

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from fithubert.data.publish import manifest_path as manifest_path
from fithubert.data.recordings import read_recording
from fithubert.errors import UserError
from fithubert.files import atomic_file, digest
from fithubert.frames import SAMPLE_RATE_HZ

SPLITS = ("train", "dev", "test", "verification")
KINDS = ("sentence", "keyword", "command", "query", "document", "mixture")


@dataclass(frozen=True)
class Phone:
    """One phone of `phones.PHONES` and where it is spoken; what lies between two phones is silence."""

    label: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Turn:
    """One stretch of speech by one speaker of a mixture, from the first phone to the last."""

    speaker: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Intent:
    """What a spoken command asks for; `none` where a part is absent."""

    action: str
    object: str
    location: str


@dataclass(frozen=True)
class Slot:
    """A named part of a command: `words[first_word : first_word + num_words]`, joined by spaces in `value`."""

    name: str
    value: str
    first_word: int
    num_words: int


@dataclass(frozen=True)
class Utterance:
    """One recording with its labels; None where a label is not known.

    `audio` is relative to the manifest's root and `digest` is that of the file's bytes (of its size and beginning where
    the file stays in a published corpus). `num_samples` are counted at 16 kHz, as it is read. `text` is lower case
    without punctuation and `words` its words. `keyword` is the class of a keyword clip, `query` the word of a search
    query, `style` the prosody style or emotion, `turns` says who speaks when in a mixture (whose `speaker` is None).

    What only some corpora have: `pronunciation` is the phones of the text by a lexicon, without times; `first_sample`
    says where the utterance begins in a file that holds more than it; `trials` are the ids that it is compared with
    in verification; `matches` are the ids of the documents that hold what this query says.
    """

    id: str
    audio: str
    digest: str
    split: str
    kind: str
    num_samples: int
    speaker: str | None = None
    text: str | None = None
    words: tuple[str, ...] | None = None
    phones: tuple[Phone, ...] | None = None
    keyword: str | None = None
    intent: Intent | None = None
    slots: tuple[Slot, ...] | None = None
    style: str | None = None
    turns: tuple[Turn, ...] | None = None
    query: str | None = None
    pronunciation: tuple[str, ...] | None = None
    first_sample: int | None = None
    trials: tuple[str, ...] | None = None
    matches: tuple[str, ...] | None = None

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.num_samples / SAMPLE_RATE_HZ


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
    ]
)
_STRING_LISTS = ("words", "pronunciation", "trials", "matches")
#: Utterances that are converted at a time.
_ROWS = 4096
#: Keys of the file's metadata: where audio lies outside the data directory, and label spaces.
_AUDIO_ROOT, _INVENTORIES = b"fithubert.audio_root", b"fithubert.inventories"


@dataclass(frozen=True)
class Manifest:
    """A corpus, or a part of one.

    Audio paths are relative to `root`: the data directory, or the folder of a corpus that stays where it is.
    `inventories` names the symbols of each label space (`phones`, `characters`, `slots`) that the corpus defines,
    whether or not they occur.
    """

    utterances: tuple[Utterance, ...]
    root: Path
    inventories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)

    def select(
        self, split: str | Collection[str] | None = None, kind: str | Collection[str] | None = None
    ) -> "Manifest":
        """The utterances of these splits and kinds, in order; None means any."""
        splits = {split} if isinstance(split, str) else split
        kinds = {kind} if isinstance(kind, str) else kind
        chosen = (u for u in self.utterances if splits is None or u.split in splits)
        return dataclasses.replace(self, utterances=tuple(u for u in chosen if kinds is None or u.kind in kinds))

    @cached_property
    def fingerprint(self) -> str:
        """A hex digest of every label and of the bytes of every audio file; `root` has no part in it."""
        spaces = [json.dumps(dict(self.inventories), sort_keys=True)] if self.inventories else []
        return digest(*(json.dumps(_values(u)) for u in self.utterances), *spaces)

    @property
    def hours(self) -> float:
        """All audio together, in hours."""
        return sum(u.num_samples for u in self.utterances) / SAMPLE_RATE_HZ / 3600

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of the speakers, sorted; those of mixtures are in their turns and not counted."""
        return tuple(sorted({u.speaker for u in self.utterances if u.speaker is not None}))

    def count_by(self, *fields: str) -> dict[str, int]:
        """Utterances per value of the named fields, joined by `/`: `count_by("split", "kind")`."""
        values = Counter("/".join(str(getattr(u, f)) for f in fields) for u in self.utterances)
        return dict(sorted(values.items()))

    def read(self, utterance: Utterance) -> Tensor:
        """(samples,) float32 at 16 kHz mono, converted where the file is not.

        Raises UserError where the file is missing, broken or of another length than when the manifest was written.
        """
        path = self.root / utterance.audio
        waveform = read_recording(path)
        if utterance.first_sample is not None:
            waveform = waveform[utterance.first_sample : utterance.first_sample + utterance.num_samples]
        if len(waveform) != utterance.num_samples:
            raise UserError(
                f"{path}: holds {len(waveform)} samples and the manifest says {utterance.num_samples}; "
                "run `fithubert prepare` again"
            )
        return waveform

    def save(self, path: Path) -> None:
        """Write the rows as Parquet, atomically."""
        used = [c for c in _OPTIONAL if any(getattr(u, c.name) is not None for u in self.utterances)]
        metadata = {}
        if self.root.resolve() != path.parent.parent.resolve():
            metadata[_AUDIO_ROOT] = str(self.root.absolute()).encode()
        if self.inventories:
            metadata[_INVENTORIES] = json.dumps(dict(self.inventories)).encode()
        schema = pa.schema([*_SCHEMA, *used], metadata=metadata or None)
        rows = (self.utterances[first : first + _ROWS] for first in range(0, len(self.utterances), _ROWS))
        batches = [pa.RecordBatch.from_pylist([_row(u) for u in part], schema=schema) for part in rows]
        table = pa.Table.from_batches(batches, schema)
        with atomic_file(path) as aside:
            pq.write_table(table, aside, compression="zstd", write_page_checksum=True)


def load_manifest(path: Path | str, root: Path | None = None) -> Manifest:
    """The manifest in `path`; `root`, unless given, is the data directory that holds `manifests/`.

    A manifest of a corpus that stays where it is knows its own root. Raises UserError where the file is missing, broken
    or not a manifest.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; run `fithubert prepare` first")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({' '.join(str(error).split())})") from None
    known = pa.schema([*_SCHEMA, *(c for c in _OPTIONAL if c.name in table.schema.names)])
    if not table.schema.equals(known):
        missing = sorted(set(known.names) ^ set(table.schema.names))
        raise UserError(f"{path}: not a manifest of this version (columns: {missing}); run `fithubert prepare` again")
    metadata = table.schema.metadata or {}
    if _AUDIO_ROOT in metadata:
        root = Path(metadata[_AUDIO_ROOT].decode())
    inventories = {name: tuple(row) for name, row in json.loads(metadata.get(_INVENTORIES, b"{}")).items()}
    lists = {name: _read_strings(table.column(name)) for name in _STRING_LISTS if name in table.schema.names}
    batches = table.drop_columns(list(lists)).to_batches(max_chunksize=_ROWS)
    rows = (row for batch in batches for row in batch.to_pylist())
    strings = zip(*lists.values(), strict=True)
    made = [_utterance(row | dict(zip(lists, of_row, strict=True))) for row, of_row in zip(rows, strings, strict=True)]
    return Manifest(tuple(made), root or path.parent.parent, inventories)


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
    """The values by column. `dataclasses.asdict` says the same after copying every string: minutes for 960 hours."""
    row = dict(vars(utterance))
    row["intent"] = None if utterance.intent is None else vars(utterance.intent)
    for name in ("phones", "slots", "turns"):
        row[name] = None if row[name] is None else [vars(part) for part in row[name]]
    return row


def _values(utterance: Utterance) -> list[Any]:
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
