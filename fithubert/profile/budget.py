"""Bytes and hours of a distillation, from measured speeds."""

import os
import secrets
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from fithubert.config.hints import HintParams
from fithubert.config.params import DistillParams
from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig
from fithubert.distill.hints import HintLoss
from fithubert.frames import HUBERT_CONVOLUTIONS, SAMPLE_RATE_HZ, frame_rate_hz
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.macs import count_macs
from fithubert.models.student import build_student
from fithubert.store.codec import CODECS, Basis, LayerBasis, encode_layer, layer_codecs
from fithubert.training.progress import OnPass, count_passes, nothing_said
from fithubert.training.updates import OptimizerSettings, build_optimizer
from fithubert.workers import torch_threads

_MODEL_SECONDS, _CODEC_SECONDS, _DISK_BYTES = 4.0, 4.0, 64 * 2**20
#: Blocks of runs of a measurement, with the first, which warms up.
_BLOCKS = 4


def measure_codecs(layers: int, width: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of audio a second that one thread encodes and decodes, codec -> speed, with `layers` of `width`.

    The codec alone, without Parquet around it, in the thread's own seconds: what else the machine does has no part in
    them. A fitted codec keeps every axis here, which is the most that it may.
    """
    generator = torch.Generator().manual_seed(0)
    frames = round(_CODEC_SECONDS * FRAMES_PER_SECOND)
    hidden, out = torch.randn(frames, width, generator=generator), torch.empty(frames, width)
    axes = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    basis = Basis({0: LayerBasis(torch.zeros(width), axes, 0.01, 1.0)})
    encode, read = {}, {}
    with torch_threads(1):
        for name, kind in CODECS.items():
            (codec,) = layer_codecs(name, (0,), basis if kind.fitted else None)
            value = codec.encode(hidden)[0]
            encoding = _least_seconds(partial(encode_layer, hidden, codec), time.thread_time)
            decoding = _least_seconds(partial(codec.decode, value, 0, out), time.thread_time)
            encode[name], read[name] = (_CODEC_SECONDS / (layers * seconds) for seconds in (encoding, decoding))
    return encode, read


def measure_disk(folder: Path) -> float:
    """Bytes a second that are written to the disk of `folder`, synced."""
    path, block = folder / f".speed-{secrets.token_hex(4)}.part", os.urandom(_DISK_BYTES)

    def write() -> None:
        with path.open("wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())

    try:
        return _DISK_BYTES / _least_seconds(write)
    finally:
        path.unlink(missing_ok=True)


def measure_models(
    teacher: HubertConfig, student: StudentConfig, on_pass: OnPass = nothing_said
) -> tuple[float, float]:
    """Seconds of audio per second on this CPU: of the teacher, and of whole updates of the student."""
    samples = round(_MODEL_SECONDS * SAMPLE_RATE_HZ)
    waveforms, lengths = 0.1 * torch.randn(1, samples), torch.tensor([samples])
    teach = HubertTeacher(prepare_for_inference(HubertModel(teacher)), "teacher")
    states = teach(waveforms, lengths).hidden_states
    targets = {layer: hidden.clone() for layer, hidden in enumerate(states)}
    learn, loss = build_student(student), HintLoss(HintParams(), student.heads.layer_map)
    params = DistillParams()
    optimizer = build_optimizer(learn, OptimizerSettings(params.learning_rate, params.weight_decay))

    def update() -> None:
        projections, frames, *_ = learn.hints(waveforms, lengths)
        loss(projections, frames, targets).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    runs: list[Callable[[], object]] = [lambda: teach(waveforms, lengths), update]
    finish = count_passes(_BLOCKS * len(runs), on_pass)
    least = [_least_seconds(run, on_block=finish) for run in runs]
    return _MODEL_SECONDS / least[0], _MODEL_SECONDS / least[1]


def count_operations(teacher: HubertConfig, student: StudentConfig) -> tuple[float, float]:
    """Floating-point operations for a second of audio: the teacher's forward pass, and the student's update.

    Two for a multiply-accumulate; a backward pass is two forward passes, with all heads.
    """
    seconds = 10
    samples = seconds * SAMPLE_RATE_HZ
    heads = student.heads.model_copy(update={"read": ()})
    learning = student.model_copy(update={"readout": "projections", "heads": heads})
    teacher_macs, student_macs = (sum(count_macs(shape, samples).values()) / seconds for shape in (teacher, learning))
    return 2 * teacher_macs, 2 * 3 * student_macs


def _least_seconds(
    run: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    on_block: Callable[[], object] = lambda: None,
) -> float:
    """Seconds of one run: the least of the blocks of runs after the first, a single run. Other work only ever adds.

    A block lasts a fifteenth of a second at least, since a thread's clock may move on in steps of 10 ms. `on_block` is
    called after each.
    """
    run()
    on_block()
    timer, runs = timeit.Timer(run, timer=clock), 1
    while (least := timer.timeit(runs)) < 1 / 15:
        runs *= 2
    on_block()
    for _ in range(_BLOCKS - 2):
        least = min(least, timer.timeit(runs))
        on_block()
    return least / runs


FRAMES_PER_SECOND = frame_rate_hz(HUBERT_CONVOLUTIONS)
#: An utterance of LibriSpeech, on average: what is stored once per utterance is spread over it.
_UTTERANCE_FRAMES = 600
#: Bits a value that are left of a fitted codec at 1 % of error: it depends on the teacher, and this is
#: reports/benchmarks/store.md's for layers as wide as HuBERT Base's.
FITTED_BITS = 5.95


@dataclass(frozen=True)
class Job:
    """`hours` of speech, read `epochs` times; `layers` of the teacher, `width` features each, are learnt from.

    `gpus` that share the work; 0: this machine's CPU, which then reads with the cores that it trains with.
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
    """Bytes on disk of an hour of speech with its waveform; for a fitted codec by `FITTED_BITS`."""
    frames = 3600 * FRAMES_PER_SECOND
    if CODECS[codec].fitted:
        hidden = frames * layers * width * FITTED_BITS / 8
    else:
        (chosen,) = layer_codecs(codec, (0,), None)
        hidden = frames / _UTTERANCE_FRAMES * layers * chosen.count_bytes(_UTTERANCE_FRAMES, width)
    return hidden + 2 * 3600 * SAMPLE_RATE_HZ


def cost_of_cache(job: Job, speeds: Speeds, codec: str) -> TargetCost:
    """Write the teacher's layers once, on all devices as `fithubert cache` does; read them in every epoch.

    Computing and reading run at the same time, so that the slower one decides. A GPU's batches are read during its
    updates as well, by one thread, as the trainer does.
    """
    size = bytes_per_hour(codec, job.layers, job.width) * job.hours
    devices = max(1, job.gpus)
    disk_hours = size / speeds.disk_bytes / 3600
    extraction = (1 / speeds.teacher + 1 / speeds.encode[codec]) * job.hours / devices
    update, read = (job.hours / devices / speed for speed in (speeds.student, speeds.read[codec]))
    waits = {"updates": update, "reading": read} if job.gpus else {"updates": update + read}
    waits["the disk"] = disk_hours
    slowest = max(waits, key=lambda name: waits[name])
    return TargetCost(codec, size, max(extraction, disk_hours), waits[slowest], slowest, job.epochs)


def cost_of_live(job: Job, speeds: Speeds) -> TargetCost:
    """Run the teacher again in every epoch, on the device that trains."""
    epoch = (1 / speeds.teacher + 1 / speeds.student) * job.hours / max(1, job.gpus)
    return TargetCost("live", 0.0, 0.0, epoch, "teacher, updates", job.epochs)


def break_even_epochs(cached: TargetCost, live: TargetCost) -> float:
    """The number of epochs up to which live targets take less time than cached ones; infinite if they always do."""
    saved = live.epoch_hours - cached.epoch_hours
    return cached.extraction_hours / saved if saved > 0 else float("inf")


def fit_updates(cost: TargetCost, hours: float, budget_hours: float, batch_seconds: float) -> int:
    """Updates of `batch_seconds` that `budget_hours` leave after the extraction; at most 100 epochs of `hours`.

    A fifth of the budget is for all else: first weights, evaluations, the profile.
    """
    update_seconds = cost.epoch_hours / hours * batch_seconds
    left_seconds = (_TRAINING_SHARE * budget_hours - cost.extraction_hours) * 3600
    most = _MOST_EPOCHS * hours * 3600 / batch_seconds
    return max(0, int(min(left_seconds / update_seconds, most)))


_TRAINING_SHARE = 0.8
#: The published students saw their speech 100 times.
_MOST_EPOCHS = 100
