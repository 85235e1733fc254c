"""The teacher's hidden states for training, read from a feature store or computed on the spot, behind one interface."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from fithubert.config.students import StudentConfig
from fithubert.data.batching import Crop
from fithubert.errors import UserError
from fithubert.files import digest, digest_json
from fithubert.frames import SAMPLE_RATE_HZ, count_frames, count_samples, pad_waveforms, receptive_field
from fithubert.models.speech_model import MaskableModel, SpeechModel

if TYPE_CHECKING:
    from fithubert.data.manifest import Manifest
    from fithubert.store.read import FeatureStore


@dataclass(frozen=True)
class DistillBatch:
    """One padded batch: what the student hears and what it has to predict.

    `waveforms` (batch, samples) float32 at 16 kHz, `lengths` (batch,) samples; `targets`: teacher layer -> (batch,
    time, feature) float32, `target_lengths` (batch,) frames. Before `Targets.finish`, `targets` may be empty. `masked`
    (batch, time) bool: frames that are hidden from the student; it draws its own where that is None.
    """

    ids: tuple[str, ...]
    waveforms: Tensor
    lengths: Tensor
    targets: dict[int, Tensor]
    target_lengths: Tensor
    masked: Tensor | None = None

    def to(self, device: torch.device) -> "DistillBatch":
        """The same batch with its tensors on `device`."""
        if device.type == "cpu":
            return self
        targets = {layer: _move(tensor, device) for layer, tensor in self.targets.items()}
        return DistillBatch(
            self.ids,
            _move(self.waveforms, device),
            _move(self.lengths, device),
            targets,
            _move(self.target_lengths, device),
            None if self.masked is None else _move(self.masked, device),
        )


class Targets(Protocol):
    """Utterances, sorted by id, with the teacher's hidden states. Equal corpora give equal plans, cached or live."""

    ids: tuple[str, ...]
    #: Teacher frames of each utterance.
    num_frames: tuple[int, ...]
    #: The shard of each utterance, or None where there are none.
    shards: tuple[int, ...] | None
    #: Teacher layers on offer, and the feature size of each.
    widths: dict[int, int]
    #: (kernel, stride) of the teacher's convolutions: its frame rate and receptive field.
    convolutions: tuple[tuple[int, int], ...]
    #: A digest of everything that decides the batches.
    fingerprint: str
    #: Whether `finish` lets the teacher hear speech with the frames of `masked` hidden.
    hears_masks: bool

    def read(self, crops: Sequence[Crop], layers: Sequence[int]) -> DistillBatch:
        """The batch as far as reading gives it; called ahead of need, from another thread."""
        ...

    def finish(self, batch: DistillBatch, crops: Sequence[Crop], layers: Sequence[int]) -> DistillBatch:
        """The batch with all its targets on its device; called by the thread that trains.

        Where frames are `masked`, a teacher that `hears_masks` gives those as it hears the whole speech, and the
        others as it hears the masked speech.
        """
        ...


def stride_samples(targets: Targets) -> int:
    """Samples from one teacher frame to the next."""
    return receptive_field(targets.convolutions)[1]


class CachedTargets:
    """Targets from a feature store that holds the waveforms too; only the asked layers are read."""

    hears_masks = False

    def __init__(self, store: "FeatureStore") -> None:
        self._store = store
        self._order = sorted(range(len(store.ids)), key=lambda index: store.ids[index])
        self.ids = tuple(store.ids[index] for index in self._order)
        self.num_frames = tuple(store.num_frames[index] for index in self._order)
        self.shards: tuple[int, ...] | None = tuple(store.groups[index] for index in self._order)
        self.widths = dict(zip(store.layers, store.widths, strict=True))
        self.convolutions = store.info.convolutions
        self.fingerprint = store.info.fingerprint

    def read(self, crops: Sequence[Crop], layers: Sequence[int]) -> DistillBatch:
        """The whole batch, decoded."""
        rows = [replace(crop, index=self._order[crop.index]) for crop in crops]
        batch = self._store.read_batch(rows, layers)
        if batch.waveforms is None:
            raise UserError("the cache holds no waveforms; build it again with them (fithubert cache)")
        return DistillBatch(
            tuple(batch.ids), batch.waveforms, batch.lengths, dict(batch.hidden_states), batch.frame_lengths
        )

    def finish(self, batch: DistillBatch, crops: Sequence[Crop], layers: Sequence[int]) -> DistillBatch:
        """`batch` as it is."""
        return batch


class LiveTargets:
    """Targets that the teacher computes in every step, on whole utterances, cropped afterwards.

    A crop's target has thus seen the whole utterance, as a cached one has. Each rank computes those of its own crops
    only, on the device that it trains on, where the teacher can be moved (`to`). `batch_seconds` bounds the padded
    audio in one forward pass of the teacher.
    """

    def __init__(self, manifest: "Manifest", teacher: SpeechModel, batch_seconds: float = 60.0) -> None:
        self._manifest, self._teacher = manifest, teacher
        self._utterances = tuple(sorted(manifest.utterances, key=lambda utterance: utterance.id))
        self._batch_samples = int(batch_seconds * SAMPLE_RATE_HZ)
        self._device: torch.device | None = None
        self.ids = tuple(utterance.id for utterance in self._utterances)
        self.convolutions = tuple(teacher.convolutions)
        self.num_frames = tuple(count_frames(u.num_samples, self.convolutions) for u in self._utterances)
        self.shards: tuple[int, ...] | None = None
        self.widths = dict(enumerate(teacher.widths))
        self.hears_masks = isinstance(teacher, MaskableModel) and teacher.mask_embedding is not None
        self.fingerprint = digest("live", teacher.fingerprint, digest_json(self.ids), manifest.fingerprint)

    def read(self, crops: Sequence[Crop], layers: Sequence[int]) -> DistillBatch:
        """Whole waveforms, without targets."""
        whole = [self._manifest.read(self._utterances[crop.index]) for crop in crops]
        waveforms, lengths = pad_waveforms(whole)
        frames = torch.tensor([crop.num_frames for crop in crops])
        return DistillBatch(tuple(self.ids[crop.index] for crop in crops), waveforms, lengths, {}, frames)

    def finish(self, batch: DistillBatch, crops: Sequence[Crop], layers: Sequence[int]) -> DistillBatch:
        """The crops of `batch`'s whole waveforms, with the teacher's frames for each."""
        self._place_teacher(batch.waveforms.device)
        stride = receptive_field(self.convolutions)[1]
        pieces = []
        for row, crop in enumerate(crops):
            start = crop.start_frame * stride
            pieces.append(batch.waveforms[row, start : start + count_samples(crop.num_frames, self.convolutions)])
        waveforms, lengths = pad_waveforms(pieces)
        longest = max(crop.num_frames for crop in crops)
        # Made outside inference mode, so that the loss may keep them for its backward pass.
        shape = (len(crops), longest)
        targets = {layer: waveforms.new_zeros(*shape, self.widths[layer]) for layer in layers}
        for rows in self._teacher_batches(batch.lengths.tolist()):
            states = self._hear(batch, crops, rows, max(layers))
            for place, row in enumerate(rows):
                start, frames = crops[row].start_frame, crops[row].num_frames
                for layer in layers:
                    hidden = states[layer][place, start : start + frames]
                    targets[layer][row, :frames] = hidden.to(waveforms.device, torch.float32)
        return replace(batch, waveforms=waveforms, lengths=lengths, targets=targets)

    def _hear(self, batch: DistillBatch, crops: Sequence[Crop], rows: list[int], last_layer: int) -> list[Tensor]:
        """The teacher's layers of whole utterances `rows`, (row, time, feature) each."""
        lengths = batch.lengths[rows]
        waveforms = batch.waveforms[rows, : int(lengths.max())]
        heard = self._teacher(waveforms, lengths, last_layer).hidden_states
        if batch.masked is None:
            return list(heard)
        masked = torch.zeros(heard[0].shape[:2], dtype=torch.bool, device=heard[0].device)
        for place, row in enumerate(rows):
            start, frames = crops[row].start_frame, crops[row].num_frames
            masked[place, start : start + frames] = batch.masked[row, :frames]
        if not isinstance(self._teacher, MaskableModel):
            raise UserError(f"teacher {self._teacher.name!r}: has no mask embedding, so its frames cannot be masked")
        muffled = self._teacher(waveforms, lengths, last_layer, masked).hidden_states
        return [torch.where(masked[:, :, None], x, y) for x, y in zip(heard, muffled, strict=True)]

    def _place_teacher(self, device: torch.device) -> None:
        move = getattr(self._teacher, "to", None)
        if move is not None and device != self._device:
            move(device)
        self._device = device

    def _teacher_batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows to run together: in order of length, at most `batch_seconds` of padded audio each."""
        groups: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
            if not groups or (len(groups[-1]) + 1) * lengths[row] > self._batch_samples:
                groups.append([])
            groups[-1].append(row)
        return groups


def check_targets(targets: Targets, config: StudentConfig) -> None:
    """Raise UserError where a student of `config`'s shape cannot learn from `targets`: layers, widths, frame rate."""
    heads = config.heads
    ours = receptive_field([(kernel, stride) for _, kernel, stride in config.conv_layers])
    theirs = receptive_field(targets.convolutions)
    if ours != theirs:
        raise UserError(
            f"conv_layers: a frame spans {ours[0]} samples every {ours[1]}, the teacher's {theirs[0]} every {theirs[1]}"
        )
    if not heads.layer_map:
        raise UserError("heads.layer_map: training needs at least one (student layer, teacher layer) pair")
    for _, layer in heads.layer_map:
        if layer not in targets.widths:
            held = ", ".join(str(held) for held in sorted(targets.widths))
            raise UserError(f"heads.layer_map: no targets for teacher layer {layer}, only for {held}")
        if heads.kind != "none" and targets.widths[layer] != heads.teacher_width:
            width = targets.widths[layer]
            raise UserError(f"heads.teacher_width: {heads.teacher_width}, but teacher layer {layer} has {width}")
    if not any(targets.num_frames):
        raise UserError("distill: there are no utterances to train on or to evaluate; check the train and dev splits")


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    # Pinned memory lets the copy run beside the computation.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
