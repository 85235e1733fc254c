"""Features as one Parquet file, for readers who know nothing of this project.

One row for each recording and layer, recordings by path, layers ascending, no recording in two row groups:

    path            string, as it was named
    seconds         double
    layer           int32; 0 is the input of the first transformer layer, i the output of the i-th (of a student: the
                    states that its read-out names, from 0)
    frames          int32
    width           int32, the feature size
    frame_rate_hz   double; frame t begins at t / frame_rate_hz seconds
    features        list of float32 or float16, frames x width numbers, frame after frame

In pandas: `row.features.reshape(row.frames, row.width)`. The schema's metadata has `fithubert.features`, a TableInfo as
JSON.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field
from fithubert.store.format import StoreInfo
from fithubert.store.read import FeatureRow, FeatureStore
from fithubert.store.write import describe_error

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
_INFO_KEY = b"fithubert.features"
_VERSION = 1
#: Large enough for others to read fast, small enough to hold in memory.
_ROW_GROUP_BYTES = 16 * 2**20


@dataclass(frozen=True)
class TableInfo:
    """What holds for the whole file. `fingerprint`: of the model. `recordings`: a digest of paths and contents."""

    model: str
    fingerprint: str
    recordings: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    frame_rate_hz: float
    dtype: str
    version: int = _VERSION


class FeatureTable:
    """The features in one Parquet file, by path. Open one with `load_features`.

    `ids`: the paths. `num_frames`: of each. `layers` and `widths`: what there is. `info`: where it came from.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        self.layers, self.widths = self.info.layers, self.info.widths
        self._file = pq.ParquetFile(self.path, page_checksum_verification=True)
        ids: list[str] = []
        frames: list[int] = []
        self._places: list[tuple[int, int]] = []
        for group in range(self._file.num_row_groups):
            columns = self._file.read_row_group(group, columns=["path", "frames"])
            first_rows = range(0, len(columns), len(self.layers))
            self._places += [(group, row) for row in first_rows]
            ids += columns.column("path").take(pa.array(first_rows)).to_pylist()
            frames += columns.column("frames").take(pa.array(first_rows)).to_pylist()
        self.ids, self.num_frames = tuple(ids), tuple(frames)
        self._index_of = {name: index for index, name in enumerate(ids)}
        self._lock = threading.Lock()
        self._held: tuple[int, pa.Array] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, utterance: str | int, layers: Sequence[int] | None = None) -> FeatureRow:
        """One recording, by its path or its place; `layers` None means all.

        Raises UserError where the path or a layer is not in the file, or the file is damaged.
        """
        if isinstance(utterance, str) and utterance not in self._index_of:
            raise UserError(f"{self.path}: no features of {utterance!r} in this file")
        index = self._index_of[utterance] if isinstance(utterance, str) else range(len(self.ids))[utterance]
        missing = sorted(set(layers or ()) - set(self.layers))
        if missing:
            raise UserError(f"{self.path}: layers {missing} are missing; it holds {list(self.layers)}")
        group, row = self._places[index]
        values, hidden = self._load(group), {}
        for layer in self.layers if layers is None else layers:
            place = self.layers.index(layer)
            flat = values[row + place].values.to_numpy(zero_copy_only=False).astype(np.float32)
            hidden[layer] = torch.from_numpy(flat).view(self.num_frames[index], self.widths[place])
        return FeatureRow(self.ids[index], None, hidden)

    def _load(self, group: int) -> pa.Array:
        with self._lock:
            if self._held is None or self._held[0] != group:
                try:
                    column = self._file.read_row_group(group, columns=["features"]).column(0)
                except (OSError, pa.ArrowException) as error:
                    raise UserError(f"{self.path}: damaged ({describe_error(error)}); write it anew") from None
                self._held = group, column.combine_chunks()
            return self._held[1]


def load_features(path: Path | str) -> FeatureStore | FeatureTable:
    """The features in `path`: a directory as the stages write, or a file of `fithubert features`.

    Both have `ids`, `num_frames`, `layers`, `widths` and `read`. Raises UserError where it is not there or not whole.
    """
    return FeatureStore.open(path) if Path(path).is_dir() else FeatureTable(path)


def parts_of(path: Path) -> Path:
    """The folder of an unfinished file."""
    return path.with_name(f"{path.name}.parts")


def read_info(path: Path) -> TableInfo:
    """The TableInfo of a file; raises UserError where there is none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        values = json.loads(metadata[_INFO_KEY])
        for name in ("layers", "widths"):
            values[name] = tuple(values[name])
        return TableInfo(**values)
    except FileNotFoundError:
        unfinished = "; it is unfinished, run the same command again" if parts_of(path).is_dir() else ""
        raise UserError(f"{path}: no such file{unfinished}") from None
    except (KeyError, TypeError, ValueError):  # pyarrow says ValueError of what is not Parquet
        raise UserError(f"{path}: no features of `fithubert features`") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({describe_error(error)})") from None


def describe_table(info: StoreInfo) -> TableInfo:
    """The TableInfo of the file that a store becomes."""
    rate_hz = SAMPLE_RATE_HZ / receptive_field(info.convolutions)[1]
    return TableInfo(
        info.model, info.model_fingerprint, info.corpus_fingerprint, info.layers, info.widths, rate_hz, info.codec
    )


def write_table(store: FeatureStore, path: Path) -> None:
    """Write a store of codec float32 or float16 as one file, whole or not at all; memory holds one row group.

    The bytes depend on nothing but the values. Raises UserError where the disk is full.
    """
    info = describe_table(store.info)
    schema = _schema(info)
    exact = info.dtype == "float32"
    with (
        atomic_file(path) as aside,
        pq.ParquetWriter(
            aside,
            schema,
            compression="zstd",
            use_dictionary=["path"],
            write_statistics=["path", "layer"],
            # Bytes of like weight lie together: 8 % smaller. Parquet has it for float32 only.
            use_byte_stream_split=["features.list.element"] if exact else False,
            write_page_checksum=True,
        ) as writer,
    ):
        for group in _row_groups(store, info):
            writer.write_table(pa.concat_tables(_rows(store, index, info, schema) for index in group))


def _schema(info: TableInfo) -> pa.Schema:
    columns = [
        ("path", pa.string()),
        ("seconds", pa.float64()),
        ("layer", pa.int32()),
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("frame_rate_hz", pa.float64()),
        ("features", pa.list_(DTYPES[info.dtype])),
    ]
    return pa.schema(columns, {_INFO_KEY: json.dumps(asdict(info), sort_keys=True).encode()})


def _row_groups(store: FeatureStore, info: TableInfo) -> Iterator[list[int]]:
    """Utterances in order, as many as fit in a row group, at least one."""
    group: list[int] = []
    filled, frame_bytes = 0, sum(info.widths) * DTYPES[info.dtype].byte_width
    for index, frames in enumerate(store.num_frames):
        if group and filled + frames * frame_bytes > _ROW_GROUP_BYTES:
            yield group
            group, filled = [], 0
        group.append(index)
        filled += frames * frame_bytes
    if group:
        yield group


def _rows(store: FeatureStore, index: int, info: TableInfo, schema: pa.Schema) -> pa.Table:
    hidden = store.read(index).hidden_states
    flat = np.concatenate([hidden[layer].numpy().ravel() for layer in info.layers]).astype(info.dtype)
    ends = np.cumsum([0, *(store.num_frames[index] * width for width in info.widths)]).astype(np.int32)
    count = len(info.layers)
    columns = {
        "path": [store.ids[index]] * count,
        "seconds": [store.num_samples[index] / SAMPLE_RATE_HZ] * count,
        "layer": info.layers,
        "frames": [store.num_frames[index]] * count,
        "width": info.widths,
        "frame_rate_hz": [info.frame_rate_hz] * count,
        "features": pa.ListArray.from_arrays(pa.array(ends), pa.array(flat)),
    }
    return pa.table(columns, schema)
