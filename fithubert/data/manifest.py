"""The manifest: one Parquet row per utterance, with every label."""

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from fithubert.data import Intent, Phone, Slot, Turn, Utterance
from fithubert.data.audio import read_recording, trim_silence
from fithubert.errors import UserError
from fithubert.files import atomic_directory, atomic_file, digest
from fithubert.frames import SAMPLE_RATE_HZ

#: Marks an audio folder that may be replaced.
_MADE_HERE = ".corpus"


def manifest_path(root: Path) -> Path:
    """The path of the manifest of the corpus under `root` (the data directory)."""
    return root / "manifests" / "corpus.parquet"


@contextmanager
def new_audio(root: Path) -> Iterator[Path]:
    """An empty directory that becomes `root/audio` if the body succeeds; leftovers of a killed run are removed.

    The old manifest is deleted just before the old audio: with the audio of another run, later stages would accept it.
    Raises UserError if `root/audio` holds recordings that are not of a corpus made here.
    """
    audio, manifest = root / "audio", manifest_path(root)
    ours = (audio / _MADE_HERE).exists() or manifest.exists()
    replaces = [entry.name for entry in audio.iterdir()] if ours and audio.is_dir() else []
    with atomic_directory(audio, replaces) as folder:
        (folder / _MADE_HERE).touch()
        yield folder
        manifest.unlink(missing_ok=True)


_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(kind: Any) -> pa.DataType:
    """The column type of a field of `Utterance`: a scalar, a struct for a dataclass, or a list of one of them."""
    kind, *_ = [part for part in get_args(kind) if part is not type(None)] if isinstance(kind, UnionType) else [kind]
    if get_origin(kind) is tuple:
        return pa.list_(_arrow_type(get_args(kind)[0]))
    if dataclasses.is_dataclass(kind):
        return pa.struct([(name, _arrow_type(part)) for name, part in get_type_hints(kind).items()])
    return _ARROW[kind]


_COLUMNS = [pa.field(name, _arrow_type(kind)) for name, kind in get_type_hints(Utterance).items()]
#: The columns of every manifest, then those that it has only if one of its utterances has a value, so that old
#: manifests keep their bytes.
_SCHEMA, _OPTIONAL = pa.schema(_COLUMNS[:16]), pa.schema(_COLUMNS[16:])
_STRING_LISTS = ("words", "pronunciation", "trials", "matches", "task_splits")
#: Utterances that are converted at a time.
_ROWS = 4096


def to_table(utterances: Sequence[Utterance], metadata: dict[bytes, bytes]) -> pa.Table:
    """A row for each utterance; optional columns only if an utterance has a value."""
    used = [c for c in _OPTIONAL if any(getattr(u, c.name) is not None for u in utterances)]
    schema = pa.schema([*_SCHEMA, *used], metadata=metadata or None)
    parts = (utterances[first : first + _ROWS] for first in range(0, len(utterances), _ROWS))
    batches = [pa.RecordBatch.from_pylist([_row(u) for u in part], schema=schema) for part in parts]
    return pa.Table.from_batches(batches, schema)


def foreign_columns(schema: pa.Schema) -> list[str] | None:
    """The columns that `schema` lacks or has in excess; None if it is the schema of a manifest."""
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
    """Lists of strings as tuples that share equal strings: of the nine million words of 960 hours, 90,000 differ."""
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
    """The values by column. `dataclasses.asdict` gives the same, but copies every string and is five times slower."""
    row = dict(vars(utterance))
    row["intent"] = None if utterance.intent is None else vars(utterance.intent)
    for name in ("phones", "slots", "turns"):
        row[name] = None if row[name] is None else [vars(part) for part in row[name]]
    return row


def list_values(utterance: Utterance) -> list[Any]:
    """All values in order, optional columns only if they have values, so that old fingerprints stay valid."""
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


#: Begins the path of a file that was made next to the manifest of a published corpus.
MADE = "made:"
#: Keys of the file's metadata: the folder of audio outside the data directory, and label spaces.
_AUDIO_ROOT, _INVENTORIES = b"fithubert.audio_root", b"fithubert.inventories"


@dataclass(frozen=True)
class Manifest:
    """A corpus, or a part of one.

    Audio paths are relative to `root`: the data directory, or the folder of a published corpus; with MADE before them
    to `made`, the data directory of such a corpus. `inventories` names the symbols of each label space (`phones`,
    `characters`, `slots`) that the corpus defines, whether or not they occur.
    """

    utterances: tuple[Utterance, ...]
    root: Path
    inventories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    made: Path | None = field(default=None, compare=False)

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

    def for_task(self, task: str) -> "Manifest":
        """The utterances of one SUPERB task, with its splits."""
        if not any(u.task_splits for u in self.utterances):
            return self
        moved = (dataclasses.replace(u, split=u.split_of(task)) if u.task_splits else u for u in self.utterances)
        return dataclasses.replace(self, utterances=tuple(u for u in moved if u.split != "none"))

    @cached_property
    def fingerprint(self) -> str:
        """A hex digest of every label and of every audio file's digest, independent of `root`."""
        spaces = [json.dumps(dict(self.inventories), sort_keys=True)] if self.inventories else []
        return digest(*(json.dumps(list_values(u)) for u in self.utterances), *spaces)

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
        """(samples,) float32 at 16 kHz mono, converted if the file is not.

        Raises UserError if the file is missing, broken or of another length than when the manifest was written.
        """
        own = utterance.audio.removeprefix(MADE)
        path = (self.root if own == utterance.audio else self.made or self.root) / own
        waveform = read_recording(path)
        if utterance.trimmed:
            waveform = trim_silence(waveform, utterance.gain_db or 0.0)
        if utterance.first_sample is not None:
            waveform = waveform[utterance.first_sample : utterance.first_sample + utterance.num_samples]
        if len(waveform) != utterance.num_samples:
            # The length of a published file is that of its header.
            advice = "run `fithubert prepare` again" if path.is_relative_to(self.root / "audio") else "it is truncated"
            raise UserError(
                f"{path}: {len(waveform)} samples in the file, {utterance.num_samples} in the manifest; {advice}"
            )
        return waveform if utterance.gain_db is None else waveform * 10 ** (utterance.gain_db / 20)

    def save(self, path: Path) -> None:
        """Write the rows as Parquet, atomically."""
        metadata = {}
        if self.root.resolve() != path.parent.parent.resolve():
            metadata[_AUDIO_ROOT] = str(self.root.absolute()).encode()
        if self.inventories:
            metadata[_INVENTORIES] = json.dumps(dict(self.inventories)).encode()
        table = to_table(self.utterances, metadata)
        with atomic_file(path) as aside:
            pq.write_table(table, aside, compression="zstd", write_page_checksum=True)


def load_manifest(path: Path | str, root: Path | None = None) -> Manifest:
    """The manifest in `path`; `root`, unless given, is the data directory that holds `manifests/`.

    A manifest of a published corpus stores its own root. Raises UserError if the file is missing, broken or not a
    manifest.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; run `fithubert prepare` first")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({' '.join(str(error).split())})") from None
    foreign = foreign_columns(table.schema)
    if foreign is not None:
        raise UserError(f"{path}: not a manifest of this version (columns: {foreign}); run `fithubert prepare` again")
    metadata = table.schema.metadata or {}
    if _AUDIO_ROOT in metadata:
        root = Path(metadata[_AUDIO_ROOT].decode())
    inventories = {name: tuple(row) for name, row in json.loads(metadata.get(_INVENTORIES, b"{}")).items()}
    return Manifest(from_table(table), root or path.parent.parent, inventories, path.parent.parent)
