"""`train_student`: from a student's parameters and a teacher's targets to a saved student with its training record."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fithubert.config.distill import DistillParams
from fithubert.config.students import StudentConfig, StudentParams
from fithubert.distill.hints import HintLoss
from fithubert.distill.loop import TrainingLoop
from fithubert.distill.step import Stepper
from fithubert.distill.targets import Targets, check_targets
from fithubert.distill.warmstart.start import set_first_weights
from fithubert.errors import UserError
from fithubert.models.hubert import HubertTeacher
from fithubert.models.recipes import resolve
from fithubert.models.student import build_student
from fithubert.models.weights import save_student
from fithubert.training.checkpoint import CheckpointFolder, CurvePoint, flatten
from fithubert.training.events import EndReason, Listeners, TrainingListener
from fithubert.training.ranks import Accelerator, deterministic_torch, ends_with_its_ranks, on_first_rank, open_fabric

#: Parameters without influence on the student: another value goes on with the same checkpoints. Accumulation has
#: none of its own either: what counts is into how many forward passes, over all ranks, an update is cut.
_FREE = {"checkpoint_every_updates", "keep_checkpoints", "prefetch_batches", "accumulate"}


@dataclass(frozen=True)
class TrainResult:
    """A finished training. `updates` were done, the student saved is that of `best_update`, the lowest dev loss.

    `audio_seconds` is the unpadded audio seen; `seconds` the wall time of every process that worked on the run, and
    `wait_share` the share of this process's time spent waiting for data.
    """

    directory: Path
    reason: EndReason
    best_dev_loss: float
    best_update: int
    updates: int
    audio_seconds: float
    seconds: float
    wait_share: float
    curve: tuple[CurvePoint, ...]


def train_student(
    student_params: StudentParams,
    distill_params: DistillParams,
    train_targets: Targets,
    dev_targets: Targets,
    out_dir: Path,
    listeners: Iterable[TrainingListener] = (),
    teacher: HubertTeacher | None = None,
    *,
    checkpoint_dir: Path | None = None,
    accelerator: Accelerator = "auto",
) -> TrainResult:
    """Train a student and save the best one in `out_dir` (model.safetensors, config.json with the training record).

    A call that was killed goes on from its last checkpoint in `checkpoint_dir` (beside `out_dir` by default) when it
    is made again, and gives the same student; the checkpoints are deleted at the end. `teacher` gives the
    first weights of a student whose `init` is not random. Under torchrun every rank makes the same call; updates are
    shared out over the ranks and stay the same whatever their number.

    Raises UserError where targets and heads do not fit, where the checkpoints are of another configuration, where the
    loss is not finite or explodes (its utterances are then in a file beside the checkpoints), and where another rank
    has died.
    """
    config = resolve(student_params.recipe, student_params.shape)
    if student_params.learning_rate is not None:
        distill_params = distill_params.model_copy(update={"learning_rate": student_params.learning_rate})
    check_targets(train_targets, config)
    check_targets(dev_targets, config)
    _check_masking(student_params, config, train_targets)
    if distill_params.shuffle == "shards" and train_targets.shards is None:
        raise UserError("distill.shuffle: shards needs cached targets; use corpus with live ones")
    folder = checkpoint_dir or out_dir.with_name(f"{out_dir.name}.checkpoints")
    fabric = open_fabric(accelerator, distill_params.precision, _has_idle_parameters(student_params, config))
    with deterministic_torch(), ends_with_its_ranks(fabric):
        torch.manual_seed(distill_params.seed)
        student = build_student(config)
        hint_loss = HintLoss(student_params.hints, config.heads.layer_map)
        identity = _identity(student_params, distill_params, config, train_targets, dev_targets, teacher)
        identity["distill.accumulate x ranks"] = distill_params.accumulate * fabric.world_size
        checkpoints = CheckpointFolder(folder, identity, distill_params.keep_checkpoints)
        # A checkpoint brings all weights, and a cut takes minutes at full size.
        if not on_first_rank(fabric, checkpoints.holds_one):
            set_first_weights(student, student_params, teacher, train_targets, distill_params.seed, fabric.device)
        loop = TrainingLoop(
            Stepper(fabric, student, hint_loss, distill_params),
            distill_params,
            train_targets,
            dev_targets,
            checkpoints,
            Listeners(listeners if fabric.is_global_zero else ()),
        )
        reason = loop.run()
        result = _result(loop, reason, out_dir)
        student.load_state_dict(loop.best)
        record = _record(student_params, distill_params, result, train_targets, dev_targets)
        on_first_rank(fabric, lambda: save_student(student, out_dir, record=record))
        on_first_rank(fabric, loop.checkpoints.remove)
    return result


def _check_masking(params: StudentParams, config: StudentConfig, targets: Targets) -> None:
    if not params.hints.masked_teacher:
        return
    if config.masking is None:
        raise UserError("hints.masked_teacher: nothing is masked; give shape.masking or a recipe that masks")
    if not targets.hears_masks:
        raise UserError(
            "hints.masked_teacher: the teacher must hear the masked speech; set distill.targets: live, with a teacher "
            "whose mask embedding is known"
        )


def _has_idle_parameters(params: StudentParams, config: StudentConfig) -> bool:
    """Whether an update may leave parameters without a gradient, which DDP has to be told."""
    unread = max(layer for layer, _ in config.heads.layer_map) < config.depth
    some_heads = params.hints.random_hints is not None or params.hints.bottom_up_share > 0
    return some_heads or config.masking is not None or unread


def _identity(
    student_params: StudentParams,
    distill_params: DistillParams,
    config: StudentConfig,
    train_targets: Targets,
    dev_targets: Targets,
    teacher: HubertTeacher | None,
) -> dict[str, Any]:
    """All that decides the numbers, flat, with the names that params.yaml gives it."""
    cut = student_params.init == "cut_teacher"
    return flatten(
        {
            "student": config.model_dump(mode="json"),
            "hints": student_params.hints.model_dump(mode="json"),
            "init": student_params.init,
            "init_seconds": student_params.init_seconds if cut else None,
            "distill": distill_params.model_dump(mode="json", exclude=_FREE),
            "train targets": train_targets.fingerprint,
            "dev targets": dev_targets.fingerprint,
            "teacher weights": teacher.fingerprint if teacher is not None and student_params.init != "random" else None,
        }
    )


def _result(loop: TrainingLoop, reason: EndReason, out_dir: Path) -> TrainResult:
    progress = loop.progress
    return TrainResult(
        directory=out_dir,
        reason=reason,
        best_dev_loss=progress.best_loss,
        best_update=progress.best_update,
        updates=progress.update,
        audio_seconds=progress.frames * loop.seconds_per_frame,
        seconds=progress.curve[-1].seconds,
        wait_share=loop.wait_share(),
        curve=tuple(progress.curve),
    )


def _record(
    student_params: StudentParams,
    distill_params: DistillParams,
    result: TrainResult,
    train_targets: Targets,
    dev_targets: Targets,
) -> dict[str, Any]:
    """How the weights came about, for config.json. Without times, so that the same training gives the same file."""
    return {
        "recipe": student_params.recipe,
        "init": student_params.init,
        "init_seconds": student_params.init_seconds if student_params.init == "cut_teacher" else 0.0,
        "hints": student_params.hints.model_dump(mode="json"),
        "distill": distill_params.model_dump(mode="json"),
        "seed": distill_params.seed,
        "updates": result.updates,
        "best_update": result.best_update,
        "best_dev_loss": result.best_dev_loss,
        "audio_hours": result.audio_seconds / 3600,
        "end": result.reason,
        "train_targets": train_targets.fingerprint,
        "dev_targets": dev_targets.fingerprint,
        "curve": [{k: v for k, v in asdict(point).items() if k != "seconds"} for point in result.curve],
    }
