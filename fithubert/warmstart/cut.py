"""`cut_teacher`: every weight of a thin deep student from its teacher, without a gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.student.heads import LayerHead, SharedHeads
from fithubert.student.model import Student
from fithubert.student.time_reduction import TimeReduction, repeat_frames
from fithubert.teachers.hubert import HubertModel, normalise_waveforms
from fithubert.warmstart.encoder import Pool, cut_layer, cut_positional, fit_norm, set_linear
from fithubert.warmstart.frontend import cut_frontend
from fithubert.warmstart.regression import LinearMap, choose_channels, covariance, fit_linear


@torch.no_grad()
def cut_teacher(student: Student, teacher: HubertModel, waveforms: Sequence[Tensor]) -> None:
    """Fill `student` with the teacher's weights, cut to its size, by what both say of `waveforms` (samples,) each.

    Bottom up, every layer is fitted in closed form to the teacher's, given what the student's layers below it already
    say: the student's channels stand for the teacher's channels that restore all others best; attention heads are cut
    to their strongest directions, feed-forward units chosen, and each output projection, norm and head is a least-
    squares fit. Time reduction starts as the mean of neighbouring frames. Source: the idea of cutting a transformer
    to its principal directions is SliceGPT's (Ashkboos et al. 2024), fitting layer by layer on the pruned input that
    of data-driven pruning (ThiNet, Luo et al. 2017). Differs: channels, not rotations, since the norms, the GELU of the
    positional convolution and its groups work channel by channel.

    What has no counterpart (shared heads, `fc2` reduction, surplus channels, heads and units) keeps its random start.
    Raises UserError where the student is wider or deeper than the teacher, has heads of another width, or the two do
    not stride or norm alike.
    """
    _check(student, teacher)
    was_training = student.training
    student.eval()
    teacher.eval()
    try:
        _Cut(student, teacher, waveforms).run()
    finally:
        student.train(was_training)


def _check(student: Student, teacher: HubertModel) -> None:
    ours, theirs = student.config, teacher.config
    if ours.width > theirs.width or ours.depth > theirs.depth:
        raise UserError(
            f"init cut_teacher: a student {ours.width} wide and {ours.depth} deep cannot be cut from a teacher "
            f"{theirs.width} wide and {theirs.depth} deep; use init: random"
        )
    if ours.heads.kind == "per_layer" and ours.heads.teacher_width != theirs.width:
        raise UserError(
            f"init cut_teacher: heads.teacher_width {ours.heads.teacher_width} is not the teacher's width {theirs.width}"
        )
    if ours.layer_norm_first != theirs.norm_first or ours.conv_norm != theirs.conv_norm:
        raise UserError(
            f"init cut_teacher: layer_norm_first and conv_norm must be the teacher's ({theirs.norm_first}, "
            f"{theirs.conv_norm})"
        )


class _Cut:
    """One cut: the student, the teacher, and what the teacher's layers say of the waveforms."""

    def __init__(self, student: Student, teacher: HubertModel, waveforms: Sequence[Tensor]) -> None:
        self.student, self.teacher = student, teacher
        if teacher.config.normalise_waveform:
            waveforms = [normalise_waveforms(w[None], _length(w))[0] for w in waveforms]
        self.waveforms = waveforms

    def run(self) -> None:
        student, teacher = self.student, self.teacher
        ours, theirs = cut_frontend(student.frontend, teacher.frontend, self.waveforms)
        embedded = [teacher.projection(teacher.feature_norm(y)) for y in theirs]
        hidden = self._hidden_states(embedded)
        # Layers weigh alike in the choice of channels, whatever their scale.
        moments = [covariance(states) for states in hidden]
        kept = choose_channels(torch.stack([m / m.trace() for m in moments]).sum(0), student.config.width)
        kept = kept.sort().values.to(embedded[0].device)
        ours = self._cut_input(ours, embedded, hidden[0], kept)
        layers, maps = [ours], self._no_maps()
        for index, layer in enumerate(student.layers):
            if student.time_reduction is not None and index == student.config.time_reduction.before_layer:
                ours = self._cut_reduction(ours)
            inputs, reuse = ours, student.config.reuse_attention
            maps = maps if index in reuse else self._no_maps()
            # A shallower student's layer stands for the last of several of the teacher's.
            last = round((index + 1) * teacher.config.depth / student.config.depth) - 1
            source, pool = teacher.layers[last], self._pool(index)
            ours = cut_layer(layer, source, kept, inputs, hidden[last], pool, maps)  # type: ignore[arg-type]
            if index + 1 in reuse and index not in reuse:
                maps = [layer.attention_map(x[None], None) for x in inputs]  # type: ignore[operator]
            layers.append(ours)
        if student.config.layer_norm_first:
            pool = self._pool(student.config.depth - 1)
            fit_norm(student.encoder_norm, ours, [pool(y)[:, kept] for y in hidden[-1]])
            layers[-1] = [student.encoder_norm(x) for x in ours]
        self._fit_heads(layers, hidden)

    def _hidden_states(self, embedded: Sequence[Tensor]) -> list[list[Tensor]]:
        """Layer 0..L of the teacher, each (time, feature) per utterance; a pre-norm one's last after its final norm."""
        teacher = self.teacher
        states = [y + teacher.positional(y[None], _length(y))[0] for y in embedded]
        if not teacher.config.norm_first:
            states = [teacher.encoder_norm(y) for y in states]
        hidden = [states]
        for layer in teacher.layers:
            states = [layer(y[None], None)[0] for y in states]
            hidden.append(states)
        if teacher.config.norm_first:
            hidden[-1] = [teacher.encoder_norm(y) for y in states]
        return hidden

    def _cut_input(
        self, ours: list[Tensor], embedded: Sequence[Tensor], layer_0: Sequence[Tensor], kept: Tensor
    ) -> list[Tensor]:
        """Projection, positional convolution and norm; the student's layer 0 before its time reduction."""
        student, teacher = self.student, self.teacher
        if student.feature_norm is not None:
            ours = [student.feature_norm(x) for x in ours]
        if student.projection is not None:
            set_linear(student.projection, fit_linear(ours, [y[:, kept] for y in embedded]))
            ours = [student.projection(x) for x in ours]
        cut_positional(student.positional, teacher.positional, kept, ours, embedded)
        ours = [x + student.positional(x[None], _length(x))[0] for x in ours]
        if student.config.layer_norm_first:
            return ours
        fit_norm(student.encoder_norm, ours, [y[:, kept] for y in layer_0])
        return [student.encoder_norm(x) for x in ours]

    def _cut_reduction(self, ours: list[Tensor]) -> list[Tensor]:
        """The mean of neighbouring frames, where the reduction is one linear map."""
        reduction = self.student.time_reduction
        assert reduction is not None
        if reduction.kind in ("conv1d", "fc1"):
            width = self.student.config.width
            reduction.linear.weight.copy_(torch.eye(width).repeat_interleave(reduction.factor, 1) / reduction.factor)
            reduction.linear.bias.zero_()
        return [reduction(x[None], _length(x))[0][0] for x in ours]

    def _pool(self, index: int) -> Pool:
        """From the teacher's frame rate to that of transformer layer `index` (from 0) of the student."""
        config = self.student.config.time_reduction
        if config.kind == "none" or index < config.before_layer:
            return lambda y: y
        mean = TimeReduction("mean", self.teacher.config.width, config.factor, config.drop_last_frame)
        return lambda y: mean(y[None], _length(y))[0][0]

    def _no_maps(self) -> list[Tensor | None]:
        return [None] * len(self.waveforms)

    def _fit_heads(self, layers: Sequence[Sequence[Tensor]], hidden: Sequence[Sequence[Tensor]]) -> None:
        if isinstance(self.student.heads, SharedHeads):
            return
        for head, (ours, theirs) in zip(self.student.heads, self.student.config.heads.layer_map, strict=True):
            if isinstance(head, LayerHead):
                _fit_head(head, layers[ours], hidden[theirs])


def _fit_head(head: LayerHead, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Least squares from a layer of the student to one of the teacher; with an upsampling, of the rank that it has."""
    if head.upsampling is None:
        repeated = [repeat_frames(x[None], head.factor, len(y))[0] for x, y in zip(ours, theirs, strict=True)]
        set_linear(head.projection, fit_linear(repeated, theirs))
        return
    phases = []
    for phase in range(head.factor):
        wanted = [y[phase :: head.factor] for y in theirs]
        phases.append(fit_linear([x[: len(y)] for x, y in zip(ours, wanted, strict=True)], wanted))
    # All phases share one projection: the directions in which they move the output most.
    moments = covariance(ours).to(phases[0].weight.dtype)
    moved = torch.stack([p.weight @ moments @ p.weight.T for p in phases]).sum(0)
    directions = torch.linalg.eigh(moved.double())[1].flip(1)[:, : ours[0].shape[1]].to(moved.dtype)
    head.upsampling.weight.copy_(torch.stack([directions.T @ p.weight for p in phases]))
    head.upsampling.bias.zero_()
    set_linear(head.projection, LinearMap(directions, torch.stack([p.bias for p in phases]).mean(0)))


def _length(x: Tensor) -> Tensor:
    return torch.tensor([len(x)], device=x.device)
