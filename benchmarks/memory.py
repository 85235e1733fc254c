"""How much memory an epoch takes, from one hour of cache to a hundred.

Each size is read in a process of its own. Features are narrow (two layers of 96 int8 values, no audio), a 48th of
HuBERT Base's twelve layers, so that a hundred hours fit on any disk. Row groups and the reader's cache are as much
smaller, so that each holds as much audio as it does at full size; an hour is already more than the cache holds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import write_tables
from fithubert.data.batching import plan_batches
from fithubert.files import digest
from fithubert.frames import HUBERT_CONVOLUTIONS, SAMPLE_RATE_HZ, count_conv_frames
from fithubert.models.speech_model import Locality, SpeechOutput
from fithubert.store import shards as plan
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import CACHE_BYTES, FeatureStore
from fithubert.training.updates import prefetch

_WIDTHS = (96, 96)
#: Of HuBERT Base's twelve layers of 768.
_NARROWER = 12 * 768 // sum(_WIDTHS)


class NarrowModel:
    """Two narrow layers that cost nothing to compute."""

    name, widths, convolutions, fingerprint = "narrow", _WIDTHS, HUBERT_CONVOLUTIONS, digest("narrow")
    frame_multiple, locality = 1, Locality()

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """Hidden states as of any speech model."""
        frames = count_conv_frames(lengths, self.convolutions)
        shape = (len(lengths), int(frames.max()), _WIDTHS[0])
        return SpeechOutput((torch.rand(shape), torch.rand(shape)), frames)


@dataclass(frozen=True)
class SilentUtterance:
    """An utterance without audio."""

    id: str
    num_samples: int


@dataclass(frozen=True)
class SilentCorpus:
    """As many utterances as there are in `hours`, of 1 to 20 s, about 12 s each."""

    utterances: tuple[SilentUtterance, ...]

    @classmethod
    def of_hours(cls, hours: float) -> "SilentCorpus":
        """The corpus."""
        generator = torch.Generator().manual_seed(0)
        seconds = (torch.randn(int(hours * 300), generator=generator) * 4 + 12).clamp(1, 20)
        samples = (seconds * SAMPLE_RATE_HZ).int().tolist()
        return cls(tuple(SilentUtterance(f"{i:06d}", n) for i, n in enumerate(samples)))

    @property
    def fingerprint(self) -> str:
        """A digest of the number of utterances, which decides all."""
        return digest("silent", str(len(self.utterances)))

    def read(self, utterance: SilentUtterance) -> Tensor:
        """Silence."""
        return torch.zeros(utterance.num_samples)


def read_epoch(directory: Path, shuffle: str) -> dict[str, Any]:
    """What one epoch of 32 s batches in crops of 8 s takes: memory of this process, and bytes read for one used."""
    torch.set_num_threads(1)
    before = _resident_mb()
    store = FeatureStore.open(directory, cache_bytes=CACHE_BYTES // _NARROWER)
    opened = _resident_mb()
    batches = plan_batches(
        store.num_frames,
        batch_frames=1600,
        crop_frames=400,
        seed=1,
        epoch=0,
        group_of=store.shards if shuffle == "shards" else None,
    )
    frames, loaded = 0, _bytes_read()
    marks = []
    for number, batch in enumerate(prefetch((store.read_batch(crops) for crops in batches), 4)):
        frames += int(batch.frame_lengths.sum())
        if number in (len(batches) // 2, len(batches) - 1):
            marks.append(_resident_mb())
    return {
        "hours": round(sum(store.num_samples) / SAMPLE_RATE_HZ / 3600),
        "utterances": len(store),
        "shuffle": shuffle,
        "process MB": before,
        "opened MB": opened,
        "half an epoch MB": marks[0],
        "an epoch MB": marks[-1],
        "bytes read for one used": (_bytes_read() - loaded) / (frames * sum(_WIDTHS)),
    }


def _bytes_read() -> int:
    """The bytes that this process has read from files."""
    return int(Path("/proc/self/io").read_text(encoding="utf-8").split("rchar:")[1].split()[0])


def _resident_mb() -> float:
    """The most memory that this process has had resident; Linux alone says it apart from the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Measure and write reports/benchmarks/memory.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    parser.add_argument("--read", nargs=2, metavar=("STORE", "SHUFFLE"), help="one measurement, as JSON")
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read_epoch(Path(options.read[0]), options.read[1])))
        return
    plan.ROW_GROUP_BYTES //= _NARROWER
    settings = ExtractSettings(batch_seconds=600.0, with_waveform=False)
    rows = []
    for hours in options.hours:
        with tempfile.TemporaryDirectory() as folder:
            corpus: Any = SilentCorpus.of_hours(hours)
            extract_features(NarrowModel(), corpus, Path(folder), settings)
            for shuffle in ("shards", "corpus"):
                command = [sys.executable, "-m", "benchmarks.memory", "--read", folder, shuffle]
                rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    words = " ".join((__doc__ or "").split("\n\n")[1].split())
    write_tables("memory", "Memory of an epoch", {words: rows})


if __name__ == "__main__":
    main()
