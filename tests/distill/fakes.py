"""A tiny corpus, teacher and student, and a training that takes a second."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fithubert.config.hints import HintParams, PruneParams
from fithubert.config.params import DistillParams
from fithubert.config.students import StudentParams
from fithubert.config.teacher import HubertConfig
from fithubert.distill import TrainingOptions, TrainResult, train_student
from fithubert.distill.targets import LiveTargets, TrainingData
from fithubert.files import digest
from fithubert.frames import HUBERT_CONVOLUTIONS, count_conv_frames
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.speech_model import Locality, SpeechOutput
from fithubert.training.events import (
    CutAdvanced,
    Evaluated,
    StepDone,
    TrainingEnded,
    TrainingListener,
    TrainingStarted,
)
from tests.fakes import FakeManifest, draw_utterances
from tests.kills import Stop

WIDTH = 6


class FakeTeacher:
    """Layer 0..3: fixed projections of each frame's 400 samples."""

    name = "fake"
    convolutions, frame_multiple, locality = HUBERT_CONVOLUTIONS, 1, Locality()
    widths = (WIDTH,) * 4

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.mask_embedding = None
        self.weights = [torch.randn(400, width, generator=generator) for width in self.widths]
        self.fingerprint = digest("fake")
        self.last_layers: list[int | None] = []

    def to(self, device: torch.device | str) -> "FakeTeacher":
        return self

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        self.last_layers.append(last_layer)
        frames = waveforms.unfold(1, 400, 320).double()
        depth = len(self.widths) if last_layer is None else last_layer + 1
        states = tuple((frames @ weight.double()).tanh().float() for weight in self.weights[:depth])
        return SpeechOutput(states, count_conv_frames(lengths, self.convolutions))


def fake_manifest(count: int, seed: int = 0, broken: str | None = None) -> FakeManifest:
    """`count` utterances of 0.2 to 0.8 s."""
    return FakeManifest(tuple(draw_utterances(count, 3_200, 12_800, seed)), broken)


def student_params(dropout: float = 0.1, **hints: Any) -> StudentParams:
    """A student of two layers, 8 wide, with time reduction."""
    shape = {
        "conv_layers": [[4, 10, 5], *[[4, 3, 2]] * 4, *[[4, 2, 2]] * 2],
        "width": 8,
        "depth": 2,
        "ffn_width": 8,
        "attention_heads": 2,
        "pos_conv_kernel": 4,
        "pos_conv_groups": 2,
        "heads": {"teacher_width": WIDTH, "layer_map": [[1, 1], [2, 3]]},
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "input_dropout"), dropout),
    }
    return StudentParams(recipe="fithubert", shape=shape, hints=HintParams(**hints))


def reshaped(params: StudentParams, **shape: Any) -> StudentParams:
    """`params` with these fields of the shape."""
    return params.model_copy(update={"shape": {**params.shape, **shape}})


def tiny_teacher(mask_embedding: bool = False) -> HubertTeacher:
    """A real teacher, as deep and wide as the fake one, with the front end of `student_params`."""
    torch.manual_seed(0)
    sizes = {"width": WIDTH, "depth": 3, "ffn_width": 12, "attention_heads": 2, "pos_conv_kernel": 4}
    shape = HubertConfig(conv_layers=student_params().shape["conv_layers"], pos_conv_groups=2, **sizes)
    return HubertTeacher(HubertModel(shape), "tiny", torch.randn(WIDTH) if mask_embedding else None)


def cut_params(dropout: float = 0.1) -> StudentParams:
    """A student thin enough to be cut from `tiny_teacher`."""
    params = reshaped(student_params(dropout), width=4)
    return params.model_copy(update={"init": "cut_teacher", "init_seconds": 2.0})


def prune_params(dropout: float = 0.1) -> StudentParams:
    """A student as wide as `tiny_teacher` that is pruned to less than half of its cost."""
    shape = {**student_params(dropout).shape, "width": WIDTH, "ffn_width": 12, "head_width": 3}
    prune = {"macs_per_second": 2e5, "learning_rate": 0.3, "updates_share": 0.5, "ramp_share": 0.2}
    return StudentParams(recipe="fithubert", shape=shape, init="prune", init_seconds=2.0, prune=PruneParams(**prune))


def distill_params(**changes: Any) -> DistillParams:
    """Twelve updates of about two seconds of audio, crops of at most 0.5 s."""
    values: dict[str, Any] = {
        "updates": 12,
        "batch_seconds": 2.0,
        "crop_seconds": 0.5,
        "learning_rate": 1e-2,
        "dev_every_updates": 4,
        "checkpoint_every_updates": 3,
    }
    return DistillParams(**{**values, **changes})


def train(out: Path, params: DistillParams | None = None, **arguments: Any) -> TrainResult:
    """`train_student` on the fake corpus with live targets, unless `arguments` replace them."""
    given: dict[str, Any] = {
        "student_params": student_params(),
        "train_targets": LiveTargets(fake_manifest(16), FakeTeacher()),
        "dev_targets": LiveTargets(fake_manifest(5, seed=1), FakeTeacher()),
        "teacher": None,
        "listeners": [],
        **arguments,
    }
    data = TrainingData(given["train_targets"], given["dev_targets"], given["teacher"])
    options = TrainingOptions(given["listeners"], accelerator="cpu")
    return train_student(given["student_params"], params or distill_params(), data, out, options)


class Recorder(TrainingListener):
    """Keeps the events that it receives."""

    def __init__(self) -> None:
        self.cut: list[CutAdvanced] = []
        self.started: list[TrainingStarted] = []
        self.steps: list[StepDone] = []
        self.evaluations: list[Evaluated] = []
        self.ended: list[TrainingEnded] = []
        self.on_cut = self.cut.append
        self.on_start = self.started.append
        self.on_step = self.steps.append
        self.on_evaluation = self.evaluations.append
        self.on_end = self.ended.append


class StopAt(TrainingListener):
    """Raises Stop after `update`, before its evaluation and its checkpoint."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_step(self, event: StepDone) -> None:
        if event.update == self.update:
            raise Stop
