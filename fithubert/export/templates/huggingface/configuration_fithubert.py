"""The configuration of an exported student."""

from transformers import PretrainedConfig


class FithubertConfig(PretrainedConfig):
    """`student`: the shape, as fithubert has it. `readout`: what is read, `last`, `layers` or `projections`."""

    model_type = "fithubert_student"

    def __init__(self, student=None, readout=None, **kwargs):
        self.student = student or {}
        self.readout = readout or self.student.get("readout")
        super().__init__(**kwargs)

    @property
    def hidden_size(self):
        """The feature size of what is read."""
        without_heads = self.readout in ("layers", "encoder", "outputs") or self.student["heads"]["kind"] == "none"
        return self.student["width"] if without_heads else self.student["heads"]["teacher_width"]

    @property
    def num_hidden_layers(self):
        """The student's transformer layers."""
        return self.student["depth"]
