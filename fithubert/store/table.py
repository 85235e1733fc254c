"""Hidden states of a person's own recordings as flat Parquet files, for readers without this project.

The output is a folder of files part-00000.parquet, part-00001.parquet, ... (formerly one file), which pandas, Polars
and pyarrow read by the folder's name and DuckDB by FOLDER/*.parquet. One row for each recording and layer, recordings
by path, layers ascending. A recording longer than its `windows.whole_seconds` ran in windows, and has such rows for
each window, in order. All layers of a recording or window are in one row group:

    path            string, as the recording was named
    seconds         double, of the recording
    layer           int32; 0 is the input of the first transformer layer, i the output of the i-th (of a student: the
                    states that its read-out names, from 0)
    first_frame     int32, the place of the row's first frame in the recording: 0 but for later windows
    frames          int32, of the row
    width           int32, the feature size
    frame_rate_hz   double; frame t of the recording begins at t / frame_rate_hz seconds
    features        list of float32 or float16, frames x width numbers, frame after frame

In pandas: `row.features.reshape(row.frames, row.width)`. The schema's metadata has `fithubert.features`, a TableInfo as
JSON, and `fithubert.part`, a PartInfo as JSON. If a recording ran in windows, `fithubert.deviation` has a Deviation as
JSON.

Until it is complete, the folder has the suffix `.parts`. Its finished parts stay if the run is stopped.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.files import check_regular
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.windows import Windows
from fithubert.store import INDEX_NAME, describe_error
from fithubert.store.deviation import DEVIATION_KEY, Deviation
from fithubert.store.read import FeatureRow, FeatureStore, HiddenStates
from fithubert.store.shards import Piece

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
PART_PATTERN = "part-*.parquet"
INFO_KEY, PART_KEY = b"fithubert.features", b"fithubert.part"
_VERSION = 2  # 1 had no `first_frame`, and one row for all windows of a recording.
_FLOAT16_MAX = 65504.0
#: Parts that are open at once.
_OPEN_PARTS = 16


@dataclass(frozen=True)
class TableInfo:
    """The origin of all rows. `fingerprint`: of the model. `recordings`: a digest of paths and contents.

    `windows`: how long recordings were cut; None if none was.
    """

    model: str
    fingerprint: str
    recordings: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    frame_rate_hz: float
    dtype: str
    version: int = _VERSION
    windows: Windows | None = None

    @property
    def frame_bytes(self) -> int:
        """The size of one frame of all layers."""
        return int(sum(self.widths) * DTYPES[self.dtype].byte_width)

    def to_json(self) -> bytes:
        """The TableInfo as it is written to the metadata."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "TableInfo":
        """The TableInfo in the metadata; raises TypeError or ValueError if it is broken."""
        values = json.loads(text)
        windows = Windows(**values["windows"]) if values.get("windows") else None
        sizes = {name: tuple(values[name]) for name in ("layers", "widths")}
        return cls(**{**values, **sizes, "windows": windows})


@dataclass(frozen=True)
class PartInfo:
    """Part number `part` of `parts`. `rows`: a digest of its recordings."""

    part: int
    parts: int
    rows: str

    def to_json(self) -> bytes:
        """The PartInfo as it is written to the metadata."""
        return json.dumps(asdict(self), sort_keys=True).encode()


def feature_schema(info: TableInfo, part: PartInfo, deviation: Deviation | None = None) -> pa.Schema:
    """Columns and metadata of one part."""
    columns = [
        ("path", pa.string()),
        ("seconds", pa.float64()),
        ("layer", pa.int32()),
        ("first_frame", pa.int32()),
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("frame_rate_hz", pa.float64()),
        ("features", pa.list_(DTYPES[info.dtype])),
    ]
    measured = {} if deviation is None else {DEVIATION_KEY: deviation.to_json()}
    return pa.schema(columns, {INFO_KEY: info.to_json(), PART_KEY: part.to_json(), **measured})


def make_rows(piece: Piece, first_frame: int, info: TableInfo, schema: pa.Schema) -> pa.Table:
    """A whole recording or one window of it, which begins at `first_frame`: a row for each layer."""
    row, states = piece
    count = len(info.layers)
    columns = {
        "path": [row.id] * count,
        "seconds": [row.num_samples / SAMPLE_RATE_HZ] * count,
        "layer": info.layers,
        "first_frame": [first_frame] * count,
        "frames": [len(states[0])] * count,
        "width": info.widths,
        "frame_rate_hz": [info.frame_rate_hz] * count,
        # An array of its own for each layer: Arrow counts in 32 bits, and all layers of 75 minutes exceed that.
        "features": pa.chunked_array([_make_list(layer, info.dtype) for layer in states]),
    }
    return pa.table(columns, schema)


def _make_list(states: Tensor, dtype: str) -> pa.ListArray:
    """One list with the numbers of `states` (time, feature), frame after frame."""
    flat = states.float().cpu().flatten()
    numbers = (flat.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half() if dtype == "float16" else flat).numpy()
    return pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), pa.array(numbers))


def parts_of(path: Path) -> Path:
    """The folder of an unfinished output."""
    return path.with_name(f"{path.name}.parts")


class FeatureTable(HiddenStates):
    """The output of `write_features`: `ids` are the paths of the recordings. Open one with `load_features`.

    `info`: the origin of the features.
    """

    def __init__(self, path: Path) -> None:
        self.info = read_info(path)
        #: The row group and first row of each recording, or of each of its windows.
        self._places: list[list[tuple[int, int, int]]] = []
        # An output of days has more parts than a process may have open files.
        self._open = lru_cache(_OPEN_PARTS)(self._open_part)
        ids: list[str] = []
        frames: list[int] = []
        with _names_damage(path):
            self._parts = _check_complete(path)
            for number in range(len(self._parts)):
                file = self._open(number)
                for group in range(file.num_row_groups):
                    columns = file.read_row_group(group, columns=["path", "frames"]).to_pydict()
                    for row in range(0, len(columns["path"]), len(self.info.layers)):
                        if not ids or columns["path"][row] != ids[-1]:
                            ids.append(columns["path"][row])
                            frames.append(0)
                            self._places.append([])
                        frames[-1] += columns["frames"][row]
                        self._places[-1].append((number, group, row))
        super().__init__(path, dict(zip(self.info.layers, self.info.widths, strict=True)), ids, frames)
        # Neighbours are read one after another, so the last row group stays in memory.
        self._load = lru_cache(1)(self._read_group)
        self._lock = threading.Lock()

    def read(self, utterance: str | int, layers: Sequence[int] | None = None) -> FeatureRow:
        """One recording, by its path or its place; `layers` None means all.

        Raises UserError if there is no such path or layer, or the file is damaged.
        """
        index, layers = self._find(utterance), self._check_layers(layers)
        pieces: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        for number, group, row in self._places[index]:
            with self._lock:
                rows = self._load(number, group)
            for layer in layers:
                numbers = rows[row + self.layers.index(layer)].flatten().to_numpy(zero_copy_only=False)
                pieces[layer].append(torch.from_numpy(numbers.astype(np.float32)).view(-1, self._width_of[layer]))
        return FeatureRow(self.ids[index], None, {layer: torch.cat(found) for layer, found in pieces.items()})

    def _open_part(self, number: int) -> pq.ParquetFile:
        return pq.ParquetFile(self._parts[number], page_checksum_verification=True)

    def _read_group(self, number: int, group: int) -> list[pa.Array]:
        """The features of a row group, an array for each row: together they may exceed Arrow's 32-bit offsets."""
        with _names_damage(self.path):
            rows = self._open(number).iter_batches(batch_size=1, row_groups=[group], columns=["features"])
            return [row.column(0) for row in rows]


@contextmanager
def _names_damage(path: Path) -> Iterator[None]:
    """A block in which a file that Parquet cannot read is a UserError that names the output `path`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        # Only Arrow's own errors are about the contents: they have no number of the system.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: not readable ({describe_error(error)})") from None
        raise UserError(f"{path}: damaged ({describe_error(error)}); write it again") from None


def load_features(path: Path | str) -> FeatureStore | FeatureTable:
    """The hidden states in `path`: a feature store of a stage, or an output of `fithubert features`.

    Both have `ids`, `num_frames`, `layers`, `widths` and `read`. Raises UserError if it is missing or not whole.
    """
    path = Path(path)
    flat = path.is_file() or not path.exists() or any(path.glob(PART_PATTERN))
    return FeatureTable(path) if flat and not (path / INDEX_NAME).exists() else FeatureStore.open(path)


def read_info(path: Path) -> TableInfo:
    """The TableInfo of an output, finished or not; raises UserError if there is none."""
    files = list_files(path)
    try:
        return TableInfo.from_json((pq.read_schema(files[0]).metadata or {})[INFO_KEY])
    except (IndexError, KeyError, TypeError, ValueError):  # pyarrow raises ValueError if a file is not Parquet.
        raise UserError(f"{path}: not an output of `fithubert features`") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({describe_error(error)})") from None


def list_files(path: Path) -> list[Path]:
    """The files of an output: its parts, or itself if it is one file; raises UserError if it does not exist."""
    if path.is_dir():
        parts = sorted(path.glob(PART_PATTERN))
        for part in parts:
            check_regular(part)
        return parts
    if not path.exists():
        unfinished = "; it is unfinished, run the same command again" if parts_of(path).is_dir() else ""
        raise UserError(f"{path}: no such file or folder{unfinished}")
    check_regular(path)
    return [path]


def _check_complete(path: Path) -> list[Path]:
    """The files of an output; raises UserError if one of its parts is missing."""
    files = list_files(path)
    metadata = pq.read_schema(files[0]).metadata or {}
    # Outputs of one file have no parts.
    count = json.loads(metadata[PART_KEY])["parts"] if PART_KEY in metadata else 1
    if len(files) != count:
        raise UserError(f"{path}: {len(files)} of {count} parts; delete it and run `fithubert features` again")
    return files
