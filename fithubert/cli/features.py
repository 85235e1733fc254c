"""`fithubert features`: hidden states of recordings."""

from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import Audio, Device, MaxSeconds, Model, exit_on_skipped, options
from fithubert.errors import exit_on_user_error


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
) -> None:
    """Write hidden states of recordings to Parquet, which pandas, DuckDB and pyarrow read.

    One row per recording and layer: path, seconds, layer, frames, width, frame_rate_hz, and features, frames x width
    numbers, frame by frame. `fithubert.load_features(OUT)` reads them as tensors. If the command was interrupted, run
    it again: it continues, and `OUT.parts` holds the finished files until the end. An unusable recording is named and
    skipped, and the command then ends with status 1.

    Example: `fithubert features recordings/ --model fithubert --layer 12 --out features.parquet`
    """
    with exit_on_user_error(options.debug):
        from fithubert.stages.recordings import write_recording_features
        from fithubert.workspace import Workspace

        done = write_recording_features(
            Workspace(options.workspace), audio, model, out, layer or (), dtype, device, max_seconds
        )
        info = done.info
        print(
            f"{out}: {done.recordings} recordings, {done.audio_seconds / 60:.1f} min; "
            f"{_name_layers(info.layers)} of {info.model}, {info.frame_rate_hz:g} frames per second, "
            f"width {'/'.join(map(str, sorted(set(info.widths))))}, {info.dtype}; {done.num_bytes / 1e6:.1f} MB"
            f"{'; it already existed' if done.found else ''}"
        )
    exit_on_skipped(done.skipped)


def _name_layers(layers: tuple[int, ...]) -> str:
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
