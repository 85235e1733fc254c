"""Train a super-student by the sandwich rule, and go on from a slice of it."""

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from time import process_time

import torch
from safetensors.torch import load_file, save_file

from experiments.width_depth.super_student import SuperStudent, sort_base
from fithubert.config.distill import DistillParams
from fithubert.config.params import Params
from fithubert.config.students import StudentConfig, StudentParams
from fithubert.config.sweep import SpaceParams
from fithubert.data.batching import Crop, plan_batches
from fithubert.distill.hints import HintLoss
from fithubert.distill.targets import Targets, stride_samples
from fithubert.distill.warmstart.cut import cut_teacher
from fithubert.distill.warmstart.start import draw_waveforms
from fithubert.files import read_json, write_json
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.recipes import resolve
from fithubert.models.student import Student, build_student
from fithubert.search.space import make_student
from fithubert.search.trial import TrialData
from fithubert.training.schedule import build_optimizer, learning_rate_share, set_learning_rate
from fithubert.training.updates import planned_updates


def largest_shape(of: StudentParams, space: SpaceParams, teacher_depth: int) -> StudentConfig:
    """The largest shape of `space`, at the full frame rate."""
    choices = {name: max(values) for name, values in space if name not in ("time_reduction", "readout")}
    student = make_student(of, {**choices, "time_reduction": "none", "readout": "last"}, teacher_depth)
    return resolve(student.recipe, student.shape)


def train_super(params: Params, data: TrialData, updates: int, path: Path) -> tuple[SuperStudent, float]:
    """A super-student after `updates`, made once and kept in `path`, and the CPU seconds that it took.

    Every update is of the largest shape, the smallest and one drawn from the space, on the same batch.
    """
    of, space = params.students[params.sweep.of], params.sweep.space
    depth = data.teacher.model.config.depth
    torch.manual_seed(params.sweep.seed)
    whole = SuperStudent(largest_shape(of, space, depth))
    if path.exists():
        whole.load_state_dict(load_file(path))
        return whole, float(read_json(path.with_suffix(".json"))["cpu_seconds"])
    begun = process_time()
    waveforms = draw_waveforms(data.train, params.sweep.budget.init_seconds, params.sweep.seed)
    cut_teacher(whole.base, data.teacher.model, waveforms)
    sort_base(whole.base, waveforms)
    schedule = params.distill.model_copy(update={"learning_rate": of.learning_rate or params.distill.learning_rate})
    optimizer, generator = build_optimizer(whole, schedule), random.Random(params.sweep.seed)
    smallest = {name: values[0] if name == "time_reduction" else min(values) for name, values in space}
    smallest |= {"time_reduction": "conv1d", "factor": max(space.factor)}
    plan = planned_updates(lambda epoch: _plan(data.train, schedule, epoch), 0, 0)
    for number, planned in enumerate(islice(plan, updates)):
        crops = planned.crops
        drawn = {name: generator.choice(values) for name, values in space}
        shapes = [make_student(of, choices, depth) for choices in (smallest, drawn)]
        configs = [whole.config, *(resolve(shape.recipe, shape.shape) for shape in shapes)]
        batch = data.train.finish(data.train.read(crops, range(1, depth + 1)), crops, range(1, depth + 1))
        losses = []
        for config in configs:
            hint_loss = HintLoss(of.hints, config.heads.layer_map)
            loss = hint_loss(*whole.hints(config, batch.waveforms, batch.lengths), batch.targets)
            loss.total.backward()
            losses.append(round(float(loss.total.detach()), 3))
        rate = schedule.learning_rate * learning_rate_share(number, updates, schedule.warmup_share)
        set_learning_rate(optimizer, rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number % 10 == 0:
            print(
                f"super {number}: largest {losses[0]:.3f}, smallest {losses[1]:.3f}, drawn {losses[2]:.3f}", flush=True
            )
    seconds = process_time() - begun
    save_file({name: tensor.contiguous() for name, tensor in whole.state_dict().items()}, path)
    write_json(path.with_suffix(".json"), {"cpu_seconds": seconds, "updates": updates})
    return whole, seconds


def slice_student(whole: SuperStudent, config: StudentConfig) -> Student:
    """A student of its own with the weights of the slice of `config`'s shape."""
    student = build_student(config)
    student.load_state_dict({name: tensor.detach().clone() for name, tensor in whole.slice(config).items()})
    return student


def _plan(targets: Targets, params: DistillParams, epoch: int) -> Sequence[Sequence[Crop]]:
    frames = frames_of(targets, params.batch_seconds)
    crop = None if params.crop_seconds is None else frames_of(targets, params.crop_seconds)
    return plan_batches(targets.num_frames, batch_frames=frames, crop_frames=crop, seed=params.seed, epoch=epoch)


def frames_of(targets: Targets, seconds: float) -> int:
    """Teacher frames in `seconds`."""
    return max(1, round(seconds * SAMPLE_RATE_HZ / stride_samples(targets)))
