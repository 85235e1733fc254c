"""An estimate of what a distillation takes, from a few seconds of measurements on this machine."""

import shutil
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig, hubert_base
from fithubert.errors import UserError
from fithubert.files import format_bytes
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertTeacher
from fithubert.models.recipes import resolve
from fithubert.profile.budget import (
    FITTED_BITS,
    Job,
    Speeds,
    TargetCost,
    break_even_epochs,
    cost_of_cache,
    cost_of_live,
    count_operations,
    measure_codecs,
    measure_disk,
    measure_models,
)
from fithubert.store.codec import CODECS, find_codec
from fithubert.training.progress import OnPass, nothing_said


@dataclass(frozen=True)
class Plan:
    """A row of text per kind of targets, what decides between cached and live, and where every speed comes from."""

    rows: tuple[dict[str, str], ...]
    verdict: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class PlannedRun:
    """The distillation to plan. `gpus`: how many share the work; 0 is the CPU. `folder`: on the disk of the cache.

    `codec`: the one to compare with live targets; None: the fastest.
    """

    hours: float
    teacher: str
    student: str
    codec: str | None
    gpus: int
    epochs: float
    folder: Path


@dataclass(frozen=True)
class KnownSpeeds:
    """Speeds that need no measurement: models in seconds of audio per second and device, the disk in MB/s.

    `gpu_tflops` is an assumption: the speed of a GPU from which unknown speeds of models are derived.
    """

    teacher: float | None = None
    student: float | None = None
    disk: float | None = None
    gpu_tflops: float = 20.0


_MEASURE_ALL = KnownSpeeds()


def plan(run: PlannedRun, known: KnownSpeeds = _MEASURE_ALL, on_pass: OnPass = nothing_said) -> Plan:
    """Bytes and hours of a distillation for every codec and for live targets, and when live targets are better.

    Unknown speeds of models are measured on this CPU, or derived from `known.gpu_tflops` for a GPU. Raises UserError
    for an unknown teacher, student or codec, and for numbers that are not positive.
    """
    hours, teacher, student, codec, gpus, folder = run.hours, run.teacher, run.student, run.codec, run.gpus, run.folder
    _check_positive(hours=hours, epochs=run.epochs, gpu_tflops=known.gpu_tflops)
    _check_positive(teacher_speed=known.teacher, student_speed=known.student, disk_speed=known.disk)
    if gpus < 0:
        raise UserError(f"--gpus: must be 0, for the CPU, or more (given {gpus})")
    if codec is not None:
        find_codec(codec)
    shape = _teacher_shape(teacher)
    config = resolve(student, {"heads": {"teacher_width": shape.width}})
    layers = {layer for _, layer in config.heads.layer_map}
    if max(layers) > shape.depth:
        raise UserError(f"--student: {student} learns from layer {max(layers)}, and {teacher} has {shape.depth}")
    job = Job(hours, run.epochs, gpus, len(layers), shape.width)
    of_models = model_speeds(shape, config, (known.teacher, known.student), gpus, known.gpu_tflops, on_pass)
    (teacher_speed, said_teacher), (student_speed, said_student) = of_models
    encode, read = measure_codecs(len(layers), shape.width)
    disk = measure_disk(folder) if known.disk is None else known.disk * 1e6
    speeds = Speeds(teacher_speed, student_speed, encode, read, disk)
    costs, live = [cost_of_cache(job, speeds, name) for name in CODECS], cost_of_live(job, speeds)
    fastest = min(costs, key=lambda cost: cost.total_hours)
    chosen = fastest if codec is None else next(cost for cost in costs if cost.targets == codec)
    used = chosen.targets
    said_disk = "measured by writing here; taken for reading too" if known.disk is None else "given"
    many = f"; {gpus} GPU(s) share the extraction and an epoch, each with its own process" if gpus else ""
    return Plan(
        tuple(_row(cost, live) for cost in [*costs, live]),
        _verdict(chosen, live, shutil.disk_usage(folder).free),
        (
            f"teacher {teacher}: {_show_speed(teacher_speed)} real time a device ({said_teacher})",
            f"student {student}, an update: {_show_speed(student_speed)} real time a device ({said_student})",
            f"{used}, {len(layers)} layers: one thread encodes {_show_speed(encode[used])} and decodes "
            f"{_show_speed(read[used])} real time (measured on this CPU; taken for each process anywhere)",
            f"disk: {disk / 1e6:,.0f} MB/s, shared by all ranks ({said_disk})",
            f"bytes: counted, with cache.layers: {sorted(layers)}; pca_int8 by the {FITTED_BITS:g} bits a value that "
            "benchmarks/store.py recorded at 1 % error, for another teacher of HuBERT Base's width",
            f"an epoch is all {hours:g} h, uncropped{many}",
        ),
    )


def _check_positive(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and not (value > 0 and isfinite(value)):
            raise UserError(f"--{name.replace('_', '-')}: must be above 0 (given {value:g})")


def model_speeds(
    teacher: HubertConfig,
    student: StudentConfig,
    given: tuple[float | None, float | None],
    gpus: int,
    gpu_tflops: float,
    on_pass: OnPass,
) -> list[tuple[float, str]]:
    """Teacher's and student's speed on one device, seconds of audio a second, each with where it comes from."""
    if None not in given:
        derived, said = (0.0, 0.0), ""
    elif gpus:
        of_teacher, of_student = count_operations(teacher, student)
        derived = gpu_tflops * 1e12 / of_teacher, gpu_tflops * 1e12 / of_student
        said = f"assumed, not measured: a GPU that sustains {gpu_tflops:g} TFLOP/s"
    else:
        derived, said = measure_models(teacher, student, on_pass), "measured on this CPU, random weights"
    return [(own, said) if speed is None else (speed, "given") for speed, own in zip(given, derived, strict=True)]


def _teacher_shape(name: str) -> HubertConfig:
    if name == "hubert_base":
        return hubert_base()
    teacher = load_teacher(name)
    if not isinstance(teacher, HubertTeacher):
        raise UserError(f"--teacher: {name} is no HuBERT-family teacher; give hubert_base, or one that is")
    return teacher.model.config


def _row(cost: TargetCost, live: TargetCost) -> dict[str, str]:
    even = break_even_epochs(cost, live)
    return {
        "targets": cost.targets,
        "on disk": format_bytes(cost.num_bytes) if cost.num_bytes else "-",
        "extraction": show_hours(cost.extraction_hours) if cost.num_bytes else "-",
        "an epoch": show_hours(cost.epoch_hours),
        "waits for": cost.slowest,
        f"{cost.epochs:.3g} epochs": show_hours(cost.epochs * cost.epoch_hours),
        "in all": show_hours(cost.total_hours),
        "pays off after": "-" if cost is live else f"{even:.3g} epochs" if isfinite(even) else "never",
    }


def _verdict(cached: TargetCost, live: TargetCost, free: int) -> str:
    even, name = break_even_epochs(cached, live), cached.targets
    room = "" if cached.num_bytes <= free else f"; there are {format_bytes(free)} free here, so it does not fit"
    if even >= cached.epochs:
        waits = f"at any number of epochs, as one on {name} waits for {cached.slowest}"
        below = f"below {even:.3g} epochs" if isfinite(even) else waits
        return (
            f"live beats {name} {below}: {show_hours(live.total_hours)} against {show_hours(cached.total_hours)} for "
            f"{cached.epochs:.3g}"
        )
    return (
        f"{name} beats live from {even:.3g} epochs on: {show_hours(cached.total_hours)} against "
        f"{show_hours(live.total_hours)} for {cached.epochs:.3g}, for {format_bytes(cached.num_bytes)} of disk{room}"
    )


def _show_speed(speed: float) -> str:
    return f"{speed:,.0f} x" if speed >= 100 else f"{speed:.3g} x"


def show_hours(hours: float) -> str:
    """Seconds, minutes, hours or days, three digits: 2.5 days."""
    for unit, size in (("days", 48.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= size:
            return f"{hours / (24 if unit == 'days' else size):.3g} {unit}"
    return f"{hours * 3600:.3g} s"
