"""From recordings and a model to one Parquet file of features: restartable, whole or absent."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fithubert.data.folder import Skipped
from fithubert.data.listing import ListedRecordings, Listing
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ, count_frames
from fithubert.models.speech_model import SpeechModel
from fithubert.store.extract import ExtractProgress, ExtractSettings, describe_store, extract_features
from fithubert.store.format import Expected, StoreInfo, parse_info
from fithubert.store.read import FeatureStore, read_index
from fithubert.store.states import CPU_BATCH_SECONDS
from fithubert.store.table import DTYPES, TableInfo, describe_table, parts_of, read_info, write_table

_COMMAND = "fithubert features"
#: What a killed run has to do again: a hundredth of the whole, within these bounds.
_SHARD_MINUTES = (0.5, 10.0)


@dataclass(frozen=True)
class WrittenFeatures:
    """What is in the file now. `found`: it was there already, whole and the same, and nothing was written."""

    info: TableInfo
    recordings: int
    audio_seconds: float
    num_bytes: int
    skipped: tuple[Skipped, ...]
    found: bool


def write_features(
    model: SpeechModel,
    listing: Listing,
    out: Path,
    layers: Literal["all"] | tuple[int, ...] = "all",
    dtype: str = "float32",
    on_progress: Callable[[ExtractProgress], None] | None = None,
    batch_seconds: float = CPU_BATCH_SECONDS,
) -> WrittenFeatures:
    """Write what `model` says of the recordings to the Parquet file `out` (`fithubert.store.table` says its form).

    A run that was stopped goes on from the feature store in `out`.parts, and ends in the same bytes. Recordings
    shorter than a frame of the model are skipped. Raises UserError where `out` or its parts hold something else, no
    recording is left, a layer does not exist, or space is short.
    """
    recordings, skipped = drop_short(model, listing)
    seconds = sum(u.num_samples for u in recordings) / SAMPLE_RATE_HZ
    minutes = min(max(seconds / 60 / 100, _SHARD_MINUTES[0]), _SHARD_MINUTES[1])
    settings = ExtractSettings(
        codec=dtype, layers=layers, shard_minutes=minutes, batch_seconds=batch_seconds, with_waveform=False
    )
    store, parts = describe_store(model, recordings, settings), parts_of(out)
    info = describe_table(store)
    _check_parts(parts, info)
    found = _check_out(out, info)
    if not found:
        make_folder(out.parent)
        _check_space(out, parts, store, recordings)
        extract_features(model, recordings, parts, settings, on_progress, rebuild=_COMMAND, repair=_COMMAND)
        write_table(FeatureStore.open(parts, Expected(model.fingerprint, recordings.fingerprint)), out)
    shutil.rmtree(parts, ignore_errors=True)
    return WrittenFeatures(info, len(recordings), seconds, out.stat().st_size, skipped, found)


def drop_short(model: SpeechModel, listing: Listing) -> tuple[ListedRecordings, tuple[Skipped, ...]]:
    """The recordings that are as long as a frame of `model`, and all that are left out.

    Raises UserError where none is left.
    """
    kept, skipped = [], list(listing.skipped)
    for utterance in listing.recordings:
        if count_frames(utterance.num_samples, model.convolutions):
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
    """Make `folder` where it is not there; raises UserError where that cannot be, or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); name another --out") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: you may not write here; name another --out")


def _check_out(out: Path, info: TableInfo) -> bool:
    """Whether `out` is finished; raises UserError where it is something else."""
    if not out.exists():
        return False
    try:
        other = _describe_other(read_info(out), info)
    except UserError:
        other = "something else"
    if other is not None:
        raise UserError(f"{out}: is there already and holds {other}; delete it, or name another --out")
    return True


def _check_parts(parts: Path, info: TableInfo) -> None:
    """Raise UserError where `parts` is there and not what an interrupted run for `info` left."""
    # Before its index a run leaves nothing but hidden files.
    if not parts.exists() or (parts.is_dir() and all(path.name.startswith(".") for path in parts.iterdir())):
        return
    try:
        other = _describe_other(describe_table(parse_info(read_index(parts).schema.metadata)), info)
    except UserError:
        raise UserError(f"{parts}: not what an interrupted run leaves; move it, or name another --out") from None
    if other is not None:
        raise UserError(
            f"{parts}: holds the unfinished {other}; run that command again to finish them, delete the folder, or name "
            "another --out"
        )


def _describe_other(there: TableInfo, wanted: TableInfo) -> str | None:
    """What else `there` is than `wanted`; None where it is that."""
    if there.fingerprint != wanted.fingerprint:
        return f"features of another model ({there.model})"
    if there.recordings != wanted.recordings:
        return "features of other recordings"
    if there.layers != wanted.layers:
        return f"features of layers {', '.join(map(str, there.layers))}"
    if there.dtype != wanted.dtype:
        return f"features in {there.dtype}"
    return None


def _check_space(out: Path, parts: Path, store: StoreInfo, recordings: ListedRecordings) -> None:
    """Raise UserError where the parts that are still to come and the file would not fit beside each other."""
    frames = sum(count_frames(u.num_samples, store.convolutions) for u in recordings)
    whole = frames * sum(store.widths) * DTYPES[store.codec].byte_width
    there = sum(part.stat().st_size for part in parts.glob("shard-*")) if parts.is_dir() else 0
    needed, free = whole + max(0, whole - there), shutil.disk_usage(out.parent).free
    if needed > free:
        raise UserError(
            f"{out}: needs up to {needed / 1e9:.3g} GB while it is written and half of that afterwards, and "
            f"{free / 1e9:.3g} GB are free; take fewer layers or --dtype float16"
        )
