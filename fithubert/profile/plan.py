"""What a distillation will take, on paper: bytes and hours with cached targets in any codec, and with live ones."""

from collections.abc import Mapping
from dataclasses import dataclass

from fithubert.features.codec import CODECS, layer_codecs
from fithubert.frames import HUBERT_CONVOLUTIONS, SAMPLE_RATE_HZ, receptive_field

FRAMES_PER_SECOND = SAMPLE_RATE_HZ / receptive_field(HUBERT_CONVOLUTIONS)[1]
#: An utterance of LibriSpeech, on average: what is stored once per utterance is spread over it.
_UTTERANCE_FRAMES = 600
#: Bits a value that are left of a fitted codec at 1 % of error: it depends on the teacher, and this is
#: reports/benchmarks/store.md's for layers as wide as HuBERT Base's.
FITTED_BITS = 5.95


@dataclass(frozen=True)
class Job:
    """`hours` of speech, heard `epochs` times; `layers` of the teacher, `width` features each, are learnt from.

    `gpus` that share an epoch; 0: this machine's CPU, which then reads with the cores that it trains with.
    """

    hours: float
    epochs: float
    gpus: int
    layers: int
    width: int


@dataclass(frozen=True)
class Speeds:
    """Seconds of audio a second. `teacher`: one device's forward pass; `student`: one device's whole update.

    `encode` and `read`: codec -> one thread, all layers. `disk_bytes`: bytes a second, either way, shared by all.
    """

    teacher: float
    student: float
    encode: Mapping[str, float]
    read: Mapping[str, float]
    disk_bytes: float


@dataclass(frozen=True)
class TargetCost:
    """What one kind of targets takes. `targets`: a codec, or `live`, which stores nothing.

    `slowest`: what an epoch waits for.
    """

    targets: str
    num_bytes: float
    extraction_hours: float
    epoch_hours: float
    slowest: str
    epochs: float

    @property
    def total_hours(self) -> float:
        """Extraction, and all epochs."""
        return self.extraction_hours + self.epochs * self.epoch_hours


def bytes_per_hour(codec: str, layers: int, width: int) -> float:
    """Bytes on disk of an hour of speech with its waveform; of a fitted codec what `FITTED_BITS` says."""
    frames = 3600 * FRAMES_PER_SECOND
    if CODECS[codec].fitted:
        hidden = frames * layers * width * FITTED_BITS / 8
    else:
        (chosen,) = layer_codecs(codec, (0,), None)
        hidden = frames / _UTTERANCE_FRAMES * layers * chosen.count_bytes(_UTTERANCE_FRAMES, width)
    return hidden + 2 * 3600 * SAMPLE_RATE_HZ


def cost_of_cache(job: Job, speeds: Speeds, codec: str) -> TargetCost:
    """Write the teacher's layers once, on one device as `fithubert cache` does; read them in every epoch.

    Computing and the disk go on beside each other, so that the slower decides. A GPU's batches are read beside its
    updates as well, by one thread, as the trainer does.
    """
    size = bytes_per_hour(codec, job.layers, job.width) * job.hours
    devices = max(1, job.gpus)
    disk_hours = size / speeds.disk_bytes / 3600
    extraction = (1 / speeds.teacher + 1 / speeds.encode[codec]) * job.hours
    update, read = (job.hours / devices / speed for speed in (speeds.student, speeds.read[codec]))
    waits = {"updates": update, "reading": read} if job.gpus else {"updates": update + read}
    waits["the disk"] = disk_hours
    slowest = max(waits, key=lambda name: waits[name])
    return TargetCost(codec, size, max(extraction, disk_hours), waits[slowest], slowest, job.epochs)


def cost_of_live(job: Job, speeds: Speeds) -> TargetCost:
    """Hear the teacher again in every epoch, on the device that trains."""
    epoch = (1 / speeds.teacher + 1 / speeds.student) * job.hours / max(1, job.gpus)
    return TargetCost("live", 0.0, 0.0, epoch, "teacher, updates", job.epochs)


def break_even_epochs(cached: TargetCost, live: TargetCost) -> float:
    """The number of epochs up to which live targets take less time than cached ones; infinite where they always do."""
    saved = live.epoch_hours - cached.epoch_hours
    return cached.extraction_hours / saved if saved > 0 else float("inf")
