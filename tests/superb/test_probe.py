"""The phone-frame probe on frames with known separability."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fithubert.data import PHONES
from fithubert.data.manifest import Phone, Utterance
from fithubert.superb.probe import NO_PHONE, frame_labels, probe_frames


def make_frames(count: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    means = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 6, (count,), generator=rng)
    return means[labels] + noise * torch.randn(count, 10, generator=rng), labels


def test_frame_labels_are_those_of_the_centre() -> None:
    phones = (Phone("AA", 0.0, 0.05), Phone("B", 0.05, 0.08))
    utterance = Utterance("a", str(Path("a.flac")), "0", "train", "sentence", 16_000, phones=phones)
    labels = frame_labels(utterance, 6, stride_samples=320, field_samples=400)
    # Centres at 12.5, 32.5, 52.5, 72.5, 92.5 and 112.5 ms.
    aa, b = PHONES.index("AA"), PHONES.index("B")
    assert labels.tolist() == [aa, aa, b, b, NO_PHONE, NO_PHONE]


def test_the_probe_agrees_with_sklearn() -> None:
    (train, train_labels), (test, test_labels) = make_frames(2000, 1.0, 1), make_frames(2000, 1.0, 2)
    reference = LogisticRegression(max_iter=500, C=100.0).fit(train.numpy(), train_labels.numpy())
    theirs = 100 * reference.score(test.numpy(), test_labels.numpy())
    assert probe_frames(train, train_labels, test, test_labels) == pytest.approx(theirs, abs=1.0)


def test_better_layers_probe_better_and_noise_is_at_chance() -> None:
    (clean, labels), (noisy, _) = make_frames(1500, 0.5, 1), make_frames(1500, 2.0, 1)
    layers = {0: torch.randn(1500, 10, generator=torch.Generator().manual_seed(3)), 1: noisy, 2: clean}
    halves = [{layer: x[part] for layer, x in layers.items()} for part in (slice(0, 1000), slice(1000, None))]
    train, test = halves
    accuracies = [probe_frames(train[layer], labels[:1000], test[layer], labels[1000:]) for layer in layers]
    assert accuracies[0] < 30 < accuracies[1] < accuracies[2]
    assert accuracies[2] > 95


def test_silence_is_left_out_and_the_sample_is_seeded() -> None:
    (train, labels), (test, test_labels) = make_frames(900, 1.0, 1), make_frames(300, 1.0, 2)
    silent = np.arange(900) % 3 == 0
    marked = labels.clone()
    marked[silent] = NO_PHONE
    kept = probe_frames(train[~silent], labels[~silent], test, test_labels)
    assert probe_frames(train, marked, test, test_labels) == kept
    few = [probe_frames(train, labels, test, test_labels, max_frames=100) for _ in range(2)]
    assert few[0] == few[1]
    with pytest.raises(ValueError, match="no labelled frames"):
        probe_frames(train, torch.full_like(labels, NO_PHONE), test, test_labels)
