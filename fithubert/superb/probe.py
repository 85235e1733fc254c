"""The linear phone-frame probe: the accuracy of a linear classifier of single frames."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.data import PHONES, frame_phones
from fithubert.data.manifest import Utterance
from fithubert.superb.metrics import IntArray

#: A frame outside every phone; not probed.
NO_PHONE = -1


@dataclass(frozen=True)
class ProbeSettings:
    """Multinomial logistic regression on standardised frames by L-BFGS.

    `max_frames`: training frames, a seeded sample. `decay`: weight of the mean squared weight in the loss.
    """

    max_frames: int = 20_000
    iterations: int = 40
    decay: float = 1e-4
    seed: int = 0


def frame_labels(utterance: Utterance, num_frames: int, stride_samples: int, field_samples: int) -> IntArray:
    """(num_frames,) the number in `PHONES` of the phone at each frame's centre; NO_PHONE in silence.

    Frame i covers `field_samples` samples from i * `stride_samples`, as `frames.receptive_field` gives them. Raises
    ValueError if the utterance has no phones, KeyError for a phone that is not one of the corpus.
    """
    if utterance.phones is None:
        raise ValueError(f"{utterance.id} has no phones")
    numbers = {label: i for i, label in enumerate(PHONES)}
    return frame_phones(utterance.phones, numbers, num_frames, ((field_samples, stride_samples),))


def probe_frames(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, settings: ProbeSettings = ProbeSettings()
) -> float:
    """Percent of test frames whose phone a linear classifier predicts from the frame alone.

    `train`, `test`: (frame, width) float; labels (frame,) int64, NO_PHONE left out. Runs on the device of the
    tensors. Raises ValueError if no frame is left.
    """
    train, train_labels = _sample(train, train_labels, settings)
    test, test_labels = test[test_labels != NO_PHONE], test_labels[test_labels != NO_PHONE]
    if not len(train) or not len(test):
        raise ValueError("no labelled frames to probe")
    mean, scale = train.float().mean(0), train.float().std(0).clamp(min=1e-5)
    linear = _fit((train.float() - mean) / scale, train_labels, settings)
    with torch.no_grad():
        right = [
            (linear((part.float() - mean) / scale).argmax(1) == labels).sum()
            for part, labels in zip(test.split(65536), test_labels.split(65536), strict=True)
        ]
    return 100.0 * float(sum(int(r) for r in right)) / len(test)


def probe_phones(
    train: Mapping[int, Tensor],
    train_labels: Tensor,
    test: Mapping[int, Tensor],
    test_labels: Tensor,
    settings: ProbeSettings = ProbeSettings(),
) -> dict[int, float]:
    """Layer -> `probe_frames` of that layer. `train`, `test`: layer -> (frame, width), the same in every layer."""
    return {layer: probe_frames(train[layer], train_labels, test[layer], test_labels, settings) for layer in train}


def _sample(frames: Tensor, labels: Tensor, settings: ProbeSettings) -> tuple[Tensor, Tensor]:
    """At most `max_frames` labelled frames, the same ones for every layer."""
    kept = (labels != NO_PHONE).nonzero().flatten().cpu().numpy()
    if len(kept) > settings.max_frames:
        kept = np.sort(np.random.default_rng(settings.seed).choice(kept, settings.max_frames, replace=False))
    at = torch.from_numpy(kept).to(labels.device)
    return frames[at], labels[at]


def _fit(frames: Tensor, labels: Tensor, settings: ProbeSettings) -> nn.Linear:
    """The classifier, from zeros: the loss is convex, so the result does not depend on the initial weights."""
    linear = nn.Linear(frames.shape[1], int(labels.max()) + 1).to(frames.device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimiser = torch.optim.LBFGS(linear.parameters(), max_iter=settings.iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(linear(frames), labels)
        value = value + settings.decay * linear.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return linear
