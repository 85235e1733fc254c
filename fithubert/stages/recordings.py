"""Features and units of a person's own recordings as Parquet files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from fithubert.config.teacher import Device
from fithubert.data.folder import Skipped
from fithubert.data.listing import MAX_SECONDS, ListedRecordings, Listing, list_recordings
from fithubert.errors import UserError
from fithubert.export.find import find_model
from fithubert.models.runtime import choose_device
from fithubert.models.speech_model import SpeechModel
from fithubert.pretrain.discretise import (
    SAMPLE_FRAMES,
    UnitOptions,
    WrittenUnits,
    describe_codebook,
    fit_codebook,
    write_units,
)
from fithubert.pretrain.units import Codebook, CodebookInfo, load_codebook, save_codebook
from fithubert.store.recordings import FeatureSettings, WrittenFeatures, drop_short, make_folder, write_features
from fithubert.store.shards import CPU_BATCH_SECONDS
from fithubert.store.table import DTYPES
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace, check_name

_CLUSTERS = 100
_GPU_BATCH_SECONDS = 120.0


@dataclass(frozen=True)
class DiscretisedRecordings:
    """The written units, their codebook and its folder, and the recordings that were left out."""

    units: WrittenUnits
    codebook: Codebook
    codebook_folder: Path
    skipped: tuple[Skipped, ...]


def write_recording_features(
    workspace: Workspace,
    places: Sequence[Path],
    model: str,
    out: Path,
    layers: Sequence[str] = (),
    dtype: str = "float32",
    device: str = "auto",
    max_seconds: float = MAX_SECONDS,
) -> WrittenFeatures:
    """Write the features of all recordings in `places` to `out` (`store.recordings.write_features`).

    `layers`: numbers or `all`, several with commas; by default the last layer. Raises UserError if a name, a place
    or a layer does not exist.
    """
    check_name(dtype, list(DTYPES), "dtype")
    loaded = _load(workspace, model, device)
    wanted = parse_layers(layers, len(loaded.widths))
    listing = _list(places, max_seconds)
    show = progress_line(f"features of {loaded.name}")

    def on_progress(done_seconds: float, all_seconds: float) -> None:
        show(done_seconds, all_seconds, f"{done_seconds / 60:.1f} min of audio")

    settings = FeatureSettings(wanted, dtype, _batch_seconds(device))
    return write_features(loaded, listing, out, settings, on_progress)


def write_recording_units(
    workspace: Workspace,
    places: Sequence[Path],
    model: str,
    out: Path,
    layer: int | None = None,
    clusters: int | None = None,
    codebook: Path | None = None,
    dedup: bool = False,
    seed: int = 1,
    sample_frames: int = SAMPLE_FRAMES,
    device: str = "auto",
    max_seconds: float = MAX_SECONDS,
) -> DiscretisedRecordings:
    """Write the units of all recordings in `places` to `out`, with `codebook` or one that is fitted on them.

    A fitted one (`clusters`, 100 by default, of `layer`, the last by default) is kept next to `out`, as
    `STEM.codebook`, from which a stopped run resumes. Raises UserError if `out` exists, or a codebook
    is of another model, layer or size.
    """
    if out.exists():
        raise UserError(f"{out}: already exists; delete it, or choose another --out")
    given = None if codebook is None else load_codebook(codebook)
    loaded = _load(workspace, model, device)
    if given is not None:
        for name, wanted, has in (("--layer", layer, given.info.layer), ("--clusters", clusters, given.info.clusters)):
            if wanted not in (None, has):
                raise UserError(f"{name} {wanted}: the codebook {codebook} has {has}; leave {name} out")
    layer = parse_layers(() if layer is None else (str(layer),), len(loaded.widths))[0]
    listing = _list(places, max_seconds)
    recordings, skipped = drop_short(loaded, listing)
    make_folder(out.parent)
    batch_seconds = _batch_seconds(device)
    folder = codebook or out.with_suffix(".codebook")
    if given is None:
        info = describe_codebook(loaded, recordings, layer, clusters or _CLUSTERS, seed, sample_frames)
        given = _provide_codebook(loaded, recordings, info, folder, batch_seconds)
    show, options = progress_line(f"units of {loaded.name}"), UnitOptions(dedup, batch_seconds)
    done = write_units(loaded, recordings, given, out, options, show)
    return DiscretisedRecordings(done, given, folder, skipped)


def parse_layers(texts: Sequence[str], count: int) -> tuple[int, ...]:
    """The layers that `texts` name, of `count`: numbers, several with commas, or `all`; the default is the last.

    Raises UserError for anything else.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    if "all" in parts:
        return tuple(range(count))
    if not parts:
        return (count - 1,)
    try:
        layers = tuple(sorted({int(part) for part in parts}))
    except ValueError:
        raise UserError(f"--layer {','.join(parts)}: give numbers, or `all`") from None
    if not 0 <= layers[0] <= layers[-1] < count:
        there = f"layers 0 to {count - 1}" if count > 1 else "layer 0 alone"
        raise UserError(f"--layer {','.join(parts)}: the model has {there}")
    return layers


def _provide_codebook(
    model: SpeechModel, recordings: ListedRecordings, info: CodebookInfo, folder: Path, batch_seconds: float
) -> Codebook:
    """The codebook of `info` that an interrupted run left in `folder`, or a new one."""
    if folder.exists():
        there = load_codebook(folder)
        if there.info != info:
            raise UserError(
                f"{folder}: a codebook of other settings or recordings; use it with --codebook {folder}, delete it, or "
                "choose another --out"
            )
        return there
    codebook = fit_codebook(model, recordings, info, progress_line(f"clusters of {model.name}"), batch_seconds)
    save_codebook(codebook, folder)
    return codebook


def _load(workspace: Workspace, model: str, device: str) -> SpeechModel:
    check_name(device, get_args(Device), "device")
    return find_model(workspace, model, cast(Device, device))


def _batch_seconds(device: str) -> float:
    """Padded audio in one forward pass."""
    return _GPU_BATCH_SECONDS if choose_device(cast(Device, device)) == "cuda" else CPU_BATCH_SECONDS


def _list(places: Sequence[Path], max_seconds: float) -> Listing:
    return list_recordings(places, max_seconds, on_progress=progress_line("checking recordings"))
