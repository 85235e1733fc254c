"""Cutting silences out: against what sox wrote, against sox where it is installed, and against a plain machine."""

import math
import shutil
import subprocess
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.data.audio import HOLD_SAMPLES, find_sound, trim_silence
from fithubert.data.manifest import Manifest, Utterance, load_manifest

EFFECTS = ["channels", "1", "rate", "16000", "gain", "-3.0", "silence", "1", "0.1", "0.1%", "-1", "0.1", "0.1%"]
#: (amplitude, samples) of alternating samples; how many sox 14.4.2 leaves of them, and their CRC-32 as 32-bit integers.
WRITTEN_BY_SOX = {
    "two words": ([(0, 4000), (3000, 5000), (0, 2400), (900, 6000), (10, 3000)], 11638, 1053529291),
    "a short pause stays": ([(500, 3000), (0, 1700), (500, 3000)], 7698, 1307980113),
    "a long pause goes": ([(500, 3000), (0, 2100), (500, 3000)], 6313, 3607490760),
    "clicks are not sound": ([(0, 2000), (20000, 800), (0, 3000), (20000, 300), (0, 3000)], 0, 0),
    "at the threshold": ([(46, 4000), (47, 4000), (46, 4000), (46, 100), (47, 5000), (0, 1000)], 10049, 4215480788),
    "the end is kept": ([(200, 2000), (0, 1650)], 3633, 440753724),
    "silence": ([(0, 5000)], 0, 0),
}
PARTS = st.lists(
    st.tuples(st.sampled_from([0, 1, 46, 47, 48, 300, 9000, 30000]), st.integers(1, 4000)), min_size=1, max_size=9
)


def make_pcm(parts: list[tuple[int, int]]) -> np.ndarray:
    return np.concatenate([amplitude * (-1) ** np.arange(count) for amplitude, count in parts]).astype(np.int16)


def to_sox(pcm: np.ndarray) -> np.ndarray:
    """The 32-bit integers that sox's gain of -3 dB makes of 16-bit samples."""
    loud = pcm.astype(np.float64) * 65536 * math.exp(-3 * math.log(10) * 0.05)
    return np.trunc(loud + np.copysign(0.5, loud))


def keep(samples: np.ndarray) -> np.ndarray:
    return np.concatenate([samples[:0], *(samples[first:last] for first, last in find_sound(samples))])


@pytest.mark.parametrize("name", WRITTEN_BY_SOX)
def test_what_is_left_is_what_sox_leaves(name: str) -> None:
    parts, length, checksum = WRITTEN_BY_SOX[name]
    pcm = make_pcm(parts)
    kept = keep(to_sox(pcm)).astype("<i4")
    assert (len(kept), zlib.crc32(kept.tobytes())) == (length, checksum)
    waveform = torch.from_numpy(pcm.astype(np.float32) / 32768)
    trimmed = trim_silence(waveform, -3.0)
    assert len(trimmed) == length
    assert torch.equal((trimmed.double() * 2**31 * 10**-0.15).round(), torch.from_numpy(kept).double())


@pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed")
@pytest.mark.parametrize("seed", range(6))
def test_noise_of_all_levels_is_cut_as_by_sox(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    levels = 10 ** np.where(rng.random(40) < 0.7, rng.uniform(-4.5, -1, 40), rng.uniform(-3.2, -2.9, 40))
    noise = np.repeat(levels, rng.integers(1, 9000, 40))
    pcm = np.round(noise * rng.normal(size=len(noise)) * 32767).clip(-32768, 32767).astype(np.int16)
    soundfile.write(tmp_path / "in.wav", pcm, 16_000, subtype="PCM_16")
    command = ["sox", "-D", "in.wav", "-b", "32", "-e", "signed", "out.wav", *EFFECTS]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    expected, _ = soundfile.read(tmp_path / "out.wav", dtype="int32")
    np.testing.assert_array_equal(keep(to_sox(pcm)), expected)
    assert 0 < len(expected) < len(pcm)


def plain_runs(samples: np.ndarray) -> list[tuple[int, int]]:
    """The same sample by sample: a machine that looks for sound, then for silence."""
    runs, start, window, total, loud_run, quiet_run = [], -1, [0.0] * 320, 0.0, 0, 0
    for place, sample in enumerate(samples.tolist()):
        total -= window.pop(0)
        total += sample * sample
        window.append(sample * sample)
        loud = total >= 0 and int(math.sqrt(total / 320)) / (2**31 - 1) * 100 > 0.1
        loud_run, quiet_run = (loud_run + 1, 0) if loud else (0, quiet_run + 1)
        if start < 0 and loud_run == HOLD_SAMPLES:
            start, quiet_run = place + 1 - HOLD_SAMPLES, 0
        elif start >= 0 and quiet_run == HOLD_SAMPLES:
            runs.append((start, place + 1 - HOLD_SAMPLES))
            start, window, total, loud_run = -1, [0.0] * 320, 0.0, 0
    return [*runs, (start, len(samples))] if start >= 0 else runs


@settings(deadline=None, max_examples=25)
@given(PARTS)
def test_blocks_equal_the_plain_machine(parts: list[tuple[int, int]]) -> None:
    samples = to_sox(make_pcm(parts))
    runs = find_sound(samples)
    assert runs == plain_runs(samples)
    assert all(last - first >= HOLD_SAMPLES for first, last in runs)
    assert all(before[1] + HOLD_SAMPLES <= after[0] for before, after in pairwise(runs))


def test_an_utterance_is_read_without_its_silences(tmp_path: Path) -> None:
    pcm = make_pcm([(0, 4000), (3000, 5000), (0, 3000), (900, 6000)])
    soundfile.write(tmp_path / "a.wav", pcm, 16_000, subtype="PCM_16")
    whole = torch.from_numpy(pcm.astype(np.float32) / 32768)
    trimmed = trim_silence(whole, -3.0)
    rows = [
        Utterance("whole", "a.wav", "0", "train", "sentence", len(pcm), gain_db=-3.0),
        Utterance("trimmed", "a.wav", "0", "train", "sentence", len(trimmed), gain_db=-3.0, trimmed=True),
        Utterance(
            "part", "a.wav", "0", "train", "sentence", 900, first_sample=4800, gain_db=-3.0, trimmed=True
        ),
    ]  # fmt: skip
    manifest = Manifest(tuple(rows), tmp_path)
    manifest.save(tmp_path / "data" / "manifests" / "corpus.parquet")
    reloaded = load_manifest(tmp_path / "data" / "manifests" / "corpus.parquet")
    assert reloaded.utterances == manifest.utterances
    assert manifest.fingerprint != Manifest((rows[0],) * 3, tmp_path).fingerprint
    scale = 10**-0.15
    for row, expected in zip(rows, (whole, trimmed, trimmed[4800:5700]), strict=True):
        torch.testing.assert_close(reloaded.read(row), expected * scale)
