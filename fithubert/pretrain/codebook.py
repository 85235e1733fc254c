"""The clusters that frames are told apart by, on disk: config.json + codebook.safetensors."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fithubert.errors import UserError
from fithubert.files import atomic_directory, digest, read_json, write_json
from fithubert.pretrain.units import UnitModel

FORMAT = "fithubert-codebook-1"
_WEIGHTS = "codebook.safetensors"
_TENSORS = ("centres", "mean", "scale")


@dataclass(frozen=True)
class CodebookInfo:
    """Which states the clusters are of, and how they were found.

    `model` is its name and `model_fingerprint` a digest of its weights. `recordings`: a digest of those that the
    clusters were fitted on, at most `sample_frames` frames of them.
    """

    model: str
    model_fingerprint: str
    layer: int
    clusters: int
    seed: int
    recordings: str
    sample_frames: int


@dataclass(frozen=True)
class Codebook:
    """The clusters of one layer of one model."""

    info: CodebookInfo
    units: UnitModel

    @property
    def fingerprint(self) -> str:
        """A digest of all that decides a unit."""
        tensors = (self.units.centres, self.units.mean, self.units.scale)
        return digest(self.info.model_fingerprint, str(self.info.layer), *(t.numpy().tobytes() for t in tensors))


def save_codebook(codebook: Codebook, directory: Path) -> None:
    """Write `codebook` to `directory`, both files or neither."""
    with atomic_directory(directory) as aside:
        state = {name: getattr(codebook.units, name).contiguous() for name in _TENSORS}
        save_file(state, aside / _WEIGHTS, metadata={"format": "pt"})
        values = {"format": FORMAT, "fingerprint": codebook.fingerprint, **asdict(codebook.info)}
        write_json(aside / "config.json", values)


def load_codebook(directory: Path) -> Codebook:
    """The codebook in `directory` (or the one that the file `directory` is a part of).

    Raises UserError where it is missing, broken, or its two files do not belong together.
    """
    directory = directory.parent if directory.is_file() else directory
    values = read_json(directory / "config.json")
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise UserError(
            f"{directory / 'config.json'}: not a codebook of `fithubert units` (format {FORMAT!r} expected)"
        )
    path = directory / _WEIGHTS
    try:
        state = load_file(path)
        fingerprint = values.pop("fingerprint")
        codebook = Codebook(CodebookInfo(**values), UnitModel(**state))
        whole = codebook.fingerprint == fingerprint and codebook.units.centres.dtype == torch.float32
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not readable as a codebook ({error})") from None
    if not whole:
        raise UserError(f"{path}: is not what config.json beside it describes")
    return codebook
