"""Commands that use a model on recordings."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fithubert.cli.start import options
from fithubert.errors import exit_on_user_error

if TYPE_CHECKING:
    from fithubert.data.folder import Skipped

_Audio = Annotated[
    list[Path],
    typer.Argument(help="Recordings (wav, flac, ogg, mp3, opus; any rate), and folders with any below them."),
]
_Model = Annotated[
    str,
    typer.Option(
        help="A student (its name here, or its folder), one exported to onnx, `teacher`, `mini`, `fbank`, "
        "`hf:...`, `torchaudio:...`, a fairseq or s3prl file, or the folder of a teacher."
    ),
]
_Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]
_MaxSeconds = Annotated[float, typer.Option(min=0.025, help="Longer recordings are skipped.")]


def features(
    audio: _Audio,
    model: _Model,
    out: Annotated[Path, typer.Option(help="The Parquet file.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", "--layers", help="A layer, several (`4,8,12`, or the option again), `all`; else the last."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="`float32`, or `float16` in half the space.")] = "float32",
    device: _Device = "auto",
    max_seconds: _MaxSeconds = 300.0,
) -> None:
    """Write what a model says of recordings to one Parquet file, which pandas, DuckDB and pyarrow read.

    A row for each recording and layer: path, seconds, layer, frames, width, frame_rate_hz, and features, frames x width
    numbers, frame after frame. `fithubert.load_features(FILE)` reads it as tensors. Stopped at any moment, the same
    command goes on and ends in the same file; until then `OUT.parts` holds what is done. A recording that cannot be
    used is named and skipped, and the command then ends with status 1.
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
            f"{_name_layers(info.layers)} of {info.model}, {info.frame_rate_hz:g} frames a second, "
            f"{'/'.join(map(str, sorted(set(info.widths))))} wide, {info.dtype}; {done.num_bytes / 1e6:.1f} MB"
            f"{'; it was there already' if done.found else ''}"
        )
    _end_on_skipped(done.skipped)


def units(
    audio: _Audio,
    model: _Model,
    out: Annotated[Path, typer.Option(help="The Parquet file.")],
    layer: Annotated[int | None, typer.Option(help="The layer; else that of --codebook, or the last.")] = None,
    clusters: Annotated[int | None, typer.Option(min=1, help="How many units; 100 unless said.")] = None,
    codebook: Annotated[Path | None, typer.Option(help="The folder of a codebook, in place of a new one.")] = None,
    dedup: Annotated[bool, typer.Option("--dedup", help="Join repeated units, and give their durations.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the recordings and the first centres.")] = 1,
    sample_frames: Annotated[int, typer.Option(min=1, help="Clusters are fitted on at most so many frames.")] = 100_000,
    device: _Device = "auto",
    max_seconds: _MaxSeconds = 300.0,
) -> None:
    """Write recordings as discrete units: k-means clusters of a layer, HuBERT's targets and GSLM's tokens.

    A row for each recording: path, seconds, frames, frame_rate_hz, units, and with --dedup durations in frames. The
    clusters are fitted on the recordings and kept in `STEM.codebook` beside OUT; `--codebook` gives other recordings
    the same units. The same recordings and seed give the same units. A recording that cannot be used is named and
    skipped, and the command then ends with status 1.
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
    _end_on_skipped(done.skipped)


def _name_layers(layers: tuple[int, ...]) -> str:
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}"
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def _end_on_skipped(skipped: "tuple[Skipped, ...]") -> None:
    """Name what was left out on standard error, and end with status 1 where anything was."""
    for entry in skipped:
        print(f"skipped {entry.path}: {entry.reason}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} skipped; the others are in the file", file=sys.stderr)
        raise SystemExit(1)
