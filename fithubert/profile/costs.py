"""The cost of every model, in total and by part, and of the published shapes at full size."""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fithubert.config.params import ProfileParams
from fithubert.config.teacher import hubert_base
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.macs import PARTS, REFERENCE_SECONDS, SUPERB_SAMPLES, count_superb_macs
from fithubert.models.recipes import RECIPES
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechModel
from fithubert.models.student import build_student
from fithubert.models.weights import ParameterCounts, count_parameters, parameter_counts
from fithubert.profile.timing import (
    find_module,
    paired_ratio,
    peak_memory_bytes,
    time_in_turn,
    weight_bytes,
)
from fithubert.records import Machine, ModelCost, ModelCosts, Parameters, PartCost
from fithubert.training.progress import OnPass, count_passes, nothing_said
from fithubert.workers import torch_threads

#: The part that a module belongs to, by the attribute that holds it. The norms of a part belong to it.
_PART_OF_ATTRIBUTE = {
    "frontend": "front_end",
    "feature_norm": "projection",
    "projection": "projection",
    "positional": "positional_conv",
    "encoder_norm": "positional_conv",
    "time_reduction": "time_reduction",
    "relative": "transformer",
    "layers": "transformer",
    "heads": "readout",
}


def count_parts(model: SpeechModel, seconds: float) -> dict[str, PartCost]:
    """Parameters and multiply-accumulates of each part of `model` on one utterance of `seconds`, in `PARTS` order.

    Counts the matrix products and convolutions that really run, attention included (two operations are one
    multiply-accumulate); norms, activations, softmax and Fourier transforms are not counted, as is usual. Parameters
    are those of modules that ran, so a head that only training uses is in neither figure.
    """
    waveforms = torch.zeros(1, round(seconds * SAMPLE_RATE_HZ))
    return _count(find_module(model), lambda: model(waveforms, torch.tensor([waveforms.shape[1]])))


def _count(root: nn.Module, run: Callable[[], object]) -> dict[str, PartCost]:
    """The cost of each part of `root` while it is called by `run`."""
    counter = FlopCounterMode(display=False)
    params, macs = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    entered: list[int] = []
    seen: set[int] = set()

    def enter() -> None:
        entered.append(counter.get_total_flops())

    def leave(module: nn.Module, part: str) -> None:
        before = entered.pop()
        if not entered:
            macs[part] += (counter.get_total_flops() - before) // 2
        new = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
        seen.update(new)
        params[part] += sum(new.values())

    # On torch's plain backend, because its counter cannot see the fused attention kernel of the CPU.
    with _watched(root, enter, leave), counter, sdpa_kernel(SDPBackend.MATH):
        run()
    # An attention map that several layers share is made outside any layer's own call.
    rest = "transformer" if macs["transformer"] else "other"
    macs[rest] += counter.get_total_flops() // 2 - sum(macs.values())
    return {part: PartCost(params[part], macs[part]) for part in PARTS}


def time_parts(model: SpeechModel, seconds: float, rounds: int = 3) -> dict[str, float]:
    """The share of its time that `model` spends in each part on one utterance of `seconds`, in `PARTS` order.

    Medians over `rounds`, after one untimed pass; `other` is what happens outside all parts. On a GPU every part waits
    for the device, which a real run does not.
    """
    root = find_module(model)
    on_gpu = any(parameter.is_cuda for parameter in root.parameters())
    entered: list[float] = []
    spent = dict.fromkeys(PARTS, 0.0)

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return perf_counter()

    def enter() -> None:
        entered.append(now())

    def leave(_: nn.Module, part: str) -> None:
        before = entered.pop()
        if not entered:
            spent[part] += now() - before

    waveforms = torch.zeros(1, round(seconds * SAMPLE_RATE_HZ))
    shares: dict[str, list[float]] = {part: [] for part in PARTS}
    with _watched(root, enter, leave):
        for number in range(rounds + 1):
            spent.update(dict.fromkeys(PARTS, 0.0))
            begun = now()
            model(waveforms, torch.tensor([waveforms.shape[1]]))
            total = now() - begun
            spent["other"] += total - sum(spent.values())
            for part in PARTS if number else ():
                shares[part].append(spent[part] / total)
    return {part: median(values) for part, values in shares.items()}


@contextmanager
def _watched(root: nn.Module, enter: Callable[[], None], leave: Callable[[nn.Module, str], None]) -> Iterator[None]:
    """Inside, `enter` and `leave` are called around every module that belongs to a part, nested ones too."""
    handles = []
    for name, module in root.named_modules():
        part = _part_of(name)
        if part is not None:
            handles.append(module.register_forward_pre_hook(lambda _, __: enter()))
            handles.append(module.register_forward_hook(lambda m, _, __, part=part: leave(m, part)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _part_of(name: str) -> str | None:
    """The part of the module with this dotted name, decided by its outermost known attribute."""
    return next((_PART_OF_ATTRIBUTE[a] for a in name.split(".") if a in _PART_OF_ATTRIBUTE), None)


@dataclass(frozen=True)
class Subject:
    """A model to measure, and its parameters by use. None: every parameter belongs to the trunk."""

    model: SpeechModel
    parameters: ParameterCounts | None = None


def profile_models(
    subjects: Mapping[str, Subject],
    settings: ProfileParams,
    reference: str = "teacher",
    on_pass: OnPass = nothing_said,
    exports: Mapping[str, Mapping[str, SpeechModel]] | None = None,
) -> ModelCosts:
    """The cost of every subject, all timed in turn in this process; ratios are to `reference`.

    `on_pass(done, total)` is called as it proceeds. `exports`: subject -> form -> what was exported of it, only timed.
    Raises UserError if `reference` is not among the subjects.
    """
    if reference not in subjects:
        raise UserError(f"profile: no model {reference!r} to compare with among {', '.join(subjects)}")
    models = {name: subject.model for name, subject in subjects.items()}
    at = REFERENCE_SECONDS if REFERENCE_SECONDS in settings.seconds else max(settings.seconds)
    graphs = {f"{name}, {form}": graph for name, forms in (exports or {}).items() for form, graph in forms.items()}
    finish = count_passes(3 * len(models) + len(graphs) + settings.rounds, on_pass)
    parts, memory, time_shares = {}, {}, {}
    for name, model in models.items():
        parts[name], memory[name] = count_parts(model, at), peak_memory_bytes(model, max(settings.seconds))
        finish()
    with torch_threads(settings.threads):
        timings = time_in_turn({**models, **graphs}, settings.seconds, settings.rounds, finish)
        for name, model in models.items():
            time_shares[name] = time_parts(model, at)
            finish()
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
            export_latency_ratios={
                form: paired_ratio(timings[f"{name}, {form}"][at], timings[reference][at])
                for form in (exports or {}).get(name, {})
            }
            or None,
        )
    superb = {name: _count_superb_macs(model) for name, model in models.items()}
    machine = describe_machine()
    return ModelCosts(costs, reference, at, settings.rounds, settings.threads, machine, superb_macs=superb)


def _count_superb_macs(model: SpeechModel) -> int:
    """By formula, which equals the count of a run (`count_parts`); of models without one by such a run."""
    if isinstance(model, HubertTeacher):
        return count_superb_macs(model.model.config)
    if isinstance(model, ReadOut):
        return count_superb_macs(model.student.config)
    runs = (count_parts(model, samples / SAMPLE_RATE_HZ) for samples in SUPERB_SAMPLES)
    return sum(part.macs for parts in runs for part in parts.values())


def describe_machine() -> Machine:
    """The processor, its cores and torch: what the times depend on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if "model name" in line
        ]
        processor = names[0] if names else processor
    return Machine(processor, os.cpu_count() or 1, torch.__version__)


def _parameters(subject: Subject) -> Parameters:
    counts = subject.parameters
    if counts is None:
        counts = ParameterCounts(trunk=count_parameters(find_module(subject.model)))
    return Parameters(counts.trunk, counts.readout, counts.training_only, counts.total)


def _ratio(value: int, reference: int) -> float | None:
    return value / reference if reference else None


#: The model to which the ratios of the published shapes refer.
PAPER_REFERENCE = "hubert_base"
#: The recipes that are measured with it.
PAPER_STUDENTS = ("fithubert", "fithubert_lite", "fithubert_mel", "fithubert_late", "distilhubert")


def paper_size_subjects() -> dict[str, Subject]:
    """`hubert_base` and the recipes of `PAPER_STUDENTS` at full size, ready to be measured (about 0.7 GB)."""
    subjects = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subjects[PAPER_REFERENCE] = Subject(
            HubertTeacher(prepare_for_inference(HubertModel(hubert_base())), PAPER_REFERENCE)
        )
        for name in PAPER_STUDENTS:
            student = build_student(RECIPES[name]())
            subjects[name] = Subject(ReadOut(student, name), parameter_counts(student.config))
    return subjects


def profile_paper_size(
    settings: ProfileParams, export: Callable[[ReadOut], Mapping[str, SpeechModel]], on_pass: OnPass = nothing_said
) -> ModelCosts:
    """The cost of full-size shapes against HuBERT Base, timed `settings.paper_rounds` times.

    `export` gives the graphs of a student by form; it is called for those of `settings.paper_exports`. Raises UserError
    if one of them is not measured.
    """
    for name in settings.paper_exports:
        if name not in PAPER_STUDENTS:
            raise UserError(f"profile.paper_exports: {name}: not one of {', '.join(PAPER_STUDENTS)}")
    subjects, exports = paper_size_subjects(), {}
    for name in settings.paper_exports:
        student = subjects[name].model
        assert isinstance(student, ReadOut)
        # A session of ONNX Runtime has the threads of the moment when it is opened.
        with torch_threads(settings.threads):
            exports[name] = export(student)
    fewer = settings.model_copy(update={"rounds": settings.paper_rounds})
    return profile_models(subjects, fewer, PAPER_REFERENCE, on_pass, exports)
