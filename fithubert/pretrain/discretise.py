"""Recordings as discrete units: k-means clusters of one layer, as HuBERT makes its targets and GSLM its tokens."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.data.batching import group_consecutive
from fithubert.data.listing import ListedRecordings
from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.frames import SAMPLE_RATE_HZ, frame_rate_hz
from fithubert.models.speech_model import SpeechModel
from fithubert.models.windows import DEFAULT_WINDOWS, NO_WINDOWS, Windows
from fithubert.pretrain.units import (
    Codebook,
    CodebookInfo,
    draw_utterances,
    load_codebook,
    save_codebook,
)
from fithubert.store.deviation import DEVIATION_KEY, Deviation, measure_deviation
from fithubert.store.shards import (
    CPU_BATCH_SECONDS,
    PlannedRow,
    compute_pieces,
    count_seconds,
    plan_rows,
    show_frames,
    used_windows,
)
from fithubert.training.units import fit_units

#: Half an hour of speech at 50 frames a second; 0.9 GB in memory while features 768 wide are clustered.
SAMPLE_FRAMES = 100_000
_INFO_KEY = b"fithubert.units"

#: Called with the seconds of audio done and in all.
OnProgress = Callable[[float, float], None]


@dataclass(frozen=True)
class UnitOptions:
    """`dedup`: runs of one unit become one. `soft`: soft units too. `batch_seconds`: padded audio in one forward pass.

    `window_seconds`: audio that is sorted by length and written together. `windows`: how long recordings are cut.
    """

    dedup: bool = False
    soft: bool = False
    batch_seconds: float = CPU_BATCH_SECONDS
    window_seconds: float = 600.0
    windows: Windows = DEFAULT_WINDOWS


@dataclass(frozen=True)
class WrittenUnits:
    """The contents of the file. `used`: how many clusters occur. `tokens`: all units, fewer if deduplicated.

    `deviation`: of the states in windows, if a recording is cut into them.
    """

    recordings: int
    audio_seconds: float
    frames: int
    tokens: int
    used: int
    deviation: Deviation | None = None


def fit_codebook(
    model: SpeechModel,
    recordings: ListedRecordings,
    info: CodebookInfo,
    on_progress: OnProgress | None = None,
    batch_seconds: float = CPU_BATCH_SECONDS,
) -> Codebook:
    """k-means with the settings of `info`, on whole recordings, drawn by its seed until they hold its `sample_frames`.

    Source: HuBERT (Hsu et al. 2021, section IV.B) for the targets, GSLM (Lakhotia et al. 2021, section 3.1) for units
    of recordings. Differs: features are scaled to deviation 1, and see `fit_units` for k-means itself. The same
    arguments give the same codebook. Raises UserError if there are fewer frames than clusters.
    """
    rows = plan_rows(recordings, model)
    drawn = draw_utterances([row.num_frames for row in rows], info.sample_frames, info.seed)
    sample = [rows[index] for index in drawn]
    show = show_frames(sample, on_progress)
    states: list[Tensor] = []
    missing = info.sample_frames
    windows = info.windows or NO_WINDOWS
    for _, (frames,) in compute_pieces(model, recordings, sample, (info.layer,), batch_seconds, windows, show):
        states.append(frames[:missing].float().cpu())
        missing -= len(states[-1])
        if not missing:
            break
    if on_progress is not None:
        on_progress(count_seconds(sample), count_seconds(sample))
    return Codebook(info, fit_units(torch.cat(states), info.clusters, info.seed))


def describe_codebook(
    model: SpeechModel,
    recordings: ListedRecordings,
    layer: int,
    clusters: int,
    seed: int = 1,
    sample_frames: int = SAMPLE_FRAMES,
    windows: Windows = DEFAULT_WINDOWS,
) -> CodebookInfo:
    """The CodebookInfo for `fit_codebook` on these recordings."""
    used = used_windows(model, recordings, windows)
    return CodebookInfo(
        model.name, model.fingerprint, layer, clusters, seed, recordings.fingerprint, sample_frames, used
    )


def provide_codebook(
    model: SpeechModel,
    recordings: ListedRecordings,
    info: CodebookInfo,
    folder: Path,
    on_progress: OnProgress | None = None,
    batch_seconds: float = CPU_BATCH_SECONDS,
) -> Codebook:
    """The codebook of `info` that an interrupted run left in `folder`, or a new one, which is saved there.

    Raises UserError if `folder` holds a codebook of other settings or recordings.
    """
    if folder.exists():
        existing = load_codebook(folder)
        if existing.info != info:
            raise UserError(
                f"{folder}: a codebook of other settings or recordings; use it with --codebook {folder}, delete it, or "
                "choose another --out"
            )
        return existing
    codebook = fit_codebook(model, recordings, info, on_progress, batch_seconds)
    save_codebook(codebook, folder)
    return codebook


def write_units(
    model: SpeechModel,
    recordings: ListedRecordings,
    codebook: Codebook,
    out: Path,
    options: UnitOptions = UnitOptions(),
    on_progress: OnProgress | None = None,
) -> WrittenUnits:
    """Write the units of every recording to the Parquet file `out`, completely or not at all; one row each, by path:

    path string; seconds double; frames int32; frame_rate_hz double; units list of int16 (int32 above 32,767
    clusters), one a frame. With `options.dedup`, runs of one unit are one unit, and durations is a list of int32, the
    frames of each. With `options.soft`, soft is a list of float: `UnitModel.soften` of every frame, frame by frame. The
    schema's metadata has `fithubert.units`: the codebook's config and fingerprint as JSON, and, if a recording is cut
    into windows, `fithubert.deviation`.

    Raises UserError if the codebook is of another model.
    """
    info = codebook.info
    if info.model_fingerprint != model.fingerprint:
        raise UserError(f"--codebook: it is of {info.model}, with other weights or frames than {model.name}")
    rate_hz = frame_rate_hz(model.convolutions)
    windows = used_windows(model, recordings, options.windows)
    rows = plan_rows(recordings, model)
    show = show_frames(rows, on_progress)
    deviation = None
    if windows is not None:
        deviation = measure_deviation(model, recordings, windows, (info.layer,), lambda: show(0))
    schema = units_schema(codebook, rate_hz, options, windows)
    if deviation is not None:
        schema = schema.with_metadata({**schema.metadata, DEVIATION_KEY: deviation.to_json()})
    counts, tokens = torch.zeros(info.clusters, dtype=torch.int64), 0
    with atomic_file(out) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for window in group_consecutive(rows, lambda row: row.num_samples, options.window_seconds * SAMPLE_RATE_HZ):
            found: dict[int, list[Tensor]] = {row.index: [] for row in window}
            shares: dict[int, list[Tensor]] = {row.index: [] for row in window}
            pieces = compute_pieces(
                model, recordings, window, (info.layer,), options.batch_seconds, options.windows, show
            )
            for row, (frames,) in pieces:
                found[row.index].append(codebook.units.assign(frames.float()).cpu())
                if options.soft:
                    shares[row.index].append(codebook.units.soften(frames.float()).cpu())
            units = {index: torch.cat(parts) for index, parts in found.items()}
            values = [_row_of(row, units[row.index], shares[row.index], rate_hz, options.dedup) for row in window]
            writer.write_table(pa.Table.from_pylist(values, schema))
            tokens += sum(len(value["units"]) for value in values)
            counts += torch.bincount(torch.cat(list(units.values())), minlength=info.clusters)
    used = int((counts > 0).sum())
    return WrittenUnits(len(rows), count_seconds(rows), int(counts.sum()), tokens, used, deviation)


def units_schema(codebook: Codebook, rate_hz: float, options: UnitOptions, windows: Windows | None = None) -> pa.Schema:
    """The columns and the metadata of a file of units at `rate_hz` frames a second."""
    columns = [
        ("path", pa.string()),
        ("seconds", pa.float64()),
        ("frames", pa.int32()),
        ("frame_rate_hz", pa.float64()),
        ("units", pa.list_(pa.int16() if codebook.info.clusters <= 2**15 else pa.int32())),
    ]
    columns += [("durations", pa.list_(pa.int32()))] if options.dedup else []
    columns += [("soft", pa.list_(pa.float32()))] if options.soft else []
    values = {**asdict(codebook.info), "codebook": codebook.fingerprint, "frame_rate_hz": rate_hz}
    values |= {"dedup": options.dedup, "soft": options.soft}
    del values["windows"]  # Those of the codebook's own recordings; here they are those of this file, if any is cut.
    if windows is not None:
        values["windows"] = asdict(windows)
    return pa.schema(columns, {_INFO_KEY: json.dumps(values, sort_keys=True).encode()})


def _row_of(row: PlannedRow, units: Tensor, soft: Sequence[Tensor], rate_hz: float, dedup: bool) -> dict[str, Any]:
    joined, durations = torch.unique_consecutive(units, return_counts=True)
    values = {"path": row.id, "seconds": row.num_samples / SAMPLE_RATE_HZ, "frames": row.num_frames}
    if dedup:
        values |= {"durations": durations.numpy()}
    if soft:
        values |= {"soft": torch.cat(list(soft)).flatten().numpy()}
    return {**values, "frame_rate_hz": rate_hz, "units": (joined if dedup else units).numpy()}
