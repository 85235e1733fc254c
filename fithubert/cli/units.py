from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from fithubert.errors import UserError

if TYPE_CHECKING:
    from fithubert.models.speech_model import SpeechModel
    from fithubert.pretrain.discretise import WrittenUnits
    from fithubert.pretrain.units import Codebook, CodebookInfo

_CLUSTERS = 100


def units(
    audio: Audio,
    model: Model,
    out: Annotated[Path, typer.Option(help="The Parquet file.")],
    layer: Annotated[int | None, typer.Option(help="The layer; default: that of --codebook, or the last.")] = None,
    clusters: Annotated[int | None, typer.Option(min=1, help="Number of units; default: 100.")] = None,
    codebook: Annotated[
        Path | None,
        typer.Option(help="An existing codebook: a folder, or with --layer a published file (km.bin, .npy, .pt)."),
    ] = None,
    dedup: Annotated[
        bool, typer.Option("--dedup", "--run-length", help="Merge repeated units, and add their durations in frames.")
    ] = False,
    soft: Annotated[bool, typer.Option("--soft", help="Also write soft units: the share of every cluster.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Draws the sample of frames and the first centres.")] = 1,
    sample_frames: Annotated[int, typer.Option(min=1, help="Fit the clusters on at most this many frames.")] = 100_000,
    device: Device = "auto",
    max_seconds: MaxSeconds = 300.0,
    window_seconds: WindowSeconds = 60.0,
    context_seconds: ContextSeconds = None,
    hop_aligned: HopAlignedFrames = False,
) -> None:
    """Write recordings as discrete units: k-means clusters of one layer, like HuBERT's targets and GSLM's tokens.

    One row per recording: path, seconds, frames, frame_rate_hz, units; with --dedup durations in frames; with --soft
    soft, frames x clusters numbers, frame by frame: softmax over the cosines to the clusters divided by 0.1. The
    clusters are fitted on the recordings and kept in `STEM.codebook` next to OUT. With `--codebook`, other recordings
    get the same units. It may be one that others published, such as fairseq's `km.bin` for HuBERT Base, layer 6; it
    is read without running anything in it. The same recordings and seed give the same units. A recording of any length
    fits in memory: see --max-seconds. An unusable one is named and skipped, and the command then ends with status 1.

    Example: `fithubert units recordings/ --model teacher --layer 6 --clusters 100 --out units.parquet`
    """
    with no_stage():
        from fithubert.data.listing import list_recordings
        from fithubert.models.windows import Windows
        from fithubert.pretrain.discretise import UnitOptions, describe_codebook, provide_codebook, write_units
        from fithubert.store.recordings import drop_short, make_folder
        from fithubert.training.progress import progress_line

        if out.exists():
            raise UserError(f"{out}: already exists; delete it, or choose another --out")
        loaded = load_model(model, device, hop_aligned)
        given = None if codebook is None else _load_codebook(codebook, layer, clusters, loaded)
        chosen = parse_layers(() if layer is None else (str(layer),), len(loaded.widths))[0]
        listing = list_recordings(audio, on_progress=progress_line("checking recordings"))
        recordings, skipped = drop_short(loaded, listing)
        make_folder(out.parent)
        windows = Windows(max_seconds, window_seconds, context_seconds)
        how = UnitOptions(dedup, soft, batch_seconds_of(device), windows=windows)
        folder = codebook or out.with_suffix(".codebook")
        if given is None:
            info = describe_codebook(loaded, recordings, chosen, clusters or _CLUSTERS, seed, sample_frames, windows)
            show = progress_line(f"clusters of {loaded.name}")
            given = provide_codebook(loaded, recordings, info, folder, show, how.batch_seconds)
        written = write_units(loaded, recordings, given, out, how, progress_line(f"units of {loaded.name}"))
        print(f"{out}: {_describe(written, given.info)}; codebook {folder}")
        if written.deviation is not None:
            print(written.deviation.describe())
    exit_on_skipped(skipped, listing.hidden)


def _describe(written: "WrittenUnits", info: "CodebookInfo") -> str:
    return (
        f"{written.recordings} recordings, {written.audio_seconds / 60:.1f} min; {written.tokens} units of "
        f"{written.frames} frames, {written.used} of {info.clusters} clusters of layer {info.layer} of {info.model}"
    )


def _load_codebook(path: Path, layer: int | None, clusters: int | None, model: "SpeechModel") -> "Codebook":
    """The codebook in a folder, or a published one for `model`; raises UserError if an option contradicts it."""
    from fithubert.pretrain.units import CODEBOOK_FILES, load_codebook, published_codebook

    if path.is_file() and path.name not in CODEBOOK_FILES:
        if layer is None:
            raise UserError(f"--codebook {path}: a published file does not say its layer; give --layer too")
        layer = parse_layers((str(layer),), len(model.widths))[0]
        found = published_codebook(path, model.name, model.fingerprint, layer, model.widths[layer])
    else:
        found = load_codebook(path)
    for name, wanted, has in (("--layer", layer, found.info.layer), ("--clusters", clusters, found.info.clusters)):
        if wanted not in (None, has):
            raise UserError(f"{name} {wanted}: the codebook {path} has {has}; leave {name} out")
    return found
