"""`train_student`: from a student's parameters and a teacher's targets to a saved student with its training record."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fithubert.config.base import validate
from fithubert.config.params import DistillParams
from fithubert.config.students import StudentConfig, StudentParams
from fithubert.config.teacher import Device
from fithubert.distill.hints import HintLoss
from fithubert.distill.loop import TrainingLoop
from fithubert.distill.pruning import GatedStudent, Pruning
from fithubert.distill.step import Stepper
from fithubert.distill.targets import TrainingData, check_targets
from fithubert.distill.warmstart import FITTED, set_first_weights
from fithubert.errors import UserError
from fithubert.models.recipes import resolve
from fithubert.models.student import Student, build_student
from fithubert.models.weights import save_student
from fithubert.records import JsonObject
from fithubert.training import deterministic_torch, ends_with_its_ranks, on_first_rank, open_fabric
from fithubert.training.checkpoint import CheckpointFolder, flatten
from fithubert.training.events import Listeners, TrainingEnded, TrainingListener
from fithubert.training.units import fit_codebook

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Parameters without influence on the student: a run resumes with another value. Accumulation has no influence of its
#: own: only the number of forward passes of an update, over all ranks, counts.
_FREE = {"checkpoint_every_updates", "keep_checkpoints", "prefetch_batches", "accumulate"}

#: Training speech from which `hints.normalise` measures the teacher's layers.
_SCALE_SECONDS = 300.0


@dataclass(frozen=True)
class TrainingOptions:
    """How a training runs, without influence on the student.

    `checkpoint_dir`: next to the student's folder if None. `listeners` receive the events of the training.
    """

    listeners: Iterable[TrainingListener] = ()
    checkpoint_dir: Path | None = None
    accelerator: Device = "auto"


@dataclass(frozen=True)
class TrainResult:
    """A finished training. `student` has the weights of `ended.best_update` and all training heads.

    `directory` holds the same student, without the parts that only training needs; its weights have `fingerprint`.
    """

    directory: Path
    student: Student
    fingerprint: str
    ended: TrainingEnded


def train_student(
    student_params: StudentParams,
    distill_params: DistillParams,
    data: TrainingData,
    out_dir: Path,
    options: TrainingOptions | None = None,
) -> TrainResult:
    """Train a student and save the best one in `out_dir` (model.safetensors, config.json with the training record).

    The same call resumes a killed training from its last checkpoint and gives the same student; the checkpoints are
    deleted at the end. Under torchrun every rank makes the same call; updates are divided among the ranks and are the
    same for any number of ranks.

    Raises UserError if targets and heads do not fit, if the checkpoints are of another configuration, if the loss is
    not finite or explodes (its utterances are then in a file next to the checkpoints), and if another rank has died.
    """
    options = options or TrainingOptions()
    distill_params = distill_params.for_student(student_params)
    identity = _identity(student_params, distill_params, data)
    record = _record(student_params, distill_params, data)
    config, hints = _with_unit_head(student_params), student_params.hints
    check_targets(data, config, hints, distill_params.shuffle)
    hint_loss = HintLoss(hints, config.heads.layer_map, config.repeats if hints.gram_of == "heads" else config.factors)
    idle = hint_loss.skips_heads or hint_loss.last_layer < config.depth or config.masking is not None
    if student_params.prune is not None and idle:
        raise UserError(
            "init prune: every layer must be trained in every update; a head must read the last layer, and masking, "
            "hints.random_hints and hints.bottom_up_share must be left out"
        )
    # The norm behind the last layer runs, and nothing reads it.
    unread = config.layer_norm_first and config.final_norm == "none"
    fabric = open_fabric(options.accelerator, distill_params.precision, idle or unread)
    identity["student"] = config.model_dump(mode="json")
    identity["distill.accumulate x ranks"] = distill_params.accumulate * fabric.world_size
    folder = options.checkpoint_dir or out_dir.with_name(f"{out_dir.name}.checkpoints")
    checkpoints = CheckpointFolder(folder, flatten(identity), distill_params.keep_checkpoints)
    listeners = Listeners(options.listeners if fabric.is_global_zero else ())
    with deterministic_torch(), ends_with_its_ranks(fabric), ExitStack() as held:
        on_first_rank(fabric, lambda: held.enter_context(checkpoints.only_writer()))
        # A checkpoint holds all weights and units, and a cut takes minutes at full size.
        resumes = on_first_rank(fabric, checkpoints.holds_one)
        measure_scales(hint_loss, data, distill_params.seed, fabric)
        if not resumes:
            _fit_codebook(hint_loss, data, distill_params.seed, fabric)
        torch.manual_seed(distill_params.seed)
        student = build_student(config)
        pruning = _plan_pruning(student, student_params, distill_params.updates, data)
        if not resumes:
            set_first_weights(student, student_params, data, distill_params.seed, fabric.device, listeners.on_cut)
        stepper = Stepper(fabric, student if pruning is None else pruning.gated, hint_loss, distill_params, pruning)
        loop = TrainingLoop(stepper, data, checkpoints, listeners)
        ended = loop.run()
        assert isinstance(loop.stepper.student, Student)  # Without gates, as the training has ended.
        student = loop.stepper.student
        student.load_state_dict(loop.best)
        if data.teacher is not None and config.heads.keep:
            student.final_proj = data.teacher.final_proj
        fingerprint = on_first_rank(fabric, lambda: save_student(student, out_dir, record=record | ended.to_record()))
        on_first_rank(fabric, checkpoints.remove)
    return TrainResult(out_dir, student, fingerprint, ended)


def _plan_pruning(student: Student, params: StudentParams, updates: int, data: TrainingData) -> Pruning | None:
    """The pruning of `student`, or None if `params` has none; raises UserError if it cannot be pruned as planned."""
    if params.prune is None:
        return None
    if data.teacher is None:
        raise UserError("init prune needs the teacher's weights; give teacher or use init: random")
    pruning_updates = max(1, round(params.prune.updates_share * updates))
    if pruning_updates >= updates:
        raise UserError(f"init prune: {updates} updates leave none to train the pruned student; raise updates")
    return Pruning(GatedStudent(student), params.prune, data.teacher.model.config, pruning_updates)


def measure_scales(hint_loss: HintLoss, data: TrainingData, seed: int, fabric: "Fabric") -> None:
    """Give `hint_loss` the scales that `hints.normalise` needs, from train speech drawn with `seed`.

    From a fixed sample, not from each batch: a batch's own scale would depend on how an update is cut into parts. Every
    start measures the same numbers again, so no checkpoint needs to hold them. Raises UserError if a scale is 0.
    """
    if hint_loss.params.normalise:
        layers = tuple(sorted({head.teacher_layer for head in hint_loss.layer_map}))
        sample = data.draw_hidden_states(layers, _SCALE_SECONDS, seed, fabric.device)
        hint_loss.scales = on_first_rank(fabric, lambda: hint_loss.measure_scales(sample))


def _fit_codebook(hint_loss: HintLoss, data: TrainingData, seed: int, fabric: "Fabric") -> None:
    """Give `hint_loss` the codebook of `hints.units`, fitted on train speech drawn with `seed`."""
    units = hint_loss.params.units
    if units is not None:
        sample = data.draw_hidden_states((units.teacher_layer,), units.seconds, seed, fabric.device)
        frames = (states[units.teacher_layer] for states in sample)
        hint_loss.codebook = on_first_rank(fabric, lambda: fit_codebook(units, frames, seed))


def _with_unit_head(params: StudentParams) -> StudentConfig:
    """The shape that is trained: that of the student, with a unit head if its hints have one."""
    config, units = resolve(params.recipe, params.shape), params.hints.units
    if units is None:
        return config
    layer = config.depth if units.student_layer is None else units.student_layer
    head = {"layer": layer, "clusters": units.clusters}
    return validate(StudentConfig, {**config.model_dump(), "units": head}, "students")


def _identity(student_params: StudentParams, distill_params: DistillParams, data: TrainingData) -> JsonObject:
    """Everything but the architecture and the ranks that decides the numbers, with the names of params.yaml."""
    init, teacher = student_params.init, data.teacher
    return {
        "hints": student_params.hints.model_dump(mode="json"),
        "init": init,
        "init_seconds": student_params.init_seconds if init in FITTED else None,
        "prune": None if student_params.prune is None else student_params.prune.model_dump(mode="json"),
        "distill": distill_params.model_dump(mode="json", exclude=_FREE),
        "train targets": data.train.fingerprint,
        "dev targets": data.dev.fingerprint,
        "teacher weights": teacher.fingerprint if teacher is not None and init != "random" else None,
    }


def _record(student_params: StudentParams, distill_params: DistillParams, data: TrainingData) -> JsonObject:
    """The origin of the weights, for config.json."""
    return {
        "recipe": student_params.recipe,
        "init": student_params.init,
        "init_seconds": student_params.init_seconds if student_params.init in FITTED else 0.0,
        **({} if student_params.prune is None else {"prune": student_params.prune.model_dump(mode="json")}),
        "hints": student_params.hints.model_dump(mode="json"),
        "distill": distill_params.model_dump(mode="json"),
        "seed": distill_params.seed,
        "train_targets": data.train.fingerprint,
        "dev_targets": data.dev.fingerprint,
    }
