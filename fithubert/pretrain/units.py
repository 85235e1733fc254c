"""Discrete units: frames to cluster, the quality of units, and codebooks on disk."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from fithubert.errors import UserError
from fithubert.files import atomic_directory, digest, read_json, write_json
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.importers.codebooks import read_centres
from fithubert.models.windows import Windows
from fithubert.tensors import read_tensors, write_tensors
from fithubert.training.units import UnitModel


def mfcc_frames(waveform: Tensor) -> Tensor:
    """(time, 39) MFCC with first and second differences of one waveform (samples,), every 20 ms, normalised.

    Kaldi's 25 ms windows every 10 ms, then every second frame: frame t covers the samples of HuBERT's frame t.
    Source: HuBERT (Hsu et al. 2021, section IV.B); at least 400 samples. Differs: mean 0 and deviation 1 over the
    utterance, which removes voice and channel from the units (figures in experiments/LOG.md).
    """
    ceps = kaldi.mfcc(waveform[None] * 32768, sample_frequency=SAMPLE_RATE_HZ, dither=0.0).T
    deltas = compute_deltas(ceps)
    frames = torch.cat([ceps, deltas, compute_deltas(deltas)]).T
    centred = frames - frames.mean(0)
    return (centred / centred.square().mean(0).sqrt().clamp(min=1e-3))[::2]


def draw_utterances(num_frames: Sequence[int], sample_frames: int, seed: int) -> list[int]:
    """Indices of utterances in an order drawn by `seed`, until they hold `sample_frames` or all are drawn."""
    drawn, seen = [], 0
    for index in torch.randperm(len(num_frames), generator=torch.Generator().manual_seed(seed)).tolist():
        if seen >= sample_frames:
            break
        drawn.append(index)
        seen += num_frames[index]
    return drawn


@dataclass(frozen=True)
class UnitQuality:
    """The agreement of units with phones, frame by frame (HuBERT, section IV.D); shares of 1."""

    phone_purity: float
    cluster_purity: float
    phone_normalised_mutual_information: float
    units_used: int

    def __str__(self) -> str:
        """In one line, for people."""
        return (
            f"phone purity {self.phone_purity:.1%}, cluster purity {self.cluster_purity:.1%}, "
            f"PNMI {self.phone_normalised_mutual_information:.3f}, {self.units_used} units used"
        )


def measure_units(units: NDArray[np.int64], phones: NDArray[np.int64]) -> UnitQuality:
    """Quality of aligned labels (time,), one unit and one phone a frame; both count from 0."""
    joint = np.zeros((int(units.max()) + 1, int(phones.max()) + 1))
    np.add.at(joint, (units, phones), 1.0)
    joint /= joint.sum()
    unit, phone = joint.sum(1), joint.sum(0)
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / np.outer(unit, phone)[seen])).sum()
    entropy = -(phone[phone > 0] * np.log(phone[phone > 0])).sum()
    return UnitQuality(
        phone_purity=float(joint.max(1).sum()),
        cluster_purity=float(joint.max(0).sum()),
        phone_normalised_mutual_information=float(information / entropy) if entropy > 0 else 0.0,
        units_used=int((unit > 0).sum()),
    )


FORMAT = "fithubert-codebook-1"
_WEIGHTS = "codebook.safetensors"
#: The names in the folder of a codebook.
CODEBOOK_FILES = (_WEIGHTS, "config.json")
_TENSORS = ("centres", "mean", "scale")


@dataclass(frozen=True)
class CodebookInfo:
    """The states that the clusters are of, and how they were fitted.

    `model` is its name and `model_fingerprint` a digest of its weights. `recordings`: a digest of those that the
    clusters were fitted on, at most `sample_frames` frames of them. `windows`: how long ones were cut,
    if any was.
    """

    model: str
    model_fingerprint: str
    layer: int
    clusters: int
    seed: int
    recordings: str
    sample_frames: int
    windows: Windows | None = None


@dataclass(frozen=True)
class Codebook:
    """The clusters of one layer of one model."""

    info: CodebookInfo
    units: UnitModel

    @property
    def fingerprint(self) -> str:
        """A digest of everything that decides a unit."""
        tensors = (self.units.centres, self.units.mean, self.units.scale)
        return digest(self.info.model_fingerprint, str(self.info.layer), *(t.numpy().tobytes() for t in tensors))


def published_codebook(path: Path, model: str, model_fingerprint: str, layer: int, width: int) -> Codebook:
    """The codebook in a file that somebody else published, for a layer (of `width` features) of the model it is of.

    Raises UserError if the file cannot be read (`read_centres`), or has centres of another width.
    """
    centres = read_centres(path)
    clusters, features = centres.shape
    if features != width:
        raise UserError(f"{path}: centres of {features} features, but layer {layer} of {model} has {width}")
    recordings = f"published: {digest(path.read_bytes())}"
    info = CodebookInfo(model, model_fingerprint, layer, clusters, 0, recordings, 0)
    return Codebook(info, UnitModel(centres, torch.zeros(width), torch.ones(width)))


def save_codebook(codebook: Codebook, directory: Path) -> None:
    """Write `codebook` to `directory`, both files or neither."""
    with atomic_directory(directory, CODEBOOK_FILES) as temporary:
        state = {name: getattr(codebook.units, name).contiguous() for name in _TENSORS}
        write_tensors(temporary / _WEIGHTS, state)
        info = {name: value for name, value in asdict(codebook.info).items() if value is not None}
        values = {"format": FORMAT, "fingerprint": codebook.fingerprint, **info}
        write_json(temporary / "config.json", values)


def load_codebook(directory: Path) -> Codebook:
    """The codebook in `directory` (or the one that the file `directory` is a part of).

    Raises UserError if it is missing, broken, or its two files do not belong together.
    """
    directory = directory.parent if directory.is_file() else directory
    values = read_json(directory / "config.json")
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(
            f"{directory / 'config.json'}: not a codebook of `fithubert units` (format {FORMAT!r} expected)"
        )
    path = directory / _WEIGHTS
    state = read_tensors(path)
    try:
        fingerprint = values.pop("fingerprint")
        windows = Windows(**values.pop("windows")) if "windows" in values else None
        codebook = Codebook(CodebookInfo(**values, windows=windows), UnitModel(**state))
        whole = codebook.fingerprint == fingerprint and codebook.units.centres.dtype == torch.float32
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: not readable as a codebook ({error})") from None
    if not whole:
        raise UserError(f"{path}: does not match the config.json next to it")
    return codebook
