"""`train_student`: from a student's parameters and a teacher's targets to a saved student with its training record."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fithubert.config.distill import DistillParams
from fithubert.config.students import StudentConfig, StudentParams
from fithubert.distill.hints import HintLoss
from fithubert.distill.loop import TrainingLoop
from fithubert.distill.step import Stepper
from fithubert.distill.targets import Targets, TrainingData, check_targets
from fithubert.distill.warmstart.cut import set_first_weights
from fithubert.errors import UserError
from fithubert.models.recipes import resolve
from fithubert.models.student import Student, build_student
from fithubert.models.weights import save_student
from fithubert.training.checkpoint import CheckpointFolder, flatten
from fithubert.training.events import Listeners, TrainingEnded, TrainingListener
from fithubert.training.ranks import Accelerator, deterministic_torch, ends_with_its_ranks, on_first_rank, open_fabric

#: Parameters without influence on the student: a run resumes with another value. Accumulation has no influence of its
#: own: only the number of forward passes of an update, over all ranks, counts.
_FREE = {"checkpoint_every_updates", "keep_checkpoints", "prefetch_batches", "accumulate"}


@dataclass(frozen=True)
class TrainingOptions:
    """How a training runs, without influence on the student.

    `checkpoint_dir`: next to the student's folder if None. `listeners` receive the events of the training.
    """

    listeners: Iterable[TrainingListener] = ()
    checkpoint_dir: Path | None = None
    accelerator: Accelerator = "auto"


@dataclass(frozen=True)
class TrainResult:
    """A finished training. `student` has the weights of `ended.best_update` and all training heads.

    `directory` holds the same student, saved without what only training needs.
    """

    directory: Path
    student: Student
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
    config = resolve(student_params.recipe, student_params.shape)
    if student_params.learning_rate is not None:
        distill_params = distill_params.model_copy(update={"learning_rate": student_params.learning_rate})
    _check(student_params, distill_params, config, data)
    folder = options.checkpoint_dir or out_dir.with_name(f"{out_dir.name}.checkpoints")
    idle = _has_idle_parameters(student_params, config)
    fabric = open_fabric(options.accelerator, distill_params.precision, idle)
    with deterministic_torch(), ends_with_its_ranks(fabric), ExitStack() as held:
        torch.manual_seed(distill_params.seed)
        student = build_student(config)
        identity = _identity(student_params, distill_params, config, data)
        identity["distill.accumulate x ranks"] = distill_params.accumulate * fabric.world_size
        checkpoints = CheckpointFolder(folder, identity, distill_params.keep_checkpoints)
        on_first_rank(fabric, lambda: held.enter_context(checkpoints.only_writer()))
        # A checkpoint holds all weights, and a cut takes minutes at full size.
        if not on_first_rank(fabric, checkpoints.holds_one):
            set_first_weights(student, student_params, data, distill_params.seed, fabric.device)
        hint_loss = HintLoss(student_params.hints, config.heads.layer_map)
        stepper = Stepper(fabric, student, hint_loss, distill_params)
        listeners = Listeners(options.listeners if fabric.is_global_zero else ())
        loop = TrainingLoop(stepper, distill_params, data, checkpoints, listeners)
        ended = loop.run()
        student.load_state_dict(loop.best)
        record = _record(student_params, distill_params, data, ended)
        on_first_rank(fabric, lambda: save_student(student, out_dir, record=record))
        on_first_rank(fabric, checkpoints.remove)
    return TrainResult(out_dir, student, ended)


def _check(
    student_params: StudentParams, distill_params: DistillParams, config: StudentConfig, data: TrainingData
) -> None:
    """Raise UserError if the parameters and the targets do not fit."""
    check_targets(data.train, config)
    check_targets(data.dev, config)
    if student_params.hints.masked_teacher:
        _check_masking(config, data.train)
    if distill_params.shuffle == "shards" and data.train.shards is None:
        raise UserError("distill.shuffle: shards needs cached targets; use corpus with live ones")


def _check_masking(config: StudentConfig, targets: Targets) -> None:
    if config.masking is None:
        raise UserError("hints.masked_teacher: nothing is masked; give shape.masking or a recipe that masks")
    if not targets.supports_masks:
        raise UserError(
            "hints.masked_teacher: the teacher must read the masked speech; set distill.targets: live, with a teacher "
            "whose mask embedding is known"
        )


def _has_idle_parameters(params: StudentParams, config: StudentConfig) -> bool:
    """Whether an update may leave parameters without a gradient; DDP needs to know it in advance."""
    unread = max(layer for layer, _ in config.heads.layer_map) < config.depth
    some_heads = params.hints.random_hints is not None or params.hints.bottom_up_share > 0
    return some_heads or config.masking is not None or unread


def _identity(
    student_params: StudentParams, distill_params: DistillParams, config: StudentConfig, data: TrainingData
) -> dict[str, Any]:
    """Everything that decides the numbers, flat, with the names of params.yaml."""
    init, teacher = student_params.init, data.teacher
    return flatten(
        {
            "student": config.model_dump(mode="json"),
            "hints": student_params.hints.model_dump(mode="json"),
            "init": init,
            "init_seconds": student_params.init_seconds if init == "cut_teacher" else None,
            "distill": distill_params.model_dump(mode="json", exclude=_FREE),
            "train targets": data.train.fingerprint,
            "dev targets": data.dev.fingerprint,
            "teacher weights": teacher.fingerprint if teacher is not None and init != "random" else None,
        }
    )


def _record(
    student_params: StudentParams, distill_params: DistillParams, data: TrainingData, ended: TrainingEnded
) -> dict[str, Any]:
    """The origin of the weights, for config.json. Without times, so that the same training gives the same file."""
    return {
        "recipe": student_params.recipe,
        "init": student_params.init,
        "init_seconds": student_params.init_seconds if student_params.init == "cut_teacher" else 0.0,
        "hints": student_params.hints.model_dump(mode="json"),
        "distill": distill_params.model_dump(mode="json"),
        "seed": distill_params.seed,
        "updates": ended.updates,
        "best_update": ended.best_update,
        "best_dev_loss": ended.best_dev_loss,
        "audio_hours": ended.audio_hours,
        "end": ended.end,
        "train_targets": data.train.fingerprint,
        "dev_targets": data.dev.fingerprint,
        "curve": [{k: v for k, v in point.to_json().items() if k != "seconds"} for point in ended.curve],
    }
