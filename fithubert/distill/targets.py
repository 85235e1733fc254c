"""The teacher's hidden states for training, read from a feature store or computed when they are needed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from fithubert.config.hints import HintParams
from fithubert.config.params import CacheParams
from fithubert.config.students import StudentConfig
from fithubert.config.teacher import Precision
from fithubert.data.batching import Crop, draw_sample, group_consecutive
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import digest, digest_json
from fithubert.frames import SAMPLE_RATE_HZ, count_frames, count_samples, pad_waveforms, receptive_field
from fithubert.models.frontend import frontend_convolutions
from fithubert.models.hubert import HubertTeacher
from fithubert.models.speech_model import MaskableModel, SpeechModel
from fithubert.models.weights import read_teacher
from fithubert.store import Expected
from fithubert.store.codec import CODECS
from fithubert.store.read import FeatureStore, HiddenStateBatch
from fithubert.workspace import Workspace

#: The longest piece of an utterance that the start of a training reads.
PIECE_SECONDS = 10.0


@dataclass(frozen=True)
class Request:
    """Crops of utterances, and the teacher layers wanted for them.

    `masked`: (batch, time) bool, the frames that the student does not read; it draws its own if that is None.
    """

    crops: tuple[Crop, ...]
    layers: tuple[int, ...]
    masked: Tensor | None = None


class Targets(Protocol):
    """Utterances, sorted by id, with the teacher's hidden states. Equal corpora give equal plans, cached or live.

    Every batch has waveforms. `hidden_states` has exactly the requested layers after `finish`.
    """

    ids: tuple[str, ...]
    #: Frames of each utterance at the teacher's rate.
    num_frames: tuple[int, ...]
    #: The shard of each utterance, or None if there are no shards.
    shards: tuple[int, ...] | None
    #: The feature size of each available teacher layer.
    widths: dict[int, int]
    #: (kernel, stride) of the teacher's convolutions: its frame rate and receptive field.
    convolutions: tuple[tuple[int, int], ...]
    #: A digest of everything that decides the batches.
    fingerprint: str
    #: Whether `finish` runs the teacher on speech without the masked frames.
    supports_masks: bool

    def read(self, request: Request) -> HiddenStateBatch:
        """The part of the batch that reading gives; called ahead of need, on another thread."""
        ...

    def finish(self, batch: HiddenStateBatch, request: Request) -> HiddenStateBatch:
        """The complete batch that `read` began, on the batch's device; called by the thread that trains.

        With masked frames and `supports_masks`, the targets of masked frames come from the whole speech and those of
        the other frames from the masked speech.
        """
        ...


class LiveTeacher(MaskableModel, SpeechModel, Protocol):
    """A teacher that can be moved to the device of the training, and may read masked speech."""

    def to(self, device: torch.device | str) -> "LiveTeacher":
        """This teacher with its weights on `device`."""
        ...


class CachedTargets:
    """Targets from a feature store that holds the waveforms too. Only the requested layers are read."""

    supports_masks = False

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._order = sorted(range(len(store.ids)), key=lambda index: store.ids[index])
        self.ids = tuple(store.ids[index] for index in self._order)
        self.num_frames = tuple(store.num_frames[index] for index in self._order)
        self.shards: tuple[int, ...] | None = tuple(store.shards[index] for index in self._order)
        self.widths = dict(zip(store.layers, store.widths, strict=True))
        self.convolutions = store.info.convolutions
        self.fingerprint = store.info.fingerprint

    def read(self, request: Request) -> HiddenStateBatch:
        """The whole batch, decoded."""
        rows = [replace(crop, index=self._order[crop.index]) for crop in request.crops]
        batch = self._store.read_batch(rows, request.layers)
        if batch.waveforms is None:
            raise UserError("the cache holds no waveforms; build it again with them (fithubert cache)")
        return replace(batch, masked=request.masked)

    def finish(self, batch: HiddenStateBatch, request: Request) -> HiddenStateBatch:
        """`batch` unchanged."""
        return batch


class LiveTargets:
    """Targets computed when they are needed, from whole utterances and then cropped, exactly as a cache holds them.

    Each rank computes those of its own crops only, on the device that it trains on. `batch_seconds` limits the padded
    audio in one forward pass of the teacher.
    """

    def __init__(self, manifest: Manifest, teacher: LiveTeacher, batch_seconds: float = 60.0) -> None:
        self._manifest, self._teacher = manifest, teacher
        self._utterances = tuple(sorted(manifest.utterances, key=lambda utterance: utterance.id))
        self._batch_samples = int(batch_seconds * SAMPLE_RATE_HZ)
        self.ids = tuple(utterance.id for utterance in self._utterances)
        self.convolutions = tuple(teacher.convolutions)
        self.num_frames = tuple(count_frames(u.num_samples, self.convolutions) for u in self._utterances)
        self.shards: tuple[int, ...] | None = None
        self.widths = dict(enumerate(teacher.widths))
        self.supports_masks = teacher.mask_embedding is not None
        self.fingerprint = digest("live", teacher.fingerprint, digest_json(self.ids), manifest.fingerprint)

    def read(self, request: Request) -> HiddenStateBatch:
        """Whole waveforms, without targets."""
        waveforms, lengths = pad_waveforms([self._manifest.read(self._utterances[c.index]) for c in request.crops])
        frame_lengths = torch.tensor([crop.num_frames for crop in request.crops])
        ids = tuple(self.ids[crop.index] for crop in request.crops)
        return HiddenStateBatch(ids, waveforms, lengths, {}, frame_lengths, request.masked)

    def finish(self, batch: HiddenStateBatch, request: Request) -> HiddenStateBatch:
        """The crops of `batch`'s whole waveforms, with the teacher's frames for each."""
        whole, crops = batch.waveforms, request.crops
        assert whole is not None  # `read` gave them
        self._teacher.to(whole.device)
        stride = receptive_field(self.convolutions)[1]
        pieces = []
        for row, crop in enumerate(crops):
            start = crop.start_frame * stride
            pieces.append(whole[row, start : start + count_samples(crop.num_frames, self.convolutions)])
        waveforms, lengths = pad_waveforms(pieces)
        # Created outside inference mode, so that the loss may keep them for its backward pass.
        shape = (len(crops), max(crop.num_frames for crop in crops))
        targets = {layer: waveforms.new_zeros(*shape, self.widths[layer]) for layer in request.layers}
        samples = batch.lengths.tolist()
        by_length = sorted(range(len(crops)), key=lambda row: samples[row])
        for rows in group_consecutive(by_length, lambda row: samples[row], self._batch_samples, padded=True):
            states = self._compute(whole, batch, crops, rows, max(request.layers))
            for place, row in enumerate(rows):
                start, frames = crops[row].start_frame, crops[row].num_frames
                for layer in request.layers:
                    hidden = states[layer][place, start : start + frames]
                    targets[layer][row, :frames] = hidden.to(waveforms.device, torch.float32)
        return replace(batch, waveforms=waveforms, lengths=lengths, hidden_states=targets)

    def _compute(
        self, whole: Tensor, batch: HiddenStateBatch, crops: Sequence[Crop], rows: list[int], last_layer: int
    ) -> list[Tensor]:
        """The teacher's layers of whole utterances `rows`, (row, time, feature) each."""
        lengths = batch.lengths[rows]
        waveforms = whole[rows, : int(lengths.max())]
        unmasked = self._teacher(waveforms, lengths, last_layer).hidden_states
        if batch.masked is None:
            return list(unmasked)
        masked = torch.zeros(unmasked[0].shape[:2], dtype=torch.bool, device=unmasked[0].device)
        for place, row in enumerate(rows):
            start, frames = crops[row].start_frame, crops[row].num_frames
            masked[place, start : start + frames] = batch.masked[row, :frames]
        others = self._teacher(waveforms, lengths, last_layer, masked).hidden_states
        return [torch.where(masked[:, :, None], x, y) for x, y in zip(unmasked, others, strict=True)]


@dataclass(frozen=True)
class TrainingData:
    """The targets of a training. `teacher`: the first weights of a student whose `init` is not random."""

    train: Targets
    dev: Targets
    teacher: HubertTeacher | None = None

    @property
    def seconds_per_frame(self) -> float:
        """Seconds from one teacher frame to the next."""
        return receptive_field(self.train.convolutions)[1] / SAMPLE_RATE_HZ

    def count_frames(self, seconds: float) -> int:
        """Frames of the teacher in `seconds`, at least one."""
        return max(1, round(seconds / self.seconds_per_frame))

    def sample_dev(self, seconds: float | None) -> list[int]:
        """Frames of each dev utterance that evaluations read: about `seconds` in all, None for everything; 0: none."""
        most_frames = None if seconds is None else self.count_frames(seconds)
        return draw_sample(self.dev.ids, self.dev.num_frames, most_frames)

    def draw(self, seconds: float, seed: int) -> Iterator[Crop]:
        """At least `seconds` of training speech, or all of it: the starts of utterances drawn once each."""
        total_seconds = 0.0
        num_frames = self.train.num_frames
        order = torch.randperm(len(num_frames), generator=torch.Generator().manual_seed(seed)).tolist()
        for index in order:
            if total_seconds >= seconds:
                break
            frames = min(num_frames[index], int(PIECE_SECONDS / self.seconds_per_frame))
            total_seconds += frames * self.seconds_per_frame
            if frames > 0:
                yield Crop(index, 0, frames)

    def draw_hidden_states(
        self, layers: tuple[int, ...], seconds: float, seed: int, device: torch.device
    ) -> Iterator[dict[int, Tensor]]:
        """The teacher's `layers`, (time, feature) each on `device`, of what `draw` draws; nothing is masked."""
        for crop in self.draw(seconds, seed):
            request = Request((crop,), layers)
            batch = self.train.finish(self.train.read(request).to(device), request)
            yield {layer: hidden[0] for layer, hidden in batch.hidden_states.items()}


def open_targets(
    workspace: Workspace, targets: Literal["cached", "live"], cache: CacheParams, precision: Precision
) -> TrainingData:
    """The workspace's teacher at `precision`, and its hidden states on train and dev.

    They are computed live or read from the caches that `cache` describes. Raises UserError if the teacher, the corpus
    or a cache is missing or is another one.
    """
    teacher = read_teacher(workspace.teacher)
    teacher.precision = precision
    corpus = workspace.load_manifest()
    opened: list[Targets] = []
    for split in ("train", "dev"):
        manifest = corpus.select(split=split)
        if targets == "live":
            opened.append(LiveTargets(manifest, teacher))
            continue
        layers = tuple(range(len(teacher.widths))) if cache.layers == "all" else cache.layers
        share = cache.variance_share if CODECS[cache.codec].fitted else None
        expected = Expected(teacher.fingerprint, manifest.fingerprint, cache.codec, layers, share)
        opened.append(CachedTargets(FeatureStore.open(workspace.cache(split), expected)))
    train, dev = opened
    return TrainingData(train, dev, teacher)


def check_targets(data: TrainingData, config: StudentConfig, hints: HintParams, shuffle: str) -> None:
    """Raise UserError if a student of shape `config` cannot learn from `data`: layers, widths, frame rate, masks."""
    for targets in (data.train, data.dev):
        _check_fit(targets, config, hints)
    for name in ("masked_teacher", "masking_from"):
        if getattr(hints, name) and config.masking is None:
            raise UserError(f"hints.{name}: nothing is masked; give shape.masking or a recipe that masks")
    if hints.masked_teacher and not data.train.supports_masks:
        raise UserError(
            "hints.masked_teacher: the teacher must read the masked speech; set distill.targets: live, with a teacher "
            "whose mask embedding is known"
        )
    if shuffle == "shards" and data.train.shards is None:
        raise UserError("distill.shuffle: shards needs cached targets; use corpus with live ones")


def _check_fit(targets: Targets, config: StudentConfig, hints: HintParams) -> None:
    heads = config.heads
    ours = receptive_field(frontend_convolutions(config))
    theirs = receptive_field(targets.convolutions)
    if ours != theirs:
        name = "conv_layers" if config.frontend == "conv" else f"frontend {config.frontend}"
        raise UserError(
            f"{name}: a frame spans {ours[0]} samples every {ours[1]}, the teacher's {theirs[0]} every {theirs[1]}"
        )
    if not heads.layer_map:
        raise UserError("heads.layer_map: training needs at least one (student layer, teacher layer) pair")
    needed = [("heads.layer_map", layer) for _, layer in heads.layer_map]
    needed += [] if hints.units is None else [("hints.units.teacher_layer", hints.units.teacher_layer)]
    for name, layer in needed:
        if layer not in targets.widths:
            held = ", ".join(str(held) for held in sorted(targets.widths))
            raise UserError(f"{name}: no targets for teacher layer {layer}, only for {held}")
        if name == "heads.layer_map" and heads.kind != "none" and targets.widths[layer] != heads.teacher_width:
            width = targets.widths[layer]
            raise UserError(f"heads.teacher_width: {heads.teacher_width}, but teacher layer {layer} has {width}")
    if not any(targets.num_frames):
        raise UserError("distill: there are no utterances to train on or to evaluate; check the train and dev splits")
