"""What a run takes on disk, counted from its parameters, and whether files are shared with DVC's cache."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fithubert.config.data import SyntheticData
from fithubert.config.params import Params
from fithubert.config.teacher import HubertConfig, hubert_base
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.importers.registry import MINI_DIRECTORY
from fithubert.models.fbank import FbankModel
from fithubert.models.recipes import fithubert, resolve
from fithubert.models.states import read_widths
from fithubert.models.student import build_student
from fithubert.profile.budget import bytes_per_hour
from fithubert.profile.plan import show_bytes
from fithubert.workspace import Workspace

_WAVEFORM_BYTES_PER_HOUR = 2 * 3600 * SAMPLE_RATE_HZ
_PAPER_HOURS, _PAPER_CODEC = 960.0, "pca_int8"
_FICLONE = 0x40049409


def default_bytes(params: Params, workspace: Workspace) -> dict[str, float] | None:
    """Bytes of a whole run by what they are for, rather too many; None where the corpus is not known yet."""
    try:
        hours = params.data.hours if isinstance(params.data, SyntheticData) else workspace.load_manifest().hours
    except UserError:
        return None
    shape = _teacher_shape(params, workspace)
    cached = shape.depth + 1 if params.cache.layers == "all" else len(params.cache.layers)
    live = params.distill.targets == "live"
    stored = sum(_count_features(params, shape, model) for model in params.superb.models)
    audio = _WAVEFORM_BYTES_PER_HOUR if params.data.source in ("synthetic", "folder") else 0
    parts = {
        "audio": audio * hours,
        "cache": 0.0 if live else bytes_per_hour(params.cache.codec, cached, shape.width) * hours,
        "features": stored * hours,
    }
    return {name: size for name, size in parts.items() if size}


def paper_bytes() -> float:
    """Bytes of the cache of FitHuBERT-960h, as its preset has it."""
    layers = {layer for _, layer in fithubert().heads.layer_map}
    return bytes_per_hour(_PAPER_CODEC, len(layers), hubert_base().width) * _PAPER_HOURS


def show_shares(parts: Mapping[str, float]) -> str:
    """The parts in words."""
    return ", ".join(f"{name} {show_bytes(size)}" for name, size in parts.items())


def find_link_type(cache: Path, workspace: Path, types: Sequence[str]) -> str:
    """The first of `types` by which a file of `cache` becomes one of `workspace`, tried with files that are gone again.

    Raises OSError where the cache cannot be written.
    """
    while not cache.exists():
        cache = cache.parent
    with (
        tempfile.TemporaryDirectory(prefix=".doctor-", dir=cache) as there,
        tempfile.TemporaryDirectory(prefix=".doctor-", dir=workspace) as here,
    ):
        source = Path(there) / "file"
        source.write_bytes(b"x" * 4096)
        makers = {"reflink": _reflink, "hardlink": os.link, "symlink": os.symlink}
        for name in types:
            make: Any = makers.get(name)
            try:
                if make is not None:
                    make(source, Path(here) / name)
                    return name
            except OSError:
                continue
    return "copy"


def _reflink(source: Path, target: Path) -> None:
    try:
        import fcntl
    except ImportError:
        raise OSError("no reflinks here") from None
    with source.open("rb") as read, target.open("wb") as written:
        fcntl.ioctl(written, _FICLONE, read.fileno())


def _teacher_shape(params: Params, workspace: Workspace) -> HubertConfig:
    """The prepared teacher's shape, the embedded one's, or HubertBase's where it is not known yet."""
    for folder in [workspace.teacher, *([MINI_DIRECTORY] if params.teacher.source == "mini" else [])]:
        if (folder / "config.json").is_file():
            return HubertConfig.model_validate(read_json(folder / "config.json")["model"])
    return hubert_base()


def _count_features(params: Params, shape: HubertConfig, model: str) -> float:
    """Bytes of an hour of what SUPERB reads from `model`."""
    codec, rate = params.extract.codec, 1
    if model == "teacher":
        layers, width = shape.depth + 1, shape.width
    elif model == "fbank":
        layers, width, rate = 1, FbankModel.widths[0], 2
    else:
        student = params.students[model]
        widths = read_widths(build_student(resolve(student.recipe, student.shape).released()))
        layers, width = len(widths), widths[0]
    return rate * (bytes_per_hour(codec, layers, width) - _WAVEFORM_BYTES_PER_HOUR)
