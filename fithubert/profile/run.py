"""The costs of every model, and of the published shapes at full size."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from fithubert.config.params import ProfileParams
from fithubert.config.teacher import hubert_base
from fithubert.errors import UserError
from fithubert.models.hubert import HubertModel, HubertTeacher, remove_weight_norm
from fithubert.models.readout import ReadOut
from fithubert.models.recipes import RECIPES
from fithubert.models.speech_model import SpeechModel
from fithubert.models.student import build_student
from fithubert.profile.counts import PartCost, count_parts, find_module, time_parts
from fithubert.profile.timing import Ratio, paired_ratio, peak_memory_bytes, time_in_turn, torch_threads, weight_bytes

#: Where costs of a second of audio are taken. Attention grows with the length of an utterance: at 10 s its share is
#: that of the 32 utterances (224.9 s, 7 s on average, few long ones) by which SUPERB counts.
REFERENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Parameters:
    """Parameters by what they are for: the trunk, the heads that downstream use reads, heads only training uses."""

    trunk: int
    readout: int = 0
    training_only: int = 0

    @property
    def total(self) -> int:
        """What downstream use loads and runs: the trunk and the read-out."""
        return self.trunk + self.readout


@dataclass(frozen=True)
class Subject:
    """A model to be measured and what its parameters are for; None takes every parameter as trunk."""

    model: SpeechModel
    parameters: Parameters | None = None


@dataclass(frozen=True)
class ModelCost:
    """What one model costs. Ratios are against the reference; times are medians over rounds, in seconds."""

    parameters: Parameters
    parts: dict[str, PartCost]
    #: The share of the time at `reference_seconds` that each part takes.
    time_shares: dict[str, float]
    #: Multiply-accumulates of a second of audio, from one utterance of `reference_seconds`.
    macs_per_second: float
    latency_seconds: dict[float, float]
    rtf_by_seconds: dict[float, float]
    latency_ratio_by_seconds: dict[float, Ratio]
    rtf: float
    size_ratio: float | None
    macs_ratio: float | None
    latency_ratio: Ratio
    weight_bytes: int
    #: Weights and what the longest utterance adds; None where the system cannot tell.
    peak_memory_bytes: int | None
    fingerprint: str


@dataclass(frozen=True)
class ProfileReport:
    """The costs of models that were timed together."""

    models: dict[str, ModelCost]
    reference: str
    reference_seconds: float
    rounds: int
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for a metrics file; the keys of the tables by length are `"10"`, in seconds."""
        costs = {}
        for name, cost in self.models.items():
            values = asdict(cost)
            values["params"] = {**values.pop("parameters"), "total": cost.parameters.total}
            for key in ("latency_seconds", "rtf_by_seconds", "latency_ratio_by_seconds"):
                values[key] = {f"{seconds:g}": value for seconds, value in values[key].items()}
            ratio = values.pop("latency_ratio")
            values |= {"latency_ratio": ratio["median"], "latency_ratio_ci": [ratio["low"], ratio["high"]]}
            costs[name] = values
        return {
            "models": costs,
            "reference": self.reference,
            "reference_seconds": self.reference_seconds,
            "rounds": self.rounds,
            "threads": self.threads,
            "machine": describe_machine(),
        }


def profile_models(
    subjects: Mapping[str, Subject],
    settings: ProfileParams,
    reference: str = "teacher",
    on_round: Callable[[int, int], None] | None = None,
) -> ProfileReport:
    """The cost of every subject, all timed in turn in this process; ratios are against `reference`.

    `on_round(done, rounds)` is called after every round. Raises UserError where `reference` is not among them.
    """
    if reference not in subjects:
        raise UserError(f"profile: no model {reference!r} to compare with among {', '.join(subjects)}")
    models = {name: subject.model for name, subject in subjects.items()}
    at = REFERENCE_SECONDS if REFERENCE_SECONDS in settings.seconds else max(settings.seconds)
    parts = {name: count_parts(model, at) for name, model in models.items()}
    memory = {name: peak_memory_bytes(model, max(settings.seconds)) for name, model in models.items()}
    with torch_threads(settings.threads):
        report_round = None if on_round is None else lambda done: on_round(done, settings.rounds)
        timings = time_in_turn(models, settings.seconds, settings.rounds, report_round)
        time_shares = {name: time_parts(model, at) for name, model in models.items()}
    counted = {name: _parameters(subject) for name, subject in subjects.items()}
    macs = {name: sum(part.macs for part in parts[name].values()) for name in models}
    costs = {}
    for name, model in models.items():
        ratios = {s: paired_ratio(timings[name][s], timings[reference][s]) for s in settings.seconds}
        latencies = {s: median(timings[name][s]) for s in settings.seconds}
        costs[name] = ModelCost(
            parameters=counted[name],
            parts=parts[name],
            time_shares=time_shares[name],
            macs_per_second=macs[name] / at,
            latency_seconds=latencies,
            rtf_by_seconds={s: latency / s for s, latency in latencies.items()},
            latency_ratio_by_seconds=ratios,
            rtf=latencies[at] / at,
            size_ratio=_ratio(counted[name].total, counted[reference].total),
            macs_ratio=_ratio(macs[name], macs[reference]),
            latency_ratio=ratios[at],
            weight_bytes=weight_bytes(model),
            peak_memory_bytes=memory[name],
            fingerprint=model.fingerprint,
        )
    return ProfileReport(costs, reference, at, settings.rounds, settings.threads)


def describe_machine() -> dict[str, str | int]:
    """The processor, its cores and torch: what the times depend on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {"processor": processor, "cores": os.cpu_count() or 1, "torch": torch.__version__}


def _parameters(subject: Subject) -> Parameters:
    if subject.parameters is not None:
        return subject.parameters
    return Parameters(trunk=sum(p.numel() for p in find_module(subject.model).parameters()))


def _ratio(value: int, reference: int) -> float | None:
    return value / reference if reference else None


#: The model that the others are compared with.
PAPER_REFERENCE = "hubert_base"
#: Recipes that are measured beside it.
PAPER_STUDENTS = ("fithubert", "fithubert_lite", "distilhubert")


def paper_size_subjects() -> dict[str, Subject]:
    """`hubert_base` and the recipes of `PAPER_STUDENTS` at full size, ready to be measured (about 0.7 GB)."""
    subjects = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subjects[PAPER_REFERENCE] = Subject(
            HubertTeacher(remove_weight_norm(HubertModel(hubert_base())), PAPER_REFERENCE)
        )
        for name in PAPER_STUDENTS:
            student = build_student(RECIPES[name]())
            counts = student.parameter_counts()
            parameters = Parameters(counts.trunk, counts.readout, counts.training_only)
            subjects[name] = Subject(ReadOut(student, name), parameters)
    return subjects


def profile_paper_size(settings: ProfileParams, on_round: Callable[[int, int], None] | None = None) -> ProfileReport:
    """The cost of full-size shapes against HuBERT Base, timed `settings.paper_rounds` times."""
    fewer = settings.model_copy(update={"rounds": settings.paper_rounds})
    return profile_models(paper_size_subjects(), fewer, PAPER_REFERENCE, on_round)
