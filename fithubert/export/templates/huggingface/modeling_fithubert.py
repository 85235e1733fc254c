"""An exported student as a model of transformers, where HubertModel is used. Needs torch and transformers only."""

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

# transformers 4 takes along only the files that are named here, not those that they name.
from .build import build_student
from .configuration_fithubert import FithubertConfig
from .encoder import EncoderLayer  # noqa: F401
from .errors import UserError  # noqa: F401
from .frames import count_conv_frames, keep_whole
from .frontend import ConvFrontend  # noqa: F401
from .heads import LayerHead  # noqa: F401
from .shape import StudentConfig  # noqa: F401
from .student import Student  # noqa: F401


class FithubertModel(PreTrainedModel):
    """The student; its weights start at random where they are not loaded."""

    config_class = FithubertConfig
    base_model_prefix = "fithubert"
    main_input_name = "input_values"

    def __init__(self, config):
        super().__init__(config)
        self.student = build_student({**config.student, "readout": config.readout})
        self.post_init()

    def _init_weights(self, module):
        """Nothing: every module starts itself."""

    def forward(
        self, input_values, attention_mask=None, output_hidden_states=None, return_dict=None, output_attentions=None
    ):
        """Frames of `input_values` (batch, samples) at 16 kHz, as HubertModel gives them, and exact under padding.

        `attention_mask` (batch, samples): 1 for samples, then 0 for padding. `last_hidden_state` is the last of the
        states that `config.readout` names; `output_hidden_states` gives them all. Attention maps are not given.
        """
        lengths = None
        if attention_mask is not None:
            if (attention_mask[:, 1:] > attention_mask[:, :-1]).any():
                raise ValueError("attention_mask: padding must come after the samples (padding_side='right')")
            lengths = attention_mask.sum(1).long()
        states, _ = self.student.read(input_values, lengths)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = BaseModelOutput(
            last_hidden_state=states[-1], hidden_states=tuple(states) if output_hidden_states else None
        )
        as_dict = return_dict is None or return_dict
        return output if as_dict else output.to_tuple()

    def freeze_feature_encoder(self):
        """Leave the convolutional front end as it is in fine-tuning."""
        for parameter in self.student.frontend.parameters():
            parameter.requires_grad = False

    def _get_feat_extract_output_lengths(self, input_lengths):
        """Frames of `input_lengths` samples, as CTC losses want them."""
        frames = count_conv_frames(torch.as_tensor(input_lengths), self.student.frontend.convolutions)
        return keep_whole(frames, self.student.frame_multiple)
