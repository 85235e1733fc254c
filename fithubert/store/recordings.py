"""From recordings and a model to hidden states in flat Parquet files (fithubert.store.table has the format)."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from fithubert.data.batching import group_consecutive
from fithubert.data.listing import ListedRecordings, Listing, Skipped
from fithubert.errors import UserError
from fithubert.files import digest, only_writer, open_atomically, remove_leftovers
from fithubert.frames import SAMPLE_RATE_HZ, count_frames, frame_rate_hz
from fithubert.models.speech_model import SpeechModel
from fithubert.models.windows import DEFAULT_WINDOWS, Windows
from fithubert.store import shards, table
from fithubert.store.deviation import Deviation, measure_deviation
from fithubert.store.write import read_pages

_FOREIGN = "something else"


@dataclass(frozen=True)
class FeatureSettings:
    """How hidden states of recordings are computed and stored.

    `batch_seconds`: padded audio in one forward pass. `part_minutes`: the smallest and the largest part; a part is a
    hundredth of all audio within these bounds, which is the work that a stopped run repeats. `window_bytes`: features
    in memory, sorted by length for batches. `row_group_bytes`: large enough to read fast, small enough for memory.
    `windows`: how long recordings are cut.
    """

    layers: Literal["all"] | tuple[int, ...] = "all"
    dtype: str = "float32"
    batch_seconds: float = shards.CPU_BATCH_SECONDS
    part_minutes: tuple[float, float] = (0.5, 10.0)
    window_bytes: int = 64 * 2**20
    row_group_bytes: int = 16 * 2**20
    windows: Windows = DEFAULT_WINDOWS


@dataclass(frozen=True)
class WrittenFeatures:
    """The features that now exist. `found`: they were complete before this run, and nothing was written.

    `deviation`: of the windows that this run has cut recordings into.
    """

    info: table.TableInfo
    recordings: int
    audio_seconds: float
    num_bytes: int
    skipped: tuple[Skipped, ...]
    found: bool
    deviation: Deviation | None = None


def write_features(
    model: SpeechModel,
    listing: Listing,
    out: Path,
    settings: FeatureSettings | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> WrittenFeatures:
    """Write the hidden states of the recordings to the folder `out`, whole or not at all.

    A run that was stopped resumes from `out`.parts, and its output has the same bytes. Recordings shorter than a frame
    of the model are skipped. `on_progress` gets the seconds of audio that are done, and all. Raises UserError if `out`
    or its parts hold something else, no recording is left, a layer does not exist, or the disk is too small.
    """
    settings = settings or FeatureSettings()
    recordings, skipped = drop_short(model, listing)
    rows = shards.plan_rows(recordings, model)
    info = _describe_table(model, recordings, settings)
    unfinished = table.parts_of(out)
    _check_unfinished(unfinished, info)
    found, deviation = _check_out(out, info), None
    if not found:
        make_folder(out.parent)
        with only_writer(unfinished, "the same features"):
            remove_leftovers(unfinished)
            _check_space(out, unfinished, info, rows)
            show = shards.show_frames(rows, on_progress)
            show(0)
            if info.windows is not None:
                deviation = measure_deviation(model, recordings, info.windows, info.layers, lambda: show(0))
            compute = partial(
                shards.compute_pieces,
                model,
                recordings,
                layers=info.layers,
                batch_seconds=settings.batch_seconds,
                windows=settings.windows,
                on_frames=show,
            )
            parts = _plan_parts(rows, settings)
            for number, part_rows in enumerate(parts):
                part = table.PartInfo(number, len(parts), digest(*(f"{row.index} {row.id}" for row in part_rows)))
                path = unfinished / table.PART_PATTERN.replace("*", f"{number:05d}")
                if _is_whole(path, info, part):
                    show(sum(row.num_frames for row in part_rows))
                else:
                    _write_part(path, table.feature_schema(info, part, deviation), info, part_rows, settings, compute)
            (unfinished / ".writer").unlink()
            unfinished.replace(out)
    num_bytes = sum(file.stat().st_size for file in table.list_files(out))
    return WrittenFeatures(info, len(rows), shards.count_seconds(rows), num_bytes, skipped, found, deviation)


def drop_short(model: SpeechModel, listing: Listing) -> tuple[ListedRecordings, tuple[Skipped, ...]]:
    """The recordings that have at least one frame of `model`, and all that are left out.

    Raises UserError if no recording is left.
    """
    kept, skipped = [], list(listing.skipped)
    for utterance in listing.recordings:
        if count_frames(utterance.num_samples, model.convolutions, model.frame_multiple):
            kept.append(utterance)
        else:
            skipped.append(Skipped(utterance.id, f"shorter than one frame of {model.name}"))
    skipped.sort(key=lambda entry: entry.path)
    if not kept:
        raise UserError(
            f"no usable recording; {len(skipped)} skipped, the first: {skipped[0].path}: {skipped[0].reason}"
        )
    return replace(listing.recordings, utterances=tuple(kept)), tuple(skipped)


def make_folder(folder: Path) -> None:
    """Make `folder` unless it exists; raises UserError if this fails or the folder is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: not writable; choose another --out")


def _describe_table(model: SpeechModel, recordings: ListedRecordings, settings: FeatureSettings) -> table.TableInfo:
    layers = shards.choose_layers(model, settings.layers)
    if settings.dtype not in table.DTYPES:
        raise UserError(f"dtype: unknown name {settings.dtype!r}; known: {', '.join(table.DTYPES)}")
    return table.TableInfo(
        model.name,
        model.fingerprint,
        recordings.fingerprint,
        layers,
        tuple(model.widths[layer] for layer in layers),
        frame_rate_hz(model.convolutions),
        settings.dtype,
        windows=shards.used_windows(model, recordings, settings.windows),
    )


def _plan_parts(rows: Sequence[shards.PlannedRow], settings: FeatureSettings) -> list[list[shards.PlannedRow]]:
    smallest, largest = settings.part_minutes
    samples = sum(row.num_samples for row in rows) / 100
    limit = min(max(samples, smallest * 60 * SAMPLE_RATE_HZ), largest * 60 * SAMPLE_RATE_HZ)
    return group_consecutive(rows, lambda row: row.num_samples, limit)


def _check_out(out: Path, info: table.TableInfo) -> bool:
    """Whether `out` is finished; raises UserError if it is something else."""
    other = _describe_other(out, info) if out.exists() else None
    if other is not None:
        raise UserError(f"{out}: already exists and holds {other}; delete it, or choose another --out")
    return out.exists()


def _check_unfinished(unfinished: Path, info: table.TableInfo) -> None:
    """Raise UserError if `unfinished` exists and is not left by an interrupted run for `info`."""
    # Before its first part is complete, a run has hidden files only.
    if not unfinished.exists() or (unfinished.is_dir() and all(p.name.startswith(".") for p in unfinished.iterdir())):
        return
    other = _describe_other(unfinished, info)
    if other == _FOREIGN:
        raise UserError(
            f"{unfinished}: not left by an interrupted `fithubert features`; move it, or choose another --out"
        )
    if other is not None:
        raise UserError(
            f"{unfinished}: holds the unfinished {other}; run that command again to finish them, delete the folder, or "
            "choose another --out"
        )


def _describe_other(path: Path, wanted: table.TableInfo) -> str | None:
    """How the content of `path` differs from the `wanted` features; None if it does not."""
    try:
        existing = table.read_info(path)
    except UserError:
        return _FOREIGN
    words = {
        "fingerprint": f"features of another model ({existing.model})",
        "recordings": "features of other recordings",
        "layers": f"features of layers {', '.join(map(str, existing.layers))}",
        "dtype": f"features in {existing.dtype}",
        "windows": "features in other windows",
    }
    return next((words[name] for name in words if getattr(existing, name) != getattr(wanted, name)), None)


def _check_space(out: Path, unfinished: Path, info: table.TableInfo, rows: Sequence[shards.PlannedRow]) -> None:
    """Raise UserError if the missing parts do not fit on the disk."""
    whole = sum(row.num_frames for row in rows) * info.frame_bytes
    done = sum(part.stat().st_size for part in unfinished.glob(table.PART_PATTERN))
    needed, free = max(0, whole - done), shutil.disk_usage(unfinished).free
    if needed > free:
        raise UserError(
            f"{out}: needs up to {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free; take fewer layers or "
            "--dtype float16"
        )


def _is_whole(path: Path, info: table.TableInfo, part: table.PartInfo) -> bool:
    """Whether `path` is this part, after reading every page of it."""
    try:
        metadata = read_pages(path)
    except (OSError, pa.ArrowException, ValueError):
        return False
    return (metadata.get(table.INFO_KEY), metadata.get(table.PART_KEY)) == (info.to_json(), part.to_json())


def _write_part(
    path: Path,
    schema: pa.Schema,
    info: table.TableInfo,
    rows: Sequence[shards.PlannedRow],
    settings: FeatureSettings,
    compute: Callable[[Sequence[shards.PlannedRow]], Iterator[shards.Piece]],
) -> None:
    """Write one part, whole or not at all; memory holds `window_bytes`. Raises UserError if the disk is full."""

    def size_of(row: shards.PlannedRow) -> int:
        return row.num_frames * info.frame_bytes

    with (
        open_atomically(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=["path"],
            write_statistics=["path", "layer"],
            # Bytes of equal weight lie together, which saves 8 %. Parquet has it for float32 only.
            use_byte_stream_split=["features.list.element"] if info.dtype == "float32" else False,
            write_page_checksum=True,
        ) as writer,
    ):
        for together in group_consecutive(rows, size_of, settings.window_bytes):
            pieces = compute(together)
            # Computed by length, written by path. The windows of a recording that fills the memory alone are in order.
            if len(together) > 1:
                pieces = iter(sorted(pieces, key=lambda piece: piece[0].index))
            _write_pieces(writer, pieces, info, schema, settings.row_group_bytes)


def _write_pieces(
    writer: pq.ParquetWriter, pieces: Iterator[shards.Piece], info: table.TableInfo, schema: pa.Schema, limit: int
) -> None:
    """Write recordings and windows of recordings, in order, in row groups of at most `limit` bytes."""
    group: list[pa.Table] = []
    frames: Counter[int] = Counter()  # Written so far of each recording.
    size = 0
    for row, states in pieces:
        added = len(states[0]) * info.frame_bytes
        if group and size + added > limit:
            writer.write_table(pa.concat_tables(group))
            group, size = [], 0
        group.append(table.make_rows((row, states), frames[row.index], info, schema))
        frames[row.index] += len(states[0])
        size += added
    writer.write_table(pa.concat_tables(group))
