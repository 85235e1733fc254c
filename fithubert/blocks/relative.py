"""WavLM's relative positions: a bias by bucketed distance, which every layer gates by its own input."""

import math

import torch
from torch import Tensor, nn


class RelativePositions(nn.Module):
    """One learnt number per head and bucket of distance, as T5 has it; the first layer's table serves all layers.

    Source: WavLM (Chen et al. 2022, section III.B); unilm `num_buckets`, `max_distance`. Half of the buckets are for
    keys after the query; of each half, half are for single distances and half grow with the logarithm up to
    `max_distance` frames, from where on all distances share the last one.
    """

    def __init__(self, buckets: int, max_distance: int, heads: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.embedding = nn.Embedding(buckets, heads)

    def forward(self, num_frames: int) -> Tensor:
        """The bias (head, num_frames, num_frames) of each query's attention to each key."""
        place = torch.arange(num_frames, device=self.embedding.weight.device)
        # Distances come from 2 T - 1 values: look those up, and spread them over the T x T matrix afterwards.
        distances = torch.arange(1 - num_frames, num_frames, device=place.device)
        values = self.embedding(self._bucket(distances)).T
        return values[:, place[None, :] - place[:, None] + num_frames - 1]

    def _bucket(self, distances: Tensor) -> Tensor:
        half = self.embedding.num_embeddings // 2
        exact = half // 2
        size = distances.abs()
        growth = torch.log(size.float() / exact) / math.log(self.max_distance / exact) * (half - exact)
        # log(0) is -inf, which no integer is; those distances are exact ones anyway.
        logarithmic = (exact + growth.clamp(min=0)).long().clamp(max=half - 1)
        return torch.where(size < exact, size, logarithmic) + (distances > 0) * half


class PositionGate(nn.Module):
    """How much of the position bias a query takes, from its own input, per head (unilm `gru_rel_pos`).

    `gates` maps a head's share of the input to two gates; unilm's map to 2 x 4 numbers that are summed by fours is
    the same with the sum taken beforehand.
    """

    def __init__(self, head_width: int, heads: int) -> None:
        super().__init__()
        self.gates = nn.Linear(head_width, 2)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`bias` (head, time, time) gated for each query of `x` (batch, head, time, head feature)."""
        update, reset = torch.sigmoid(self.gates(x)).chunk(2, dim=-1)
        return (update * (reset * self.scale[:, None, None] - 1.0) + 2.0) * bias
