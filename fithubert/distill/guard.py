"""What is wrong with an update, if anything, and a record of what it was made of."""

from math import isfinite
from typing import Any

from fithubert.config.distill import DistillParams
from fithubert.distill.plan import PlannedUpdate, split_update
from fithubert.distill.step import UpdateLoss


def find_problem(loss: UpdateLoss, params: DistillParams, first_loss: float) -> str | None:
    """Why this update must not be applied, or None.

    In fp16 a gradient that is not finite is no problem: the loss scaler leaves that update out and goes on.
    """
    if not isfinite(loss.total):
        return f"the loss is {loss.total}"
    norm = loss.gradient_norm
    if norm is not None and not isfinite(norm) and params.precision != "16-mixed":
        return f"the norm of the gradient is {norm}"
    if loss.total > params.explosion_factor * first_loss:
        return f"the loss is {loss.total:.4g}, more than {params.explosion_factor:g} times the first"
    return None


def describe_update(number: int, planned: PlannedUpdate, loss: UpdateLoss, ids: tuple[str, ...]) -> dict[str, Any]:
    """Update `number` as a JSON-able record: for each forward pass its loss, utterances and crops."""
    return {
        "update": number,
        "epoch": planned.epoch,
        "loss": repr(loss.total),
        "gradient_norm": repr(loss.gradient_norm),
        "parts": [
            {
                "weighted_loss": repr(value),
                "utterances": [ids[crop.index] for crop in part.crops],
                "start_frames": [crop.start_frame for crop in part.crops],
                "num_frames": [crop.num_frames for crop in part.crops],
            }
            for part, value in zip(split_update(planned, len(loss.parts)), loss.parts, strict=True)
        ],
    }
