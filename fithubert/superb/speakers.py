"""How well one can tell speakers apart by a model's last state: a linear classifier of recordings held out."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fithubert.data.manifest import Manifest, Utterance
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.superb.probe import probe_frames

#: The speakers with most recordings, and the recordings of each: enough for a figure, and minutes for a large teacher.
MAX_SPEAKERS, MAX_TRAIN, MAX_TEST = 20, 6, 4
_MAX_SECONDS = 5.0
#: With fewer recordings a figure means nothing.
MIN_TEST = 4


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
