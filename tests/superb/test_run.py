"""Whole tasks on a small corpus: a telling model, a blind one, and a plain restatement of the protocol."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.superb.fit import fit
from fithubert.superb.heads import LinearHead
from fithubert.superb.learners.pooled import KS
from fithubert.superb.learners.recognition import PR
from fithubert.superb.run import NotScorable, TaskResult, run_task
from fithubert.tasks import TASKS
from tests.superb.fakes import MemoryStore, blind_features, label_features, make_corpus
from tests.superb.test_heads import plain_logits

BUDGET = TaskBudget(steps=150, batch=8, eval_every=50, learning_rates=(1e-3, 1e-2), head_width=32)
#: Percent right by chance, for utterance-level tasks of the small corpus.
CHANCE = {"ks": 25.0, "sid": 25.0, "er": 33.3, "ic": 12.5}


def score(name: str, features: MemoryStore, corpus: Manifest, budget: TaskBudget = BUDGET) -> TaskResult:
    result = run_task(name, features, corpus, budget)
    assert isinstance(result, TaskResult)
    return result


@pytest.mark.parametrize("name", CHANCE)
def test_a_telling_model_is_right_and_a_blind_one_at_chance(name: str, telling: MemoryStore, corpus: Manifest) -> None:
    assert score(name, telling, corpus).metrics["acc"].value > 90
    many = make_corpus(400, 400, 400)
    blind = score(name, blind_features(many), many).metrics["acc"]
    assert blind.value == pytest.approx(CHANCE[name], abs=20)


def test_phones_are_recognised_from_telling_features_only(telling: MemoryStore, corpus: Manifest) -> None:
    result = score("pr", telling, corpus)
    assert result.metrics["per"].value < 30
    assert score("pr", blind_features(corpus), corpus).metrics["per"].value > 65
    assert np.argmax(result.layer_weights) == 2
    assert sum(result.layer_weights) == pytest.approx(1, abs=1e-5)
    assert (result.num_train, result.num_dev, result.num_test) == (60, 10, 10)


@pytest.mark.parametrize("name", ["pr", "ks"])
def test_the_same_seed_gives_the_same_result(name: str, telling: MemoryStore, corpus: Manifest) -> None:
    budget = BUDGET.model_copy(update={"steps": 30, "eval_every": 10})
    first, second = (run_task(name, telling, corpus, budget, seeds=(3, 4)) for _ in range(2))
    assert isinstance(first, TaskResult)
    assert isinstance(second, TaskResult)
    assert replace(first, seconds=0) == replace(second, seconds=0)
    assert len(first.selected_steps) == 2


@pytest.mark.parametrize("task", [PR, KS], ids=lambda t: t.name)
def test_training_equals_a_plain_restatement(task, telling: MemoryStore, corpus: Manifest) -> None:  # type: ignore[no-untyped-def]
    """The same first parameters and batches through s3prl's order of work, one learning rate at a time."""
    budget = TaskBudget(steps=12, batch=8, eval_every=12, learning_rates=(1e-3, 1e-2))
    learner = task.bind(telling, corpus, budget)
    fitted = fit(learner, task, budget, budget.learning_rates, seed=5)
    for ours in fitted:
        plain_learner = task.bind(telling, corpus, budget)
        plain_learner.logits = lambda heads, features, *_: torch.stack([plain_logits(h, features) for h in heads])
        torch.manual_seed(5)
        head = plain_learner.new_head()
        first = deepcopy(head)
        adam = torch.optim.Adam(head.parameters(), lr=ours.learning_rate)
        plain_learner.start_epochs(5, budget.batch)
        for _ in range(budget.steps):
            adam.zero_grad()
            plain_learner.losses([head]).sum().backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            adam.step()
        # Adam's first steps are signs of gradients, so a rounding error in a gradient of almost 0 moves one parameter
        # by a step: compared is the distance of all parameters against how far they have moved.
        plain, kept, start = (nn.utils.parameters_to_vector(h.parameters()) for h in (head, ours.head, first))
        assert (plain - kept).norm() < 0.01 * (plain - start).norm()


def test_a_diverging_learning_rate_does_not_spoil_its_neighbours(telling: MemoryStore, corpus: Manifest) -> None:
    learner = KS.bind(telling, corpus, BUDGET)
    alone = fit(learner, KS, BUDGET, (1e-3,), seed=1)[0]
    beside, broken = fit(learner, KS, BUDGET, (1e-3, 1e30), seed=1)
    for name, value in alone.head.state_dict().items():
        torch.testing.assert_close(value, beside.head.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert broken.skipped_steps > 0


def test_a_single_layer_is_scored_without_layer_weights(corpus: Manifest) -> None:
    result = score("ks", label_features(corpus, layers=1), corpus)
    assert result.layer_weights == (1.0,)
    assert isinstance(KS.bind(label_features(corpus, layers=1), corpus, BUDGET).new_head(), LinearHead)


@pytest.mark.parametrize("name", TASKS)
def test_missing_labels_are_an_answer(name: str, telling: MemoryStore, corpus: Manifest) -> None:
    bare = Manifest(
        tuple(
            replace(
                u,
                phones=None,
                speaker=None,
                style=None,
                keyword=None,
                intent=None,
                words=None,
                slots=None,
                turns=None,
                query=None,
            )
            for u in corpus
        ),
        corpus.root,
    )
    answer = run_task(name, telling, bare, BUDGET)
    assert isinstance(answer, NotScorable)
    assert answer.task == name
    assert "no " in answer.reason


def test_one_speaker_cannot_be_identified(telling: MemoryStore, corpus: Manifest) -> None:
    one = Manifest(tuple(replace(u, speaker="s000") for u in corpus), corpus.root)
    answer = run_task("sid", telling, one, BUDGET)
    assert answer == NotScorable("sid", "all of train has one and the same speaker")


def test_unknown_tasks_and_foreign_stores_are_named(telling: MemoryStore, corpus: Manifest) -> None:
    with pytest.raises(UserError, match="'prr': not one of pr, asr, ks"):
        run_task("prr", telling, corpus, BUDGET)
    missing = MemoryStore({k: v for k, v in telling.rows.items() if k != "word0003"})
    with pytest.raises(UserError, match="lacks 1 utterances of the manifest, first word0003"):
        run_task("ks", missing, corpus, BUDGET)
