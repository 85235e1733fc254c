"""What HuBERT's training adds to the forward pass of a HubertModel, and inference leaves out."""

from collections.abc import Collection
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.teacher import PretrainParams
from fithubert.teachers.hubert import HubertModel


class Regularisers:
    """Hooks in `hubert` that act while it trains: dropout of the encoder's input, layers left out, a slower front end.

    Source: fairseq `dropout_input`, `dropout` before the first layer, `encoder_layerdrop`, `feature_grad_mult`.
    Differs: which layers are left out is said by the caller, one choice for all of an update.
    """

    def __init__(self, hubert: HubertModel, params: PretrainParams) -> None:
        self.params = params
        #: Layers that the next pass leaves out, from 0.
        self.dropped_layers: Collection[int] = ()
        #: The front end's output (batch, time, feature) of the last pass, for a penalty on it.
        self.features: Tensor | None = None
        hubert.frontend.register_forward_hook(self._after_frontend)
        hubert.projection.register_forward_hook(self._after_projection)
        hubert.layers[0].register_forward_pre_hook(self._before_layers)
        for index, layer in enumerate(hubert.layers):
            layer.register_forward_hook(lambda *call, index=index: self._after_layer(index, *call))

    def _after_frontend(self, module: nn.Module, _: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if not module.training:
            return output
        features, lengths = output
        share = self.params.frontend_gradient
        if share != 1:
            features = features * share + features.detach() * (1 - share)
        self.features = features
        return features, lengths

    def _after_projection(self, module: nn.Module, _: Any, output: Tensor) -> Tensor:
        return F.dropout(output, self.params.input_dropout, module.training)

    def _before_layers(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return F.dropout(inputs[0], self.params.dropout, module.training), *inputs[1:]

    def _after_layer(self, index: int, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return inputs[0] if module.training and index in self.dropped_layers else output
