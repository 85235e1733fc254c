"""Every switch of the official protocol has its documented effect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fithubert.data.manifest import Manifest, Turn, Utterance
from fithubert.superb.bank import read_banks
from fithubert.superb.heads import BidirectionalLSTM, LinearHead
from fithubert.superb.learners.ctc import append_zero_frames
from fithubert.superb.learners.diarisation import (
    CHUNK_FRAMES,
    DiarisationHead,
    MixtureExamples,
    chunk_accuracy,
    turn_labels,
)
from fithubert.superb.learners.verification import SpeakerHead
from fithubert.superb.run import run_task
from tests.superb.fakes import OPEN, MemoryStore, label_features, official, small

CORPUS_SIZES = (40, 48, 40, 24)


def test_keyword_dev_is_one_balanced_draw() -> None:
    """A head that always predicts `no`, of which dev has one clip in sixty and half of the draws."""
    clips = [("train", k) for k in ("no", "yes")] + [("dev", "no")] + [("dev", "yes")] * 59 + [("test", "yes")]
    rows = [Utterance(f"k{i}", "", "0", split, "keyword", 16_000, keyword=k) for i, (split, k) in enumerate(clips)]
    store = MemoryStore({u.id: {0: torch.zeros(40, 3), 1: torch.zeros(40, 3)} for u in rows})
    values: dict[bool, list[float]] = {}
    for on in (True, False):
        learner = official("ks", ks_resampled_dev=on).bind(store, Manifest(tuple(rows), Path()), small("ks"))
        head = learner.new_head()
        assert isinstance(head, LinearHead)
        nn.init.zeros_(head.output.weight)
        with torch.no_grad():
            head.output.bias.copy_(torch.tensor([1.0, 0.0]))
        values[on] = [learner.evaluate([head], "dev")[0]["acc"].value for _ in range(2)]
    assert values[False] == pytest.approx([100 / 60, 100 / 60])
    assert values[True][0] == values[True][1] == pytest.approx(50, abs=15)


def test_training_draws_keywords_by_class_or_not(informed: MemoryStore, corpus: Manifest) -> None:
    train = corpus.select("train", "keyword").utterances
    skewed = [replace(u, keyword="no" if i % 12 else "yes") for i, u in enumerate(train)]
    rest = [replace(u, keyword="no") for s in ("dev", "test") for u in corpus.select(s, "keyword")]
    manifest = Manifest((*skewed, *rest), Path())
    shares = {}
    for balanced in (True, False):
        learner = official("ks", ks_balanced_train=balanced).bind(informed, manifest, small("ks"))
        learner.start_epochs(1, 9)
        drawn = np.concatenate([learner.order.next_batch() for _ in range(80)])  # type: ignore[attr-defined]
        shares[balanced] = np.mean([skewed[i].keyword == "yes" for i in drawn])
    assert shares[True] == pytest.approx(0.5, abs=0.1)
    assert shares[False] == pytest.approx(1 / 12, abs=0.02)


def test_batches_of_sequences_follow_their_switches() -> None:
    samples = np.full(40, 16_000)
    long = np.full(40, 300_001)
    for name in ("pr", "sf"):
        assert len(official(name).list_windows(samples, 16)) == 40  # type: ignore[attr-defined]
        assert len(official(name, overlapping_batches=False).list_windows(samples, 16)) == 3  # type: ignore[attr-defined]
        for on, size in ((True, 8), (False, 16)):
            windows = official(name, half_long_batches=on).list_windows(long, 16)  # type: ignore[attr-defined]
            assert {last - first for first, last in windows} == {size}
    for on, sizes in ((True, [8, 16, 16]), (False, [8, 32])):
        windows = official("asr", asr_half_batches=on).list_windows(samples, 32)  # type: ignore[attr-defined]
        assert sorted(last - first for first, last in windows) == sizes


def test_shorter_utterances_of_a_training_batch_keep_the_frames_that_s3prl_rounds_to(corpus: Manifest) -> None:
    """Of 320 k + r samples, (n - 400) // 320 + 1 frames are one fewer than round(n / 320) if r < 80 or r > 160."""
    samples = [16_000, 16_100, 16_200, 32_000]
    frames = np.array([(n - 400) // 320 + 1 for n in samples])
    features = torch.arange(1.0, frames.sum() + 1)[None, :, None]
    extended, lengths = append_zero_frames(features, frames, np.rint(np.array(samples) / 320).astype(int))
    assert frames.tolist() == [49, 50, 50, 99]
    assert lengths.tolist() == [50, 50, 51, 99]  # The longest of its batch has no frame more.
    rows = [row[0, :, 0] for row in extended.split(lengths.tolist(), dim=1)]
    assert [row[-1].item() for row in rows] == [0.0, 99.0, 0.0, 248.0]
    assert torch.equal(torch.cat([row[:count] for row, count in zip(rows, frames, strict=True)]), features[0, :, 0])
    losses = {}
    for on in (True, False):
        shifted = Manifest(tuple(replace(u, num_samples=u.num_samples + 100) for u in corpus), Path())
        learner = official("pr", rounded_frames=on).bind(label_features(corpus), shifted, small("pr"))
        learner.start_epochs(1, 16)
        torch.manual_seed(0)
        losses[on] = float(learner.losses([learner.new_head()]).detach())  # type: ignore[attr-defined]
    assert losses[True] != losses[False]


def test_recognition_is_distorted_in_training_only(informed: MemoryStore, corpus: Manifest) -> None:
    losses, errors = {}, {}
    for on in (True, False):
        learner = official("asr", spec_augment=on).bind(informed, corpus, small("asr"))
        torch.manual_seed(0)
        head = learner.new_head().eval()
        learner.start_epochs(1, 8)
        losses[on] = float(learner.losses([head]).detach())
        errors[on] = learner.evaluate([head], "dev")[0]["wer"].value
    assert losses[True] != pytest.approx(losses[False], rel=1e-5)
    assert errors[True] == errors[False]


@pytest.mark.parametrize("name", ["sid", "asv"])
def test_an_epoch_reads_one_crop_of_every_recording(name: str, corpus: Manifest) -> None:
    """Recordings with one, two and eight stored crops are drawn equally often."""
    many = {"sentence0000": 8, "sentence0001": 2}
    rows = [
        replace(u, id=f"{u.id}/{k}", first_sample=k)
        for u in corpus.select(kind="sentence")
        for k in range(many.get(u.id, 1))
    ]
    manifest = Manifest(tuple(rows), Path())
    learner = official(name, asv_crops=False).bind(label_features(manifest), manifest, small(name))
    assert learner.num_train == len(corpus.select("train", "sentence"))
    learner.start_epochs(1, learner.num_train)
    crops, order = learner.crops, learner.order  # type: ignore[attr-defined]
    drawn = [set(crops.draw(order.next_batch()).tolist()) for _ in range(40)]
    assert {len(epoch) for epoch in drawn} == {learner.num_train}
    assert len(set().union(*drawn)) == learner.num_train + 7 + 1


def test_what_test_selects_is_reported_next_to_what_dev_selects(informed: MemoryStore, corpus: Manifest) -> None:
    for name, metric, off in (
        ("asv", "eer", "asv_test_selection"),
        ("sd", "der", "sd_test_postprocessing"),
    ):
        for on in (True, False):
            quirks = OPEN.model_copy(update={off: on})
            result = run_task(name, informed, corpus, small(name, learning_rates=(1e-3, 1e-2)), (1, 2), quirks=quirks)
            assert set(result.metrics) == ({metric, f"{metric}_test_selected"} if on else {metric})
            if on:
                assert result.metrics[f"{metric}_test_selected"] <= result.metrics[metric]


def test_diarisation_switches(informed: MemoryStore, corpus: Manifest) -> None:
    one_way = official("sd").bind(informed, corpus, small("sd")).new_head()
    both = official("sd", sd_unidirectional=False).bind(informed, corpus, small("sd")).new_head()
    assert isinstance(one_way, DiarisationHead)
    assert isinstance(both, DiarisationHead)
    assert (type(one_way.recurrent), type(both.recurrent)) == (nn.LSTM, BidirectionalLSTM)
    learner = official("sd", sd_frame_accuracy=False).bind(informed, corpus, small("sd"))
    with torch.no_grad():
        measures = learner.evaluate([learner.new_head()], "dev")
    assert set(measures[0]) == {"der"}
    frames = 3 * CHUNK_FRAMES
    turn = Turn("a", 0.2, frames * 0.02 - 0.2)
    mixture = Utterance("m", "m.flac", "0", "train", "mixture", frames * 320, turns=(turn, Turn("b", 0.0, 0.1)))
    spoken = turn_labels(mixture, frames, 320)[:, 0].reshape(3, -1).mean(1)
    silent = turn_labels(mixture, frames, 320, silent_full_chunks=True)[:, 0].reshape(3, -1).mean(1)
    assert spoken[1] == 1
    assert silent[1] == 0
    assert (spoken[[0, 2]] == silent[[0, 2]]).all()
    assert spoken[0] == pytest.approx(1 - 10 / CHUNK_FRAMES)


def test_statistics_take_one_frame_more_in_training_only() -> None:
    torch.manual_seed(0)
    plain = SpeakerHead(1, 6, 8, 12, 3)
    extra = SpeakerHead(1, 6, 8, 12, 3, extra_frames=1)
    extra.load_state_dict(plain.state_dict())
    lengths, summed = np.array([30, 20]), torch.randn(50, 6)
    same = [plain.embed(summed, lengths)[0], extra.embed(summed, lengths)[0]]
    # The longest utterance of a batch has no further frame.
    torch.testing.assert_close(same[0][0], same[1][0])
    assert not torch.allclose(same[0][1], same[1][1])
    torch.testing.assert_close(plain.eval().embed(summed, lengths), extra.eval().embed(summed, lengths))


def test_frame_accuracy_is_the_mean_of_chunks_in_the_order_of_lower_loss() -> None:
    store = MemoryStore({f"m{i}": {0: torch.zeros(n, 1)} for i, n in enumerate((4, 1, 1))})
    frames = read_banks(store, {"all": list(store.ids)}, 1e9)["all"]
    labels = torch.tensor([[1.0, 0.0]] * 4 + [[0.0, 1.0], [0.0, 0.0]])
    examples = MixtureExamples(frames, labels, frames.offsets)
    # The first chunk is right in its given order by three frames of four, and its loss is lower in the other one.
    logits = np.array([[0.1, -0.1]] * 3 + [[-50.0, 50.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert chunk_accuracy(logits, examples).value == pytest.approx(100 * (0.25 + 1 + 0) / 3)
    assert official("sd").selection.name == "frame_acc"
