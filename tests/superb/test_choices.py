"""Nothing is chosen on test: other labels on the test split change no choice and no figure on dev."""

from collections import defaultdict
from dataclasses import replace

import pytest

from fithubert.data.manifest import Manifest, Utterance
from fithubert.superb.run import run_task
from fithubert.tasks import TASKS
from tests.superb.fakes import MemoryStore, small

#: What a result says about itself that may depend on test: its scores, their chance, and the time that they took.
MEASURED = ("metrics", "intervals", "seed_deviation", "chance", "seconds", "resamples", "num_test")
_LABELS = ("speaker", "style", "keyword", "intent", "phones", "words", "slots", "turns")


def spoil_test(corpus: Manifest) -> Manifest:
    """Every utterance of the test splits has the labels of the next one of its kind."""
    by_kind: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for utterance in corpus:
        if utterance.split in ("test", "verification"):
            by_kind[utterance.split, utterance.kind].append(utterance)
    labels = {}
    for group in by_kind.values():
        for utterance, other in zip(group, group[1:] + group[:1], strict=True):
            labels[utterance.id] = {name: getattr(other, name) for name in _LABELS}
    return replace(corpus, utterances=tuple(replace(u, **labels.get(u.id, {})) for u in corpus))


@pytest.mark.parametrize("task", TASKS)
def test_labels_of_the_test_split_decide_nothing(task: str, corpus: Manifest, informed: MemoryStore) -> None:
    budget = small(task, learning_rates=(1e-3, 1e-2, 1e-1), search_steps=2)
    results = [run_task(task, informed, labels, budget, seeds=(1, 2)) for labels in (corpus, spoil_test(corpus))]
    assert all(result.reason is None for result in results)
    first, second = (
        {name: value for name, value in result.to_json().items() if name not in MEASURED} for result in results
    )
    assert first == second
    dev = [{name: drawn for name, drawn in result.resamples.items() if name.startswith("dev/")} for result in results]
    assert dev[0] == dev[1]
    # The labels that were exchanged matter: otherwise this test could not fail.
    assert task not in ("pr", "ks", "sid", "er", "ic") or results[0].metrics != results[1].metrics
