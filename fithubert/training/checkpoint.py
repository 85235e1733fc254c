"""Training checkpoints: whole or absent, the last few kept, and only those of the same configuration accepted."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.files import atomic_file

#: Raised when the contents or the meaning of a checkpoint change.
FORMAT = 1
_NAME = re.compile(r"update-(\d{8})\.pt")


@dataclass(frozen=True)
class CurvePoint:
    """One dev evaluation. `train_loss`: the mean since the point before; `layer_dev_losses`: teacher layer -> loss.

    `audio_seconds`: unpadded audio seen; `seconds`: wall time of every process that worked on the run so far.
    """

    update: int
    audio_seconds: float
    seconds: float
    train_loss: float
    dev_loss: float
    layer_dev_losses: dict[str, float]


@dataclass
class Progress:
    """Where a training stands, without its tensors: everything that decides what it does next."""

    update: int = 0
    #: The next batch: `position` in the plan of `epoch`.
    epoch: int = 0
    position: int = 0
    frames: int = 0
    #: Loss of update 0, against which an exploding loss is told.
    first_loss: float | None = None
    #: Sum and count of the training losses since the last evaluation.
    loss_sum: float = 0.0
    loss_count: int = 0
    best_update: int = 0
    best_loss: float = float("inf")
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    curve: list[CurvePoint] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped. `average`: moving average of the weights, if kept."""

    progress: Progress
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    best: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None


class CheckpointFolder:
    """The checkpoints of one training, each named by its update.

    `identity` is a flat mapping of all that decides the numbers; a checkpoint with another one is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.identity = {"format": FORMAT, **identity}

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write `checkpoint` aside, rename it, then delete all but the last `keep`."""
        path = self.folder / f"update-{checkpoint.progress.update:08d}.pt"
        parts = {part.name: getattr(checkpoint, part.name) for part in fields(checkpoint)}
        with atomic_file(path) as aside:
            torch.save({**parts, "progress": asdict(checkpoint.progress), "identity": self.identity}, aside)
        for old in self._paths()[: -self.keep]:
            old.unlink()
        return path

    def holds_one(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(self._paths())

    def load_latest(self) -> Checkpoint | None:
        """The newest checkpoint, on the CPU; None where there is none.

        Raises UserError where it cannot be read or belongs to another configuration, naming what differs.
        """
        # What a killed process was writing.
        for leftover in self.folder.glob(".update-*.part"):
            leftover.unlink(missing_ok=True)
        paths = self._paths()
        if not paths:
            return None
        try:
            state = torch.load(paths[-1], map_location="cpu", weights_only=True)
            identity = state.pop("identity")
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{paths[-1]}: not readable as a checkpoint ({reason}); delete it to go on from the one before"
            ) from None
        self._check(identity)
        progress = state.pop("progress")
        progress["curve"] = [CurvePoint(**point) for point in progress["curve"]]
        return Checkpoint(progress=Progress(**progress), **state)

    def remove(self) -> None:
        """Delete the folder: the training is over, and a later run of other code must start anew."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("update-*.pt") if _NAME.fullmatch(path.name))

    def _check(self, saved: Mapping[str, Any]) -> None:
        names = [name for name in {**self.identity, **saved} if self.identity.get(name) != saved.get(name)]
        if not names:
            return
        differing = [f"{name} {_brief(saved.get(name))} there, {_brief(self.identity.get(name))} now" for name in names]
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{self.folder}: holds an unfinished training with another configuration "
            f"({'; '.join(differing[:3])}{more}); restore it to go on, or delete the folder to start anew"
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten({str(k): v for k, v in value.items()}, f"{key}."))
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
