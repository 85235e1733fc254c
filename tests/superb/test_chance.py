"""Features without labels score at chance on each of the ten tasks, and features with labels score better."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest
from fithubert.records import SuperbMetrics
from fithubert.superb.learners.ctc import SF
from fithubert.superb.run import run_task
from fithubert.superb.slots import score_slots
from fithubert.tasks import TASKS
from tests.superb.fakes import MemoryStore, count_frames, noise_features

CORPUS_SIZES = (160, 160, 160, 80)

_POOLED = TaskBudget(steps=200, batch=16, eval_every=50, learning_rates=(1e-2,))
_SHORT = TaskBudget(steps=60, batch=16, eval_every=20, learning_rates=(1e-2,), head_width=24)
BUDGETS = dict.fromkeys(("ks", "sid", "er", "ic"), _POOLED) | {
    "pr": TaskBudget(steps=200, batch=16, eval_every=50, learning_rates=(1e-2,)),
    "asr": _SHORT,
    "sf": _SHORT,
    "asv": _SHORT,
    "sd": _SHORT.model_copy(update={"batch": 4}),
    "qbe": TaskBudget(steps=0),
}
#: How far below chance an error may lie (or a value above) by luck, on the fixture's 20 test items, where no binomial
#: law says it.
SLACK = {"per": 15, "wer": 5, "cer": 15, "eer": 20, "der": 8, "mtwv": 15, "f1": 10}
ERRORS = ("per", "wer", "cer", "eer", "der")


def silent_features(manifest: Manifest) -> MemoryStore:
    """Features that are the same for every frame of every recording."""
    return MemoryStore({u.id: {i: torch.ones(count_frames(u), 8) for i in range(2)} for u in manifest})


def score(task: str, store: MemoryStore, corpus: Manifest) -> SuperbMetrics:
    return run_task(task, store, corpus, BUDGETS[task])


def beats_chance(metrics: Mapping[str, float], chance: Mapping[str, float], items: int) -> bool:
    """Whether any metric is better than chance by more than luck allows."""
    better = []
    for name, level in chance.items():
        value = metrics[name]
        if name == "acc":
            # Any guess that is as good as the commonest label of train, or as that of an even draw.
            p = max(level / 100, 0.25)
            better.append(value > 100 * (p + 3.3 * np.sqrt(p * (1 - p) / items)))
        elif name in ERRORS:
            better.append(value < level - SLACK[name])
        else:
            better.append(value > level + SLACK[name])
    return any(better)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", [silent_features, noise_features], ids=["silence", "chance"])
def test_features_without_labels_score_at_chance(task, make, corpus) -> None:
    result = score(task, make(corpus), corpus)
    assert not beats_chance(result.metrics, result.chance, result.num_test)


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"asr", "sf", "qbe"}))
def test_features_with_labels_beat_chance(task, corpus, informed) -> None:
    """Else the test above could not fail. ASR and SF need more steps than a test has; QbE is in test_more_tasks."""
    result = score(task, informed, corpus)
    assert beats_chance(result.metrics, result.chance, result.num_test)


def test_the_silent_model_has_no_speakers_and_finds_no_words(corpus) -> None:
    assert score("asv", silent_features(corpus), corpus).metrics["eer"] == pytest.approx(50, abs=3)
    assert score("qbe", silent_features(corpus), corpus).metrics["mtwv"] == 0


def test_chance_is_what_the_constant_answer_scores(corpus) -> None:
    test = [u for u in corpus.select("test", "command") if u.slots]
    tagged = [[x for s in u.slots for x in (f"B-{s.name}", *s.value, f"E-{s.name}")] for u in test]
    answers = ([], ["B-thing", "E-thing"], ["B-place", "E-place"], ["B-thing", "E-thing", "B-place", "E-place"])
    f1 = [score_slots(tagged, [answer] * len(test))["f1"].value for answer in answers]
    levels = SF.bind(noise_features(corpus), corpus, _SHORT).chance
    assert min(abs(levels["f1"] - value) for value in f1) < 1e-6
    assert score_slots(tagged, [[]] * len(test))["cer"].value == pytest.approx(levels["cer"])
