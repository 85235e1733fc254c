"""The parameters of a compression: the student's shape, targets and updates for a teacher, a corpus and a budget."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

import torch

from fithubert.config.base import validate
from fithubert.config.params import Params
from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig
from fithubert.data.batching import plan_eval_batches
from fithubert.data.manifest import Manifest
from fithubert.devices import choose_device
from fithubert.distill.targets import Request, Targets
from fithubert.errors import UserError
from fithubert.files import format_bytes
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.importers import NAMED, SOURCES
from fithubert.models.recipes import resolve
from fithubert.models.scaling import scaled_shape
from fithubert.profile.budget import (
    Job,
    Speeds,
    TargetCost,
    cost_of_cache,
    cost_of_live,
    fit_updates,
    measure_codecs,
    measure_disk,
)
from fithubert.profile.plan import KnownSpeeds, model_speeds, show_hours
from fithubert.store.shards import CPU_BATCH_SECONDS
from fithubert.training.progress import OnPass

#: The student's name in the workspace.
STUDENT = "student"
_BATCH_SECONDS, _CODEC = 32.0, "int8"
#: Of the free disk, what the cache may take.
_DISK_SHARE = 0.8
#: Memory that the plan mentions.
_MUCH_BYTES = 1e9
#: Narrower students take a higher learning rate (experiments/presets/students).
_WIDE = 256


@dataclass(frozen=True)
class CompressOptions:
    """What to compress, and how far. `size`: share of the teacher's parameters. `updates`: None: what the hours allow.

    `write_params`: a file for the parameters that are used. `hub_name`: OWNER/NAME of a repository of the hub.
    `keep`: teacher layers whose heads the student keeps.
    """

    teacher: str
    recordings: Path
    out: Path
    size: float = 0.25
    hours_budget: float = 2.0
    updates: int | None = None
    recipe: str = "fithubert"
    onnx: bool = False
    write_params: Path | None = None
    hub_name: str | None = None
    keep: tuple[int, ...] = ()

    def check(self) -> None:
        """Raise UserError if a number is out of its range."""
        if not 0 < self.size < 1:
            raise UserError(f"--size {self.size:g}: must be above 0 and below 1")
        if not self.hours_budget > 0:
            raise UserError(f"--hours-budget {self.hours_budget:g}: must be above 0")
        if self.updates is not None and self.updates < 0:
            raise UserError(f"--updates {self.updates}: must be 0 or more")


def plan_params(
    teacher: HubertConfig, parameters: int, options: CompressOptions, targets: Literal["cached", "live"], updates: int
) -> Params:
    """The parameters of all stages for a teacher of this shape with so many `parameters`.

    Raises UserError if `options` name a recipe or size that is not possible, or no updates for a student that cannot
    be cut from its teacher.
    """
    can_cut = teacher.pos_conv_depth == 1 and not teacher.pos_conv_batch_norm
    if options.updates == 0 and not can_cut:
        raise UserError("--updates 0: a student cannot be cut from this teacher's positional convolution; train it")
    shape = scaled_shape(options.recipe, teacher, parameters, options.size)
    if options.keep:
        shape["heads"] |= {"keep": list(options.keep)}
    # Short trainings do not overfit.
    shape |= dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "input_dropout"), 0.0)
    every = max(1, min(200, updates // 10))
    values = {
        "data": {"source": "folder", "path": str(options.recordings.resolve())},
        "teacher": {"source": _absolute(options.teacher)},
        "cache": {"codec": _CODEC, "layers": list(range(1, teacher.depth + 1)), **_batch_seconds()},
        "distill": {
            "targets": targets,
            "updates": updates,
            "batch_seconds": _BATCH_SECONDS,
            "dev_every_updates": every,
            "checkpoint_every_updates": every,
        },
        "students": {
            STUDENT: {
                "recipe": options.recipe,
                "shape": shape,
                "init": "cut_teacher" if can_cut else "random",
                "learning_rate": 5e-4 if shape["width"] >= _WIDE else 1e-3,
            }
        },
        "profile": {"seconds": [1, 10], "rounds": 3, "paper_size": False},
        "superb": {"models": ["teacher", STUDENT]},
        "report": {"title": f"{options.teacher}, compressed"},
    }
    return validate(Params, values, "compress")


def _batch_seconds() -> dict[str, float]:
    """The padded audio of one forward pass, if the default is too much for this machine."""
    return {} if choose_device("auto") == "cuda" else {"batch_seconds": CPU_BATCH_SECONDS}


def _absolute(teacher: str) -> str:
    """The teacher's name, which must mean the same in every folder."""
    if teacher in NAMED or teacher.partition(":")[0] in SOURCES:
        return teacher
    return str(Path(teacher).resolve())


def plan_training(
    options: CompressOptions, teacher: HubertConfig, parameters: int, corpus: Manifest, on_pass: OnPass
) -> tuple[Params, list[str]]:
    """The parameters with targets and updates that fit the budget, and lines about them; measures this machine.

    Raises UserError if `corpus` has no train or no dev split.
    """
    hours = {split: corpus.select(split=split).hours for split in ("train", "dev")}
    for split, length in hours.items():
        if not length:
            raise UserError(f"{options.recordings}: too few recordings, none is left for {split}; add some")
    gpus = int(choose_device("auto") == "cuda")
    student = plan_params(teacher, parameters, options, "live", 0).students[STUDENT]
    config = resolve(student.recipe, student.shape)
    # The models last: they take longest, and `on_pass` counts them alone.
    encode, read = measure_codecs(teacher.depth, teacher.width)
    disk = measure_disk(options.out)
    models = model_speeds(teacher, config, (None, None), gpus, KnownSpeeds().gpu_tflops, on_pass)
    speeds = Speeds(models[0][0], models[1][0], encode, read, disk)
    job = Job(hours["train"], 1.0, gpus, teacher.depth, teacher.width)
    live, cached = cost_of_live(job, speeds), cost_of_cache(job, speeds, _CODEC)
    chosen, updates = _choose(options, job, live, cached)
    training_hours = updates * _BATCH_SECONDS / 3600 * chosen.epoch_hours / job.hours
    targets: Literal["cached", "live"] = "cached" if chosen is cached else "live"
    if updates:
        where = "computed in every update" if targets == "live" else f"{format_bytes(chosen.num_bytes)} of disk"
        plan = [
            f"plan: {targets} targets ({where}), {updates:,} updates of {_BATCH_SECONDS:g} s",
            f"time: about {show_hours(chosen.extraction_hours + training_hours)} for targets and updates "
            f"({models[1][1]})",
        ]
    else:
        why = "no updates" if options.updates == 0 else f"no update fits {options.hours_budget:g} h"
        plan = [f"plan: {why}, so the student stays as it is cut from the teacher"]
    memory = _cut_bytes(teacher, config, min(hours["train"] * 3600, student.init_seconds))
    if student.init == "cut_teacher" and memory > _MUCH_BYTES:
        plan.append(
            f"memory: about {format_bytes(memory)} besides the models, while the student is cut from the teacher"
        )
    spoken = f"{corpus.hours:.3g} h of speech, {hours['train']:.3g} h to train on, {hours['dev']:.3g} h held out"
    return plan_params(teacher, parameters, options, targets, updates), [f"corpus: {spoken}", *plan]


def _cut_bytes(teacher: HubertConfig, student: StudentConfig, seconds: float) -> float:
    """What a cut on so much speech holds at most besides the models: the first states of both front ends, float32."""
    if student.frontend == "mel":
        return 0.0
    per_sample = 0.0
    for first, *others in (teacher.conv_layers, student.conv_layers):
        at_its_rate = takewhile(lambda layer: layer[2] == 1, others)
        per_sample += max(width for width, *_ in (first, *at_its_rate)) / first[2]
    return 4 * per_sample * seconds * SAMPLE_RATE_HZ


def _choose(options: CompressOptions, job: Job, live: TargetCost, cached: TargetCost) -> tuple[TargetCost, int]:
    """The targets that give more updates in the hours, or take less time for given updates; a cache must fit."""
    fits = cached.num_bytes <= _DISK_SHARE * shutil.disk_usage(options.out).free
    costs = [live, cached] if fits else [live]
    if options.updates is None:
        found = [(fit_updates(c, job.hours, options.hours_budget, _BATCH_SECONDS), c) for c in costs]
        updates, chosen = max(found, key=lambda entry: entry[0])
        return chosen, updates
    epochs = options.updates * _BATCH_SECONDS / 3600 / job.hours
    return min(costs, key=lambda cost: cost.extraction_hours + epochs * cost.epoch_hours), options.updates


#: Padded frames of a batch: a minute of speech.
_SPREAD_FRAMES = 3000


def measure_spread(
    targets: Targets, num_frames: Sequence[int], layers: Sequence[int], device: str = "cpu"
) -> dict[int, float]:
    """Teacher layer -> the mean squared distance of its values from the channel means of their utterance.

    A prediction's mean squared error divided by this is the square of its relative error. `num_frames`: of each
    utterance; one that has 0 is not read.
    """
    sums, frames = dict.fromkeys(layers, 0.0), 0
    for crops in plan_eval_batches(num_frames, batch_frames=_SPREAD_FRAMES):
        request = Request(tuple(crops), tuple(layers))
        batch = targets.finish(targets.read(request).to(torch.device(device)), request)
        for row, count in enumerate(batch.frame_lengths.tolist()):
            frames += count
            for layer in layers:
                states = batch.hidden_states[layer][row, :count].double()
                sums[layer] += float((states - states.mean(0)).square().mean(1).sum())
    return {layer: total / max(1, frames) for layer, total in sums.items()}
