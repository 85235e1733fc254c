"""Linear probes of hidden states: the phone of a frame, and the speaker of a recording."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.data import PHONES, frame_phones
from fithubert.data.manifest import Manifest, Utterance
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.superb.metrics import IntArray

#: A frame outside every phone; not probed.
NO_PHONE = -1


#: Training frames, a seeded sample of more.
MAX_FRAMES = 20_000
#: Of L-BFGS; and the weight of the mean squared weight in the loss.
_ITERATIONS, _DECAY = 40, 1e-4
#: The speakers with most recordings, and the recordings of each: enough for a figure, and minutes for a large teacher.
MAX_SPEAKERS, MAX_TRAIN, MAX_TEST = 20, 6, 4
_MAX_SECONDS = 5.0
#: With fewer recordings a figure means nothing.
MIN_TEST = 4


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
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, max_frames: int = MAX_FRAMES
) -> float:
    """Percent of test frames whose phone a linear classifier predicts from the frame alone.

    Multinomial logistic regression on standardised frames by L-BFGS, on at most `max_frames` of the training frames.
    `train`, `test`: (frame, width) float; labels (frame,) int64, NO_PHONE left out. Runs on the device of the
    tensors. Raises ValueError if no frame is left.
    """
    train, train_labels = _sample(train, train_labels, max_frames)
    test, test_labels = test[test_labels != NO_PHONE], test_labels[test_labels != NO_PHONE]
    if not len(train) or not len(test):
        raise ValueError("no labelled frames to probe")
    mean, scale = train.float().mean(0), train.float().std(0).clamp(min=1e-5)
    linear = _fit((train.float() - mean) / scale, train_labels)
    with torch.no_grad():
        right = [
            (linear((part.float() - mean) / scale).argmax(1) == labels).sum()
            for part, labels in zip(test.split(65536), test_labels.split(65536), strict=True)
        ]
    return 100.0 * float(sum(int(r) for r in right)) / len(test)


def _sample(frames: Tensor, labels: Tensor, max_frames: int) -> tuple[Tensor, Tensor]:
    """At most `max_frames` labelled frames, the same ones for every layer."""
    kept = (labels != NO_PHONE).nonzero().flatten().cpu().numpy()
    if len(kept) > max_frames:
        kept = np.sort(np.random.default_rng(0).choice(kept, max_frames, replace=False))
    at = torch.from_numpy(kept).to(labels.device)
    return frames[at], labels[at]


def _fit(frames: Tensor, labels: Tensor) -> nn.Linear:
    """The classifier, from zeros: the loss is convex, so the result does not depend on the initial weights."""
    linear = nn.Linear(frames.shape[1], int(labels.max()) + 1).to(frames.device)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimiser = torch.optim.LBFGS(linear.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(linear(frames), labels)
        value = value + _DECAY * linear.weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return linear


def choose_recordings(manifest: Manifest) -> tuple[list[Utterance], list[Utterance]] | None:
    """Recordings to train on and recordings held out (dev and test), of the same speakers.

    None without two named speakers that have both, or with fewer than MIN_TEST held out.
    """
    by_speaker: dict[str, tuple[list[Utterance], list[Utterance]]] = defaultdict(lambda: ([], []))
    for utterance in manifest.select(("train", "dev", "test"), "sentence"):
        if utterance.speaker is not None:
            by_speaker[utterance.speaker][utterance.split != "train"].append(utterance)
    both = [(train, test) for train, test in by_speaker.values() if train and test]
    both.sort(key=lambda pair: (-len(pair[0]), pair[0][0].id))
    chosen = both[:MAX_SPEAKERS]
    train = [utterance for part, _ in chosen for utterance in _spread(part, MAX_TRAIN)]
    test = [utterance for _, part in chosen for utterance in _spread(part, MAX_TEST)]
    return (train, test) if len(chosen) > 1 and len(test) >= MIN_TEST else None


def identify_speakers(
    model: SpeechModel,
    manifest: Manifest,
    train: Sequence[Utterance],
    test: Sequence[Utterance],
    on_recording: Callable[[], object] = lambda: None,
) -> float:
    """Percent of the recordings `test` whose speaker a classifier of means of the last state finds; fitted on `train`.

    At most 5 s of each recording are read; `on_recording` is called after each.
    """
    speakers = sorted({str(utterance.speaker) for utterance in train})
    numbers = [torch.tensor([speakers.index(str(u.speaker)) for u in rows]) for rows in (train, test)]
    means = [torch.stack([_mean(model, manifest, u, on_recording) for u in rows]) for rows in (train, test)]
    return probe_frames(means[0], numbers[0], means[1], numbers[1])


def _mean(model: SpeechModel, manifest: Manifest, utterance: Utterance, on_recording: Callable[[], object]) -> Tensor:
    waveform = manifest.read(utterance)[: round(_MAX_SECONDS * SAMPLE_RATE_HZ)]
    out = model(waveform[None], torch.tensor([len(waveform)]))
    on_recording()
    # Cloned, because autograd cannot use tensors that inference mode made.
    return out.hidden_states[-1][0, : int(out.lengths[0])].float().mean(0).cpu().clone()


def _spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """At most `count` utterances, evenly spread."""
    at = np.linspace(0, len(utterances) - 1, min(count, len(utterances))).round().astype(int)
    return [utterances[place] for place in at]
