"""How a corpus is put on disk: audio aside and renamed, the manifest last, so that a manifest always has its audio."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from fithubert.files import atomic_directory

RATE_HZ = 16_000


def manifest_path(root: Path) -> Path:
    """Where the manifest of the corpus under `root` (the data directory) lies."""
    return root / "manifests" / "corpus.parquet"


@contextmanager
def new_audio(root: Path) -> Iterator[Path]:
    """An empty directory that becomes `root/audio` where the body ends well; what a killed run left is removed.

    The old manifest goes first: beside audio of another run, later stages would accept it.
    """
    manifest_path(root).unlink(missing_ok=True)
    for leftover in root.glob(".audio.*.part"):
        shutil.rmtree(leftover, ignore_errors=True)
    with atomic_directory(root / "audio") as folder:
        yield folder


def encode_flac(samples: NDArray[np.int16]) -> bytes:
    """Mono samples at 16 kHz as a FLAC file in memory: a full disk is then an OSError of the one write that follows."""
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, RATE_HZ, format="FLAC", subtype="PCM_16")
    return encoded.getvalue()
