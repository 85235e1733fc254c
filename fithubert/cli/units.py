"""`fithubert units`: recordings as discrete units."""

from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import Audio, Device, MaxSeconds, Model, exit_on_skipped, options
from fithubert.errors import exit_on_user_error


def units(
    audio: Audio,
    model: Model,
    out: Annotated[Path, typer.Option(help="The Parquet file.")],
    layer: Annotated[int | None, typer.Option(help="The layer; default: that of --codebook, or the last.")] = None,
    clusters: Annotated[int | None, typer.Option(min=1, help="Number of units; default: 100.")] = None,
    codebook: Annotated[
        Path | None, typer.Option(help="The folder of an existing codebook, instead of a new one.")
    ] = None,
    dedup: Annotated[bool, typer.Option("--dedup", help="Merge repeated units, and add their durations.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the sample of frames and the first centres.")] = 1,
    sample_frames: Annotated[int, typer.Option(min=1, help="Fit the clusters on at most this many frames.")] = 100_000,
    device: Device = "auto",
    max_seconds: MaxSeconds = 300.0,
) -> None:
    """Write recordings as discrete units: k-means clusters of one layer, as HuBERT's targets and GSLM's tokens.

    One row per recording: path, seconds, frames, frame_rate_hz, units, and with --dedup durations in frames. The
    clusters are fitted on the recordings and kept in `STEM.codebook` next to OUT. With `--codebook`, other recordings
    get the same units. The same recordings and seed give the same units. An unusable recording is named and skipped,
    and the command then ends with status 1.

    Example: `fithubert units recordings/ --model teacher --layer 6 --clusters 100 --out units.parquet`
    """
    with exit_on_user_error(options.debug):
        from fithubert.stages.recordings import write_recording_units
        from fithubert.workspace import Workspace

        done = write_recording_units(
            Workspace(options.workspace),
            audio,
            model,
            out,
            layer=layer,
            clusters=clusters,
            codebook=codebook,
            dedup=dedup,
            seed=seed,
            sample_frames=sample_frames,
            device=device,
            max_seconds=max_seconds,
        )
        written, info = done.units, done.codebook.info
        print(
            f"{out}: {written.recordings} recordings, {written.audio_seconds / 60:.1f} min; {written.tokens} units of "
            f"{written.frames} frames, {written.used} of {info.clusters} clusters of layer {info.layer} of "
            f"{info.model}; codebook {done.codebook_folder}"
        )
    exit_on_skipped(done.skipped)
