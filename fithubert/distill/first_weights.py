"""Where a student's first weights come from, as `StudentParams.init` says."""

import torch
from torch import Tensor

from fithubert.config.distill import StudentParams
from fithubert.data.batching import Crop
from fithubert.distill.targets import Targets, stride_samples
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.student.initialise import initialise_from_teacher
from fithubert.student.model import Student
from fithubert.teachers.hubert import HubertTeacher, canonical_state
from fithubert.warmstart.cut import cut_teacher

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
