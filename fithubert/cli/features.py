from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import (
    Audio,
    ContextSeconds,
    Device,
    HopAlignedFrames,
    MaxSeconds,
    Model,
    WindowSeconds,
    batch_seconds_of,
    exit_on_skipped,
    load_model,
    no_stage,
    parse_layers,
)


def features(
    audio: Audio,
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder of the Parquet files.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", "--layers", help="A layer, several (`4,8,12`, or the option again), `all`; default: the last."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="`float32`, or `float16` in half the space.")] = "float32",
    device: Device = "auto",
    max_seconds: MaxSeconds = 300.0,
    window_seconds: WindowSeconds = 60.0,
    context_seconds: ContextSeconds = None,
    hop_aligned: HopAlignedFrames = False,
) -> None:
    """Write hidden states of recordings to Parquet, which pandas, DuckDB and pyarrow read.

    One row per recording and layer: path, seconds, layer, first_frame, frames, width, frame_rate_hz, and features,
    frames x width numbers, frame by frame. A recording longer than --max-seconds has such rows for each of its windows,
    and fits in memory whatever its length. `fithubert.load_features(OUT)` reads all as tensors. If the command was
    interrupted, run it again: it continues, and `OUT.parts` holds the finished files until the end. An unusable
    recording is named and skipped, and the command then ends with status 1.

    Example: `fithubert features recordings/ --model fithubert --layer 12 --out features.parquet`
    """
    with no_stage():
        from fithubert.data.listing import list_recordings
        from fithubert.models.windows import Windows
        from fithubert.store.recordings import FeatureSettings, write_features
        from fithubert.store.table import DTYPES
        from fithubert.training.progress import progress_line
        from fithubert.workspace import check_name

        check_name(dtype, list(DTYPES), "dtype")
        loaded = load_model(model, device, hop_aligned)
        settings = FeatureSettings(
            parse_layers(layer or (), len(loaded.widths)),
            dtype,
            batch_seconds_of(device),
            windows=Windows(max_seconds, window_seconds, context_seconds),
        )
        listing = list_recordings(audio, on_progress=progress_line("checking recordings"))
        show = progress_line(f"features of {loaded.name}")

        def on_progress(done_seconds: float, all_seconds: float) -> None:
            show(done_seconds, all_seconds, f"{done_seconds / 60:.1f} min of audio")

        done = write_features(loaded, listing, out, settings, on_progress)
        info = done.info
        print(
            f"{out}: {done.recordings} recordings, {done.audio_seconds / 60:.1f} min; "
            f"{_name_layers(info.layers)} of {info.model}, {info.frame_rate_hz:g} frames per second, "
            f"width {'/'.join(map(str, sorted(set(info.widths))))}, {info.dtype}; {done.num_bytes / 1e6:.1f} MB"
            f"{'; it already existed' if done.found else ''}"
        )
        if done.deviation is not None:
            print(done.deviation.describe())
    exit_on_skipped(done.skipped, listing.hidden)


def _name_layers(layers: tuple[int, ...]) -> str:
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
