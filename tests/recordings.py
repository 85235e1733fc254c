"""Recordings to write to a folder."""

from pathlib import Path

import numpy as np
import soundfile


def write_noise(
    path: Path, seconds: float, rate_hz: int = 16_000, channels: int = 1, subtype: str | None = None
) -> Path:
    """Noise that depends on the file's name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(path.name.encode()))
    samples = 0.1 * generator.standard_normal((round(seconds * rate_hz), channels))
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def write_folder(root: Path, count: int = 12) -> Path:
    """Recordings of 0.1 to 4 s, some nested, of several rates."""
    for index in range(count):
        name = f"{'nested/deeper/' if index % 3 == 0 else ''}r{index:02d}.{'flac' if index % 2 else 'wav'}"
        write_noise(root / name, 0.1 + 3.9 * (index * 7 % count) / count, (16_000, 8_000, 44_100)[index % 3])
    return root
