"""What the corpus holds: its utterances with their labels, kept in one Parquet file."""

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from fithubert.data.publish import manifest_path as manifest_path
from fithubert.data.recordings import read_recording
from fithubert.data.rows import foreign_columns, from_table, list_values, to_table
from fithubert.data.silence import trim_silence
from fithubert.data.utterance import KINDS as KINDS
from fithubert.data.utterance import SPLITS as SPLITS
from fithubert.data.utterance import Intent as Intent
from fithubert.data.utterance import Phone as Phone
from fithubert.data.utterance import Slot as Slot
from fithubert.data.utterance import Turn as Turn
from fithubert.data.utterance import Utterance
from fithubert.errors import UserError
from fithubert.files import atomic_file, digest
from fithubert.frames import SAMPLE_RATE_HZ

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
        """A hex digest of every label and of every audio file's digest; `root` has no part in it."""
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
        """(samples,) float32 at 16 kHz mono, converted where the file is not.

        Raises UserError where the file is missing, broken or of another length than when the manifest was written.
        """
        path = self.root / utterance.audio
        waveform = read_recording(path)
        if utterance.trimmed:
            waveform = trim_silence(waveform, utterance.gain_db or 0.0)
        if utterance.first_sample is not None:
            waveform = waveform[utterance.first_sample : utterance.first_sample + utterance.num_samples]
        if len(waveform) != utterance.num_samples:
            raise UserError(
                f"{path}: holds {len(waveform)} samples and the manifest says {utterance.num_samples}; "
                "run `fithubert prepare` again"
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
    foreign = foreign_columns(table.schema)
    if foreign is not None:
        raise UserError(f"{path}: not a manifest of this version (columns: {foreign}); run `fithubert prepare` again")
    metadata = table.schema.metadata or {}
    if _AUDIO_ROOT in metadata:
        root = Path(metadata[_AUDIO_ROOT].decode())
    inventories = {name: tuple(row) for name, row in json.loads(metadata.get(_INVENTORIES, b"{}")).items()}
    return Manifest(from_table(table), root or path.parent.parent, inventories)
