"""Whole tasks on a small corpus: features that carry the labels, and features of noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.superb.heads import LinearHead
from fithubert.superb.learners.pooled import KS
from fithubert.superb.run import fit, run_task
from fithubert.tasks import TASKS
from tests.superb.fakes import MemoryStore, label_features, noise_features

BUDGET = TaskBudget(steps=150, batch=8, eval_every=50, learning_rates=(1e-3, 1e-2), head_width=32)


def test_phones_are_recognised_from_labels_only(informed: MemoryStore, corpus: Manifest) -> None:
    result = run_task("pr", informed, corpus, BUDGET)
    assert result.metrics["per"] < 30
    assert run_task("pr", noise_features(corpus), corpus, BUDGET).metrics["per"] > 65
    assert np.argmax(result.layer_weights) == 2
    assert sum(result.layer_weights) == pytest.approx(1, abs=1e-5)
    assert (result.num_train, result.num_dev, result.num_test) == (60, 10, 10)


def test_a_diverging_learning_rate_does_not_spoil_its_neighbours(informed: MemoryStore, corpus: Manifest) -> None:
    learner = KS.bind(informed, corpus, BUDGET)
    alone = fit(learner, KS, BUDGET, (1e-3,), seed=1)[0]
    neighbour, broken = fit(learner, KS, BUDGET, (1e-3, 1e30), seed=1)
    for name, value in alone.head.state_dict().items():
        torch.testing.assert_close(value, neighbour.head.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert int(broken.skipped) > 0


def test_a_single_layer_is_scored_without_layer_weights(corpus: Manifest) -> None:
    result = run_task("ks", label_features(corpus, layers=1), corpus, BUDGET)
    assert result.layer_weights == (1.0,)
    assert isinstance(KS.bind(label_features(corpus, layers=1), corpus, BUDGET).new_head(), LinearHead)


@pytest.mark.parametrize("name", TASKS)
def test_missing_labels_are_an_answer(name: str, informed: MemoryStore, corpus: Manifest) -> None:
    labels = ("phones", "speaker", "style", "keyword", "intent", "words", "slots", "turns", "query")
    bare = Manifest(tuple(replace(u, **dict.fromkeys(labels)) for u in corpus), corpus.root)
    answer = run_task(name, informed, bare, BUDGET)
    assert (answer.task, answer.metrics) == (name, {})
    assert "no " in str(answer.reason)


def test_one_speaker_cannot_be_identified(informed: MemoryStore, corpus: Manifest) -> None:
    one = Manifest(tuple(replace(u, speaker="s000") for u in corpus), corpus.root)
    assert run_task("sid", informed, one, BUDGET).reason == "all of train has one and the same speaker"


def test_unknown_tasks_and_foreign_stores_are_named(informed: MemoryStore, corpus: Manifest) -> None:
    with pytest.raises(UserError, match="'prr': not one of pr, asr, ks"):
        run_task("prr", informed, corpus, BUDGET)
    missing = MemoryStore({k: v for k, v in informed.rows.items() if k != "word0003"})
    with pytest.raises(UserError, match="lacks 1 utterances of the manifest, first word0003"):
        run_task("ks", missing, corpus, BUDGET)
