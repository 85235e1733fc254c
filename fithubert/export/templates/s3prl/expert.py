"""An exported student as an upstream of s3prl. Needs torch and nothing else."""

import json
from pathlib import Path

import torch
from torch import nn

if __package__:
    from .fithubert_student.build import build_student
    from .fithubert_student.frames import zero_padding
else:  # `--hub huggingface` puts this folder on the path
    from fithubert_student.build import build_student
    from fithubert_student.frames import zero_padding


class UpstreamExpert(nn.Module):
    """The student in this folder; `ckpt` and `model_config` may name another model.pt and config.json."""

    def __init__(self, ckpt=None, model_config=None, **kwargs):
        super().__init__()
        folder = Path(__file__).parent
        values = json.loads(Path(model_config or folder / "config.json").read_text(encoding="utf-8"))
        self.downsample_rate = values["downsample_rate"]
        self.student = build_student(values["student"])
        state = torch.load(ckpt or folder / "model.pt", map_location="cpu", weights_only=True)
        self.student.load_state_dict(state)

    def get_downsample_rates(self, key):
        """Samples between two frames, of whatever feature."""
        return self.downsample_rate

    def forward(self, wavs):
        """`hidden_states`: what this student's read-out reads, each (batch, time, feature), of unpadded 1-D waveforms.

        Frames after an utterance's own are zeros: s3prl keeps one of them where it rounds a length up.
        """
        states, lengths = self.student.read(wavs)
        states = [zero_padding(state, lengths) for state in states]
        return {"hidden_states": states, "last_hidden_state": states[-1]}
