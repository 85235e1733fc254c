"""ASR, SF, SD and QbE: their arithmetic against definitions, and scores on labels and on noise."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fithubert.config.superb import TaskBudget
from fithubert.data import spell, split_words
from fithubert.data.manifest import Manifest, Turn, Utterance
from fithubert.errors import UserError
from fithubert.superb.learners.diarisation import permutation_loss, smooth, turn_labels
from fithubert.superb.learners.search import warp_scores
from fithubert.superb.run import run_task
from fithubert.superb.slots import parse_slots, score_slots
from tests.superb.fakes import MemoryStore, noise_features


def test_words_are_spelt_and_read_back() -> None:
    assert spell(["it's", "é", "five"]) == ("I", "T", "'", "S", "|", "|", "F", "I", "V", "E", "|")
    assert split_words(spell(["it's", "é", "five"])) == ["IT'S", "FIVE"]


def test_asr_learns_from_labels(informed: MemoryStore, corpus: Manifest) -> None:
    budget = TaskBudget(steps=200, batch=8, eval_every=100, learning_rates=(1e-2,), head_width=24)
    blind = run_task("asr", noise_features(corpus), corpus, budget.model_copy(update={"steps": 20})).metrics["wer"]
    assert blind > 80
    assert run_task("asr", informed, corpus, budget).metrics["wer"] < blind - 15


def test_unpaired_tags_are_dropped_and_no_slot_in_both_is_right() -> None:
    assert parse_slots(["E-day", "B-day", *"MON", "E-city", "B-city", *"X|", "E-city"]) == [("city", "X")]
    assert score_slots([["A"]], [["B"]])["f1"].value == 100


def test_turns_become_frame_labels() -> None:
    turns = (Turn("b", 0.0, 0.05), Turn("a", 0.03, 0.1), Turn("b", 0.08, 0.1))
    mixture = Utterance("m", str(Path("m.flac")), "0", "train", "mixture", 1600, turns=turns)
    assert turn_labels(mixture, 5, 320).T.tolist() == [[0, 0, 1, 1, 1], [1, 1, 0, 0, 1]]


@given(st.integers(0, 500))
def test_diarisation_arithmetic_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 2, (12, 2))
    logits, labels = torch.from_numpy(rng.normal(size=(12, 2))), torch.from_numpy(reference).double()
    loss = permutation_loss(logits, labels, np.array([7, 5]))
    total = 0.0
    for part in (slice(0, 7), slice(7, 12)):
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        orders = [labels[part][:, list(order)] for order in permutations(range(2))]
        total += len(labels[part]) * min(float(bce(logits[part], order)) for order in orders)
    assert float(loss) == pytest.approx(total / 12)
    window = np.pad(reference, ((1, 1), (0, 0)))
    medians = np.median(np.stack([window[i : i + 12] for i in range(3)]), axis=0)
    np.testing.assert_array_equal(smooth(reference, 3), medians)
    np.testing.assert_array_equal(smooth(reference, 1), reference)


def plain_warp(costs: np.ndarray) -> float:
    """The mean cost of the best path by the recursion itself."""
    rows, columns = costs.shape
    total = np.full((rows, columns), np.inf)
    total[0] = costs[0]
    for i in range(1, rows):
        for j in range(columns):
            total[i, j] = costs[i, j] + min(total[i - 1, j - k] for k in range(3) if j >= k)
    return float(total[-1].min()) / rows


@given(st.integers(0, 200))
def test_warping_equals_the_recursion(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, 3)
    query, recordings = (torch.from_numpy(rng.normal(size=(int(n), 4))) for n in (5, lengths.sum()))
    query, recordings = (torch.nn.functional.normalize(x, dim=1) for x in (query, recordings))
    scores = warp_scores(query, recordings, lengths, max_bytes=8 * 5 * int(rng.integers(1, 25)))
    for i, part in enumerate(recordings.split(lengths.tolist())):
        costs = np.exp(1 - torch.cosine_similarity(query[:, None], part[None], dim=2).numpy()) - 1
        low, high = costs.min(1, keepdims=True), costs.max(1, keepdims=True)
        assert scores[i] == pytest.approx(-plain_warp((costs - low) / (high - low)))


def test_qbe_finds_words_only_in_the_layer_that_has_them() -> None:
    rng = np.random.default_rng(0)
    words = {word: torch.from_numpy(rng.normal(size=(12, 8))).float() for word in "abcdefgh"}
    torch.manual_seed(0)
    utterances, store = [], MemoryStore()
    for i in range(80):
        said = [str(w) for w in rng.choice(list(words), 2, replace=False)]
        row = Utterance(f"s{i}", "", "0", ("dev", "test")[i % 2], "sentence", 8000, words=tuple(said))
        utterances.append(row)
        store.rows[row.id] = {0: torch.randn(24, 8), 1: torch.cat([words[w] for w in said]) + 0.2 * torch.randn(24, 8)}
    for i, word in enumerate([*words, *words]):
        row = Utterance(f"q{i}", "", "0", ("dev", "test")[i // 8], "query", 4000, query=word)
        utterances.append(row)
        store.rows[row.id] = {0: torch.randn(12, 8), 1: words[word] + 0.2 * torch.randn(12, 8)}
    result = run_task("qbe", store, Manifest(tuple(utterances), Path()), TaskBudget(steps=0))
    assert result.metrics["mtwv"] > 80
    assert result.layer_weights == (0.0, 1.0)
    assert result.candidates[0].dev < 20
    assert result.learning_rate is None


def test_a_trained_task_needs_steps_and_rates(informed: MemoryStore, corpus: Manifest) -> None:
    with pytest.raises(UserError, match=r"superb\.tasks\.asr: needs steps"):
        run_task("asr", informed, corpus, TaskBudget(steps=0))
