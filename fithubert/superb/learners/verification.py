"""ASV: do two sentences have the same speaker? By an x-vector trained on the speakers of the training split.

Trials: the corpus's own list, or else all pairs of the held-out speakers' sentences (the verification split). SUPERB's
network with the budget's width (official: 512, pooled 1500), additive-margin softmax, AdamW, clip 1000, whole sentences
(official: crops of 8 s; sentences of the embedded corpus are shorter). The dev split's trials select the checkpoint;
dev has the speakers of training. The value that the official recipe selects on test is reported under another name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.records import Pooling
from fithubert.store.read import FeatureStore
from fithubert.superb.bank import Bank, ShuffledBatches, Variants, read_banks
from fithubert.superb.heads import LayerSum, pad_frames, sum_layers
from fithubert.superb.learners import DEFAULT_OPTIONS, MissingLabels, RunOptions, Training
from fithubert.superb.metrics import IntArray, Measure, Verification
from fithubert.tasks import TASKS, Metric

#: Width before pooling for each of the budget's width: about 1500 of 512.
_POOLED_RATIO = 3
_EVAL_BATCH = 32
ADAMW = Training(torch.optim.AdamW, gradient_clip=1000.0)


class SpeakerHead(nn.Module):
    """Weighted sum, projector, x-vector network with statistics pooling, additive-margin softmax: ASV.

    SUPERB's `width` is 512, its `pooled` 1500. Pooling covers exactly the valid frames; in training `extra_frames`
    more, up to the length of the longest utterance of the batch (s3prl: one more).
    """

    #: (context in frames, dilation) of the convolutions; the last one widens to `pooled`.
    CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    #: Frames that the convolutions use up.
    LOST_FRAMES = 14

    def __init__(
        self, layers: int, features: int, width: int, pooled: int, speakers: int, extra_frames: int = 0
    ) -> None:
        super().__init__()
        self.extra_frames = extra_frames
        self.layer_sum = LayerSum(layers)
        self.projector = nn.Linear(features, width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, pooled if i == len(self.CONTEXTS) - 1 else width, context, dilation=dilation)
            for i, (context, dilation) in enumerate(self.CONTEXTS)
        )
        self.embedding = nn.Linear(2 * pooled, width)
        self.hidden = nn.Linear(width, width)
        self.prototypes = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, speakers)))

    def embed(self, summed: Tensor, lengths: IntArray) -> tuple[Tensor, Tensor]:
        """The test-time embedding and the vector under the softmax, each (utterance, width)."""
        x = pad_frames(self.projector(summed), lengths)
        if x.shape[1] <= self.LOST_FRAMES:
            x = nn.functional.pad(x, (0, 0, 0, self.LOST_FRAMES + 1 - x.shape[1]))
        return self.pool(x, torch.from_numpy(lengths).to(x.device))

    def pool(self, projected: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The same of projected frames (utterance, time, width), more than LOST_FRAMES, that are 0 in the padding."""
        x = projected.transpose(1, 2)
        for convolution in self.convolutions:
            x = convolution(x).relu()
        valid = (lengths - self.LOST_FRAMES).clamp(min=1)
        valid = (valid + self.extra_frames * self.training).clamp(max=x.shape[2])
        mask = (torch.arange(x.shape[2], device=x.device)[None] < valid[:, None])[:, None].to(x.dtype)
        mean = (x * mask).sum(2) / valid[:, None]
        variance = ((x - mean[:, :, None]).square() * mask).sum(2) / (valid[:, None] - 1).clamp(min=1)
        embedding = self.embedding(torch.cat([mean, (variance + 1e-8).sqrt()], 1)).relu()
        return embedding, self.hidden(embedding).relu()

    def loss(self, vectors: Tensor, speakers: Tensor, scale: float = 30.0, margin: float = 0.4) -> Tensor:
        """The additive-margin softmax loss of `vectors` (utterance, width)."""
        cosines = nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(self.prototypes, dim=0)
        target = nn.functional.one_hot(speakers, cosines.shape[1]).to(cosines.dtype)
        return nn.functional.cross_entropy(scale * (cosines - margin * target), speakers)


@dataclass(frozen=True)
class VerificationLearner:
    """The declaration of ASV."""

    name: str = "asv"
    selection: Metric = TASKS["asv"].selection
    training: Training = ADAMW
    pooling: ClassVar[Pooling] = "statistics"
    #: Width before pooling; None: three times the budget's.
    pooled_width: int | None = None
    extra_frames: int = 0
    #: Training leaves out shorter recordings.
    min_train_samples: int = 0
    #: If train has several stored crops of a recording, an epoch reads one of them.
    crops: bool = False
    keep_last: bool = False

    def bind(
        self, features: FeatureStore, manifest: Manifest, budget: TaskBudget, options: RunOptions = DEFAULT_OPTIONS
    ) -> "BoundVerification":
        """The task on these features; raises MissingLabels if speakers or trials are too few."""
        known = [u for u in manifest.select(kind="sentence") if u.speaker is not None]
        # Sorted by length, so that neighbours pad little in evaluation.
        known.sort(key=lambda u: (u.num_samples, u.id))
        splits = {"train": "train", "dev": "dev", "test": "verification"}
        members = {name: [u for u in known if u.split == split] for name, split in splits.items()}
        train = members["train"] = [u for u in members["train"] if u.num_samples >= self.min_train_samples]
        speakers, labels = np.unique([u.speaker or "" for u in train], return_inverse=True)
        if len(speakers) < 2:
            raise MissingLabels("no two speakers in the train split")
        trials = {name: _make_trials(members[name]) for name in ("dev", "test")}
        for name, pairs in trials.items():
            if not pairs.targets.any() or pairs.targets.all():
                raise MissingLabels(f"no same-speaker and other-speaker pairs in the {splits[name]} split")
        banks = read_banks(
            features, {name: [u.id for u in rows] for name, rows in members.items()}, options.memory_bytes
        )
        recordings = [u.audio if self.crops else u.id for u in train]
        return BoundVerification(self, banks, labels, recordings, trials, budget.head_width, options.device)


@dataclass(frozen=True)
class _Trials:
    """The pairs of a split: numbers of both utterances, whether they share the speaker, (2, trial) the speakers."""

    first: IntArray
    second: IntArray
    targets: np.ndarray
    speakers: IntArray


def _make_trials(utterances: Sequence[Utterance]) -> _Trials:
    numbers = np.unique([u.speaker or "" for u in utterances], return_inverse=True)[1]
    if any(u.trials for u in utterances):
        places = {u.id: place for place, u in enumerate(utterances)}
        pairs = [(places[u.id], places[other]) for u in utterances for other in u.trials or ()]
        first, second = np.array(pairs, dtype=np.int64).T
    else:
        first, second = np.triu_indices(len(utterances), 1)
    return _Trials(first, second, numbers[first] == numbers[second], numbers[np.stack([first, second])])


@dataclass
class BoundVerification:
    """ASV on one model's features, `banks` by split. `labels`, `recordings` (item,): the training split's."""

    learner: VerificationLearner
    banks: dict[str, Bank]
    labels: IntArray
    recordings: list[str]
    trials: dict[str, _Trials]
    width: int
    device: str
    output_labels: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        self.num_train, self.num_outputs = len(set(self.recordings)), int(self.labels.max()) + 1
        self.num_dev, self.num_test = (len(self.trials[split].first) for split in ("dev", "test"))
        # From equal scores of all trials.
        self.chance = {"eer": 50.0}
        self.start_epochs(0, 1)

    def new_head(self) -> SpeakerHead:
        """A SpeakerHead."""
        layers, features = self.banks["train"].shape
        pooled = self.learner.pooled_width or _POOLED_RATIO * self.width
        head = SpeakerHead(layers, features, self.width, pooled, self.num_outputs, self.learner.extra_frames)
        return head.to(self.device)

    def start_epochs(self, seed: int, batch: int) -> None:
        """Restart the seeded order of batches."""
        self.crops = Variants(self.recordings, seed) if self.learner.crops else None
        self.order = ShuffledBatches(self.num_train, batch, seed, keep_last=self.learner.keep_last)
        drawn = self.order.batches()
        self._batches = self.banks["train"].stream(map(self.crops.draw, drawn) if self.crops else drawn)

    def losses(self, heads: Sequence[SpeakerHead]) -> Tensor:
        """(head,) additive-margin softmax losses of the next batch."""
        batch, features = next(self._batches)
        lengths = self.banks["train"].lengths[batch]
        summed = sum_layers([h.layer_sum for h in heads], features.to(self.device).float())
        labels = torch.from_numpy(self.labels[batch]).to(self.device)
        return torch.stack([h.loss(h.embed(x, lengths)[1], labels) for h, x in zip(heads, summed, strict=True)])

    def evaluate(self, heads: Sequence[SpeakerHead], split: str) -> list[dict[str, Measure]]:
        """The equal error rate of each head over the split's trials, from cosines of embeddings."""
        bank, trials = self.banks[split], self.trials[split]
        parts: list[list[Tensor]] = [[] for _ in heads]
        windows = (range(i, min(i + _EVAL_BATCH, len(bank))) for i in range(0, len(bank), _EVAL_BATCH))
        for window, features in bank.stream(windows):
            summed = sum_layers([h.layer_sum for h in heads], features.to(self.device).float())
            for index, (head, x) in enumerate(zip(heads, summed, strict=True)):
                parts[index].append(head.embed(x, bank.lengths[window.start : window.stop])[0].cpu())
        measures: list[dict[str, Measure]] = []
        for embeddings in parts:
            unit = nn.functional.normalize(torch.cat(embeddings), dim=1)
            scores = (unit @ unit.T).numpy().astype(np.float64)[trials.first, trials.second]
            # A head that has diverged gives every trial the same score.
            measures.append({"eer": Verification(np.nan_to_num(scores), trials.targets, trials.speakers)})
        return measures


ASV = VerificationLearner()
