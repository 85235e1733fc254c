"""How a teacher is run for extraction: on which device, in which precision, by which runtime."""

from typing import Literal

import torch

from fithubert.config.params import Device, Precision, Runtime
from fithubert.errors import UserError
from fithubert.files import digest
from fithubert.speech_model import SpeechModel
from fithubert.teachers.hubert import HubertTeacher
from fithubert.teachers.onnx import OnnxTeacher


def prepare_teacher(
    teacher: HubertTeacher, device: Device = "auto", precision: Precision = "float32", runtime: Runtime = "torch"
) -> SpeechModel:
    """`teacher`, ready to extract: on `device` (auto: a GPU where there is one), in `precision`, by `runtime`.

    `compile` pays after a minute of compiling, mostly on a GPU; `onnx` is for CPUs and float32. Raises UserError where
    the device is not there or the runtime cannot do that.
    """
    device = choose_device(device) if runtime != "onnx" or device == "cuda" else "cpu"
    if runtime == "onnx":
        if device != "cpu" or precision != "float32":
            raise UserError("runtime onnx: runs on the CPU in float32 only; use runtime torch or compile")
        return OnnxTeacher(teacher)
    if runtime == "compile":
        teacher.model.compile(dynamic=True)
    return set_precision(teacher, precision).to(device)


def choose_device(device: Device) -> Literal["cpu", "cuda"]:
    """`device`, with auto made out; raises UserError where it is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no CUDA device; use auto or cpu")
    return device


def set_precision(teacher: HubertTeacher, precision: Precision) -> HubertTeacher:
    """`teacher`, just loaded, computing in `precision`; a half one gives it another fingerprint."""
    if precision != "float32":
        teacher.precision, teacher.fingerprint = precision, digest(teacher.fingerprint, precision)
    return teacher
