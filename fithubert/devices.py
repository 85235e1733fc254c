"""The device that a model runs on, and its precision."""

from typing import Literal

import torch

from fithubert.config.teacher import Device
from fithubert.errors import UserError


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """`device`, with `auto` resolved; raises UserError if it is not there.

    On a GPU, convolutions then compute in float32. By default they round to TF32, so that states differ by 1e-3.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device cuda: torch finds no CUDA device; use auto or cpu")
        torch.backends.cudnn.allow_tf32 = False
    return device


def devices_in_use() -> list[int]:
    """The GPU of this process, for `torch.random.fork_rng`, which by default copies the state of every one."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []
