"""Audio files as waveforms: 16 kHz mono FLAC in, float32 tensors out."""

import os
import re
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ


def read_waveform(path: Path | str) -> Tensor:
    """(samples,) float32 in -1..1 of a mono 16 kHz file; any format that libsndfile reads.

    Raises UserError, naming the file, where it is missing, broken, of another rate or of more than one channel.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such audio file")
    try:
        samples, rate_hz = soundfile.read(name_for_soundfile(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UserError(f"{path}: not readable as audio ({why_unreadable(error)})") from None
    if rate_hz != SAMPLE_RATE_HZ:
        raise UserError(f"{path}: sampled at {rate_hz} Hz; 16000 Hz is needed (source `folder` converts)")
    if samples.shape[1] != 1:
        raise UserError(f"{path}: has {samples.shape[1]} channels; mono is needed (source `folder` converts)")
    return torch.from_numpy(samples[:, 0])


def name_for_soundfile(path: Path | str) -> str | bytes:
    """`path` as soundfile takes it, also where it is not valid UTF-8."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def why_unreadable(error: Exception) -> str:
    """The reason in a soundfile error, in one line and without the path, which the caller names."""
    return " ".join(re.sub(r"Error opening .*: ", "", str(error)).split())
