"""The first weights of a student, by `StudentParams.init`: copied or cut from its teacher, without a gradient."""

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from fithubert.config.students import StudentParams
from fithubert.distill.targets import PIECE_SECONDS, Request, TrainingData
from fithubert.distill.warmstart.frontend import cut_frontend
from fithubert.distill.warmstart.layers import cut_layer, cut_positional, fit_layer, fit_norm, set_linear
from fithubert.distill.warmstart.regression import Channels, LinearMap, choose_for, covariance, fit_linear, sum_rows
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ, attention_mask
from fithubert.models.canonical import canonical_state
from fithubert.models.encoder import PositionalConv
from fithubert.models.frontend import group_frames, repeat_frames
from fithubert.models.heads import LayerHead
from fithubert.models.hubert import HubertModel, normalise_waveforms
from fithubert.models.student import Student
from fithubert.training.progress import OnPass, count_passes, nothing_said

#: The kinds of `StudentParams.init` that `cut_teacher` makes.
FITTED = ("cut_teacher", "prune")
#: Parts besides the convolutions and layers that may be copied.
_PARTS = ("feature_norm", "projection", "positional", "encoder_norm")


def set_first_weights(
    student: Student,
    params: StudentParams,
    data: TrainingData,
    seed: int,
    device: torch.device,
    on_part: OnPass = nothing_said,
) -> None:
    """Give the newly built `student` the weights that `params.init` names.

    `cut_teacher` and `prune` read `params.init_seconds` of training utterances, drawn by `seed`, on `device`, and tell
    `on_part` how far they are. Raises UserError if the teacher is needed and missing, or does not fit.
    """
    teacher = data.teacher
    if params.init == "random":
        return
    if teacher is None:
        raise UserError(f"init {params.init} needs the teacher's weights; give teacher or use init: random")
    if params.init == "teacher_layers":
        initialise_from_teacher(student, teacher.model)
        return
    waveforms = [w.to(device) for w in draw_waveforms(data, params.init_seconds, seed)]
    cut_teacher(student.to(device), teacher.to(device).model, waveforms, on_part)
    student.to("cpu")


def draw_waveforms(data: TrainingData, seconds: float, seed: int) -> list[Tensor]:
    """At least `seconds` of training speech, or all of it: waveforms (samples,) of utterances drawn once each."""
    drawn: list[Tensor] = []
    for crop in data.draw(seconds, seed):
        batch = data.train.read(Request((crop,), ()))
        assert batch.waveforms is not None  # Targets always give them.
        # Live targets read whole utterances.
        end = min(int(batch.lengths[0]), int(PIECE_SECONDS * SAMPLE_RATE_HZ))
        drawn.append(batch.waveforms[0, :end])
    return drawn


def initialise_from_teacher(student: Student, teacher: HubertModel) -> tuple[str, ...]:
    """Copy the teacher's front end, projection, positional convolution and first layers if their shapes agree.

    A part is copied whole or not at all; front-end and transformer layers only as long as the one before was. Returns
    the names of the copied parts; raises UserError if there are none.

    A student without feature norm (DistilHuBERT) leaves out the teacher's, as s3prl does: its projection then reads
    features of another scale than in the teacher. `feature_norm: true` keeps the norm and with it the teacher's exact
    layer 0. Differs from s3prl: the norm before the first layer is copied too.
    """
    ours, theirs = canonical_state(student), canonical_state(teacher)

    def fits(part: str) -> bool:
        names = [name for name in ours if name.startswith(f"{part}.")]
        return bool(names) and all(name in theirs and theirs[name].shape == ours[name].shape for name in names)

    copied: list[str] = []
    for stack in ("frontend.layers", "layers"):
        layers = (f"{stack}.{index}" for index, _ in enumerate(student.get_submodule(stack).children()))
        copied += takewhile(fits, layers)
    copied += filter(fits, _PARTS)
    if not copied:
        raise UserError(
            "init: no part of the teacher has the student's shape; use init: random or the teacher's widths"
        )
    prefixes = tuple(f"{part}." for part in copied)
    taken = {name: theirs[name] for name in ours if name.startswith(prefixes)}
    # The product, which sets both factors of the weight norm; one that is not copied keeps its own factors.
    product = taken.pop("positional.conv.weight", None)
    if product is not None:
        student.positional.conv.weight = product
    student.load_state_dict(taken, strict=False)
    return tuple(copied)


@torch.no_grad()
def cut_teacher(
    student: Student,
    teacher: HubertModel,
    waveforms: Sequence[Tensor],
    on_part: OnPass = nothing_said,
) -> None:
    """Fill `student` with the teacher's weights, cut to its size, from the outputs of both for `waveforms` (samples,).

    Bottom up, every layer is fitted in closed form to the teacher's, given the outputs of the student's layers below
    it. The student's channels represent the teacher's channels that predict all others best (at a reduced frame rate,
    means of neighbouring frames or their change); attention heads are cut to their strongest directions, feed-forward
    units chosen, and each output projection, norm and head is a least-squares fit. Source: the idea of cutting
    a transformer to its principal directions is SliceGPT's (Ashkboos et al. 2024), fitting layer by layer on the pruned
    input that of data-driven pruning (ThiNet, Luo et al. 2017). Differs: channels, not rotations, since the norms, the
    GELU of the positional convolution and its groups work channel by channel.

    Parts without a counterpart (shared heads, surplus filters, attention heads and units) keep their random values.
    WavLM's position bias is left out. Raises UserError if the student is wider or deeper than the teacher, has heads of
    another width, differs in norms or positional convolution, or has convolutions that match none of the teacher's.
    """
    _check(student, teacher)
    was_training = student.training
    student.eval()
    teacher.eval()
    try:
        _Cut(student, teacher, waveforms, on_part).run()
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
            f"init: heads.teacher_width {ours.heads.teacher_width} is not the teacher's width, {theirs.width}"
        )
    if theirs.pos_conv_depth > 1 or theirs.pos_conv_batch_norm:
        raise UserError(
            "init cut_teacher: only a teacher with one weight-normalised positional convolution can be cut; "
            "use init: random"
        )
    same_norm = ours.frontend == "mel" or ours.conv_norm == theirs.conv_norm
    if ours.layer_norm_first != theirs.norm_first or not same_norm:
        raise UserError(
            f"init cut_teacher: layer_norm_first and conv_norm must be the teacher's ({theirs.norm_first}, "
            f"{theirs.conv_norm})"
        )


class _Cut:
    """One cut: the student, the teacher, and the waveforms."""

    def __init__(self, student: Student, teacher: HubertModel, waveforms: Sequence[Tensor], on_part: OnPass) -> None:
        self.student, self.teacher = student, teacher
        # The front end, the teacher's states of each waveform, the input of the first layer, layers and heads.
        config = student.config
        convolutions = len(config.conv_layers) if config.frontend == "conv" else 1
        heads = len(config.heads.layer_map) if config.heads.kind == "per_layer" else 0
        total = convolutions + len(waveforms) + 1 + config.depth + heads
        on_part(0, total)  # So that a first line comes before the first part, which takes long.
        self._finish_part = count_passes(total, on_part)
        if teacher.config.normalise_waveform:
            epsilon = teacher.config.waveform_epsilon
            waveforms = [normalise_waveforms(w[None], _length(w), epsilon)[0] for w in waveforms]
        self.waveforms = waveforms

    def run(self) -> None:
        student, teacher = self.student, self.teacher
        ours, theirs = cut_frontend(student.frontend, teacher.frontend, self.waveforms, self._finish_part)
        embedded = [teacher.project(y) for y in theirs]
        hidden = self._hidden_states(embedded)
        channels = choose_for(hidden, student.config.width, student.stacked)
        ours = self._cut_input(ours, embedded, hidden[0], channels)
        self._finish_part()
        none: list[Tensor | None] = [None] * len(self.waveforms)
        layers, maps = [ours], none
        for index, layer in enumerate(student.layers):
            # A layer of a shallower student represents the last of several of the teacher's.
            last = round((index + 1) * teacher.config.depth / student.config.depth) - 1
            if student.time_reduction is not None and index == student.config.time_reduction.before_layer:
                channels, ours = self._cut_reduction(ours, hidden[last:])
            inputs, reuse = ours, student.config.reuse_attention
            maps = maps if index in reuse else none
            masks = [attention_mask(_length(x), len(x), student.config.context_frames) for x in inputs]
            ours = cut_layer(layer, teacher.layers[last], channels, inputs, hidden[last], maps, masks)  # type: ignore[arg-type]
            if index + 1 in reuse and index not in reuse:
                maps = [layer.attention_map(x[None], m) for x, m in zip(inputs, masks, strict=True)]  # type: ignore[operator]
            layers.append(ours)
            self._finish_part()
        if student.config.layer_norm_first:
            layers[-1] = fit_norm(student.encoder_norm, ours, [channels.of(y) for y in hidden[-1]])
        self._fit_heads(layers, hidden)

    def _hidden_states(self, embedded: Sequence[Tensor]) -> list[list[Tensor]]:
        """Layer 0..L of the teacher, each (time, feature) per utterance; a pre-norm one's last after its final norm."""
        states = []
        for y in embedded:
            states.append(self.teacher.encode(y[None], _length(y)))
            self._finish_part()
        return [[layer[0] for layer in layers] for layers in zip(*states, strict=True)]

    def _cut_input(
        self, ours: list[Tensor], embedded: Sequence[Tensor], layer_0: Sequence[Tensor], channels: Channels
    ) -> list[Tensor]:
        """Projection, positional convolution and norm; the student's layer 0 before layers that reduce its rate."""
        student, positional = self.student, self.teacher.positional
        assert isinstance(positional, PositionalConv)  # _check has ensured it.
        if student.feature_norm is not None:
            ours = [student.feature_norm(x) for x in ours]
        if student.stacked > 1:
            ours = [group_frames(x[None], _length(x), student.stacked, student.stacked - 1)[0] for x in ours]
        if student.projection is not None:
            ours = fit_layer(student.projection, ours, [channels.of(y) for y in embedded])
        cut_positional(student.positional, positional, channels, ours, embedded)
        ours = [x + student.positional(x[None], _length(x))[0] for x in ours]
        if student.config.layer_norm_first:
            return ours
        return fit_norm(student.encoder_norm, ours, [channels.of(y) for y in layer_0])

    def _cut_reduction(self, ours: list[Tensor], hidden: Sequence[Sequence[Tensor]]) -> tuple[Channels, list[Tensor]]:
        """The channels at the reduced rate, which best restore the layers `hidden`, and the reduced frames.

        The reduction's last linear map is fitted to the first of these layers; `mean` has no map.
        """
        reduction, config = self.student.time_reduction, self.student.config
        assert reduction is not None
        fixed = reduction.kind == "mean"
        channels = choose_for(hidden, config.width, reduction.factor, not reduction.added_frames, means_only=fixed)
        if not fixed:
            groups = [reduction.group(x[None], _length(x))[0] for x in ours]
            fit_layer(reduction.linear, groups, [channels.of(y) for y in hidden[0]])
        return channels, [reduction(x[None], _length(x))[0][0] for x in ours]

    def _fit_heads(self, layers: Sequence[Sequence[Tensor]], hidden: Sequence[Sequence[Tensor]]) -> None:
        config = self.student.config.heads
        if config.kind == "per_layer":  # Heads that share weights, or have none, are not fitted.
            for head, (ours, theirs) in zip(self.student.heads.children(), config.layer_map, strict=True):
                _fit_head(head, layers[ours], hidden[theirs])  # type: ignore[arg-type]
                self._finish_part()


def _fit_head(head: LayerHead, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Fit a head by least squares from a student layer to a teacher layer; an upsampling limits the rank."""
    if head.upsampling is None:
        repeated = [repeat_frames(x[None], head.factor, len(y))[0] for x, y in zip(ours, theirs, strict=True)]
        fit_layer(head.projection, repeated, theirs)
        return
    phases = []
    for phase in range(head.factor):
        wanted = [y[phase :: head.factor] for y in theirs]
        phases.append(fit_linear([x[: len(y)] for x, y in zip(ours, wanted, strict=True)], wanted))
    # All phases share one projection: the directions in which they change the output most.
    moments = covariance(ours).to(phases[0].weight.dtype)
    moved = torch.stack([p.weight @ moments @ p.weight.T for p in phases]).sum(0)
    directions = torch.linalg.eigh(moved.double())[1].flip(1)[:, : ours[0].shape[1]].to(moved.dtype)
    head.upsampling.weight.copy_(torch.stack([directions.T @ p.weight for p in phases]))
    head.upsampling.bias.zero_()
    # The bias restores the part of the mean frame that the lower rank loses.
    middle = (sum_rows(ours) / sum(len(x) for x in ours)).to(moved.dtype)
    lost = [p(middle) - directions @ (directions.T @ (p.weight @ middle)) for p in phases]
    set_linear(head.projection, LinearMap(directions, torch.stack(lost).mean(0)))


def _length(x: Tensor) -> Tensor:
    return torch.tensor([len(x)], device=x.device)
