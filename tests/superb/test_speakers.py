"""Speakers that a model tells apart, and which recordings are asked for it."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fithubert.data.manifest import Manifest, Utterance
from fithubert.frames import HUBERT_CONVOLUTIONS, count_conv_frames
from fithubert.models.speech_model import SpeechOutput
from fithubert.superb.probe import MAX_SPEAKERS, MAX_TEST, MAX_TRAIN, choose_recordings, identify_speakers


class Recordings(Manifest):
    """Recordings whose samples are the number of their speaker, and noise."""

    def read(self, utterance: Utterance) -> Tensor:
        generator = torch.Generator().manual_seed(int(utterance.id))
        noise = torch.randn(utterance.num_samples, generator=generator)
        return float(utterance.speaker or 0) + 0.1 * noise


class Level:
    """One state: the level of the frames, or, deaf, noise."""

    name, fingerprint, widths, convolutions, frame_multiple = "level", "", (1,), HUBERT_CONVOLUTIONS, 1

    def __init__(self, deaf: bool) -> None:
        self.deaf = deaf

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        state = waveforms.unfold(1, 400, 320).mean(2, keepdim=True)
        return SpeechOutput((state * (not self.deaf),), count_conv_frames(lengths, HUBERT_CONVOLUTIONS))


def make(speakers: int, train: int, test: int, named: bool = True) -> Recordings:
    rows = []
    for speaker in range(speakers):
        splits = ["train"] * train + ["dev", "test"] * (test // 2)
        for split in splits:
            name = str(speaker) if named else None
            rows.append(Utterance(str(len(rows)), "", "", split, "sentence", 4000, name))
    return Recordings(tuple(rows), Path())


def test_a_model_that_hears_speakers_finds_them_and_a_deaf_one_guesses() -> None:
    corpus = make(4, 6, 4)
    chosen = choose_recordings(corpus)
    assert chosen is not None
    assert identify_speakers(Level(deaf=False), corpus, *chosen) == 100.0
    assert identify_speakers(Level(deaf=True), corpus, *chosen) == 25.0


def test_recordings_are_few_held_out_and_of_speakers_of_both() -> None:
    corpus = make(MAX_SPEAKERS + 5, MAX_TRAIN + 3, MAX_TEST + 2)
    chosen = choose_recordings(corpus)
    assert chosen is not None
    train, test = chosen
    assert (len(train), len(test)) == (MAX_SPEAKERS * MAX_TRAIN, MAX_SPEAKERS * MAX_TEST)
    assert {u.split for u in train} == {"train"}
    assert {u.split for u in test} == {"dev", "test"}
    assert {u.speaker for u in train} == {u.speaker for u in test}
    assert choose_recordings(corpus) == chosen


def test_nothing_is_said_without_enough_names() -> None:
    assert choose_recordings(make(4, 6, 4, named=False)) is None
    assert choose_recordings(make(1, 6, 8)) is None
    assert choose_recordings(make(4, 6, 0)) is None
    alone = make(2, 3, 4)
    moved = [replace(u, split="train") if u.speaker == "1" else u for u in alone]
    assert choose_recordings(Recordings(tuple(moved), Path())) is None
