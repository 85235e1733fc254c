"""The costs of every model, and of the published shapes at full size."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from fithubert.config.params import ProfileParams
from fithubert.config.teacher import hubert_base
from fithubert.errors import UserError
from fithubert.models.hubert import HubertModel, HubertTeacher, remove_weight_norm
from fithubert.models.readout import ReadOut
from fithubert.models.recipes import RECIPES
from fithubert.models.speech_model import SpeechModel
from fithubert.models.student import ParameterCounts, build_student
from fithubert.profile.counts import count_parts, find_module, time_parts
from fithubert.profile.timing import paired_ratio, peak_memory_bytes, time_in_turn, torch_threads, weight_bytes
from fithubert.records import Machine, ModelCost, ModelCosts, Parameters

#: The costs per second of audio are those of one utterance of this length. Attention grows with the length: at 10 s its
#: share is that of the 32 utterances (224.9 s, 7 s on average, few long ones) by which SUPERB counts.
REFERENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Subject:
    """A model to measure, and its parameters by use. None: every parameter belongs to the trunk."""

    model: SpeechModel
    parameters: ParameterCounts | None = None


def profile_models(
    subjects: Mapping[str, Subject],
    settings: ProfileParams,
    reference: str = "teacher",
    on_round: Callable[[int, int], None] | None = None,
) -> ModelCosts:
    """The cost of every subject, all timed in turn in this process; ratios are to `reference`.

    `on_round(done, rounds)` is called after every round. Raises UserError if `reference` is not among them.
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
            params=counted[name],
            parts=parts[name],
            time_shares=time_shares[name],
            macs_per_second=macs[name] / at,
            latency_seconds=latencies,
            rtf_by_seconds={s: latency / s for s, latency in latencies.items()},
            latency_ratio_by_seconds=ratios,
            rtf=latencies[at] / at,
            size_ratio=_ratio(counted[name].total, counted[reference].total),
            macs_ratio=_ratio(macs[name], macs[reference]),
            latency_ratio=ratios[at].median,
            latency_ratio_ci=(ratios[at].low, ratios[at].high),
            weight_bytes=weight_bytes(model),
            peak_memory_bytes=memory[name],
            fingerprint=model.fingerprint,
        )
    return ModelCosts(costs, reference, at, settings.rounds, settings.threads, describe_machine())


def describe_machine() -> Machine:
    """The processor, its cores and torch: what the times depend on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return Machine(processor, os.cpu_count() or 1, torch.__version__)


def _parameters(subject: Subject) -> Parameters:
    counts = subject.parameters
    if counts is None:
        counts = ParameterCounts(trunk=sum(p.numel() for p in find_module(subject.model).parameters()))
    return Parameters(counts.trunk, counts.readout, counts.training_only, counts.total)


def _ratio(value: int, reference: int) -> float | None:
    return value / reference if reference else None


#: The model to which the ratios of the published shapes refer.
PAPER_REFERENCE = "hubert_base"
#: The recipes that are measured with it.
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
            subjects[name] = Subject(ReadOut(student, name), student.parameter_counts())
    return subjects


def profile_paper_size(settings: ProfileParams, on_round: Callable[[int, int], None] | None = None) -> ModelCosts:
    """The cost of full-size shapes against HuBERT Base, timed `settings.paper_rounds` times."""
    fewer = settings.model_copy(update={"rounds": settings.paper_rounds})
    return profile_models(paper_size_subjects(), fewer, PAPER_REFERENCE, on_round)
