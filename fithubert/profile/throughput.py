"""How fast this machine does what a distillation is made of, in a few seconds of measuring."""

import os
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from fithubert.config.distill import DistillParams, HintParams
from fithubert.config.student import StudentConfig
from fithubert.config.teacher import HubertConfig
from fithubert.distill.hints import HintLoss
from fithubert.distill.optim import build_optimizer
from fithubert.features.axes import Basis, LayerBasis
from fithubert.features.codec import CODECS, layer_codecs
from fithubert.features.writer import encode_layer
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.profile.analytic import analytic_macs
from fithubert.profile.plan import FRAMES_PER_SECOND
from fithubert.profile.timing import torch_threads
from fithubert.student.model import build_student
from fithubert.teachers.hubert import HubertModel, HubertTeacher, remove_weight_norm

_MODEL_SECONDS, _CODEC_SECONDS, _DISK_BYTES = 4.0, 4.0, 64 * 2**20


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


def measure_models(teacher: HubertConfig, student: StudentConfig) -> tuple[float, float]:
    """Seconds of audio a second that this CPU's teacher hears, and that the student's whole updates see."""
    samples = round(_MODEL_SECONDS * SAMPLE_RATE_HZ)
    waveforms, lengths = 0.1 * torch.randn(1, samples), torch.tensor([samples])
    teach = HubertTeacher(remove_weight_norm(HubertModel(teacher)), "teacher")
    heard = teach.extract(waveforms, lengths).hidden_states
    targets = {layer: hidden.clone() for layer, hidden in enumerate(heard)}
    learn, loss = build_student(student), HintLoss(HintParams(), student.heads.layer_map)
    optimizer = build_optimizer(learn, DistillParams())

    def update() -> None:
        projections, frames = learn.hints(waveforms, lengths)
        loss(projections, frames, targets).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return (
        _MODEL_SECONDS / _least_seconds(lambda: teach.extract(waveforms, lengths)),
        _MODEL_SECONDS / _least_seconds(update),
    )


def count_operations(teacher: HubertConfig, student: StudentConfig) -> tuple[float, float]:
    """Floating-point operations for a second of audio: the teacher's forward pass, and the student's update.

    Two for a multiply-accumulate; a backward pass is two forward passes, with all heads.
    """
    seconds = 10
    samples = seconds * SAMPLE_RATE_HZ
    learning = student.model_copy(update={"readout": "projections"})
    teacher_macs, student_macs = (
        sum(analytic_macs(shape, samples).values()) / seconds for shape in (teacher, learning)
    )
    return 2 * teacher_macs, 2 * 3 * student_macs


def _least_seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest of the runs that go into a fifth of a second, of three at least, after one to warm up.

    Other work on the machine only ever adds.
    """
    run()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < 0.2:
        begun = clock()
        run()
        seconds.append(clock() - begun)
    return min(seconds)
