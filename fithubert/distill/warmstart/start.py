"""The first weights of a student, as `StudentParams.init` says."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from fithubert.config.students import StudentParams
from fithubert.data.batching import Crop
from fithubert.distill.targets import Targets, stride_samples
from fithubert.distill.warmstart.cut import cut_teacher
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.hubert import HubertTeacher, canonical_state
from fithubert.models.student import Student

_PARTS = ("feature_norm", "projection", "positional", "encoder_norm")


def initialise_from_teacher(student: Student, teacher_state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Copy the teacher's front end, projection, positional convolution and first layers where the shapes agree.

    `teacher_state` has canonical names (`frontend.layers.N.conv.weight`, ..., `positional.conv.weight` with its weight
    norm folded). A part is copied whole or not at all; front-end and transformer layers only as long as the one before
    was. Gives the names of the parts copied; raises UserError where the teacher fits nowhere.

    A student without feature norm (DistilHuBERT) goes without the teacher's, as s3prl does: its projection then meets
    features of another scale than in the teacher. `feature_norm: true` keeps the norm and with it the teacher's exact
    layer 0. Differs from s3prl: the norm before the first layer is copied too.
    """
    copied: list[str] = []
    for stack, modules in (("frontend.layers", student.frontend.layers), ("layers", student.layers)):
        for index, module in enumerate(modules):
            if not _copy(module, f"{stack}.{index}", teacher_state):
                break
            copied.append(f"{stack}.{index}")
    for name in _PARTS:
        module = getattr(student, name)
        if module is not None and _copy(module, name, teacher_state):
            copied.append(name)
    if not copied:
        raise UserError(
            "init: no part of the teacher has the student's shape; use init: random or the teacher's widths"
        )
    return tuple(copied)


def _copy(module: torch.nn.Module, name: str, teacher_state: Mapping[str, Tensor]) -> bool:
    """Whether every tensor of `module` was in the teacher's state under `name` with its shape, and so copied."""
    targets = {key.replace(".parametrizations.weight.original1", ".weight") for key in module.state_dict()}
    targets = {key for key in targets if ".parametrizations." not in key}
    tensors = dict(module.named_parameters())
    values = {}
    for key in targets:
        owner = module.get_submodule(key.rpartition(".")[0])
        shape = tensors[key].shape if key in tensors else owner.weight.shape  # type: ignore[union-attr]
        given = teacher_state.get(f"{name}.{key}")
        if given is None or given.shape != shape:
            return False
        values[key] = given
    with torch.no_grad():
        for key, value in values.items():
            owner_name, _, attribute = key.rpartition(".")
            owner = module.get_submodule(owner_name)
            if parametrize.is_parametrized(owner, attribute):
                setattr(owner, attribute, value.to(tensors["conv.bias"].device))
            else:
                tensors[key].copy_(value)
    return True


#: The longest piece of an utterance that a student is cut on.
_PIECE_SECONDS = 10.0


def set_first_weights(
    student: Student,
    params: StudentParams,
    teacher: HubertTeacher | None,
    targets: Targets,
    seed: int,
    device: torch.device,
) -> None:
    """Give `student`, freshly built, the weights that `params.init` asks for.

    `cut_teacher` hears `params.init_seconds` of the utterances of `targets`, drawn by `seed`, on `device`. Raises
    UserError where the teacher is needed and missing, or does not fit.
    """
    if params.init == "random":
        return
    if teacher is None:
        raise UserError(f"init {params.init} needs the teacher's weights; give teacher or use init: random")
    if params.init == "teacher_layers":
        initialise_from_teacher(student, canonical_state(teacher.model))
        return
    waveforms = [w.to(device) for w in draw_waveforms(targets, params.init_seconds, seed)]
    cut_teacher(student.to(device), teacher.to(device).model, waveforms)
    student.to("cpu")


def draw_waveforms(targets: Targets, seconds: float, seed: int) -> list[Tensor]:
    """At least `seconds` of speech, or all there is: waveforms (samples,) of utterances drawn without replacement."""
    per_frame = stride_samples(targets) / SAMPLE_RATE_HZ
    drawn: list[Tensor] = []
    heard = 0.0
    order = torch.randperm(len(targets.num_frames), generator=torch.Generator().manual_seed(seed)).tolist()
    for index in order:
        if heard >= seconds:
            break
        frames = min(targets.num_frames[index], int(_PIECE_SECONDS / per_frame))
        batch = targets.read([Crop(index, 0, frames)], [])
        # Live targets read whole utterances.
        end = min(int(batch.lengths[0]), int(_PIECE_SECONDS * SAMPLE_RATE_HZ))
        drawn.append(batch.waveforms[0, :end])
        heard += frames * per_frame
    return drawn
