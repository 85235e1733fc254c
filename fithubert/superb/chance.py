"""What a model that hears nothing scores on each task: the level that "above chance" is said of."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from fithubert.data.manifest import Manifest, Utterance
from fithubert.superb.learners.diarisation import error_counts, has_two_speakers, turn_labels
from fithubert.superb.learners.pooled import LabelsOf, PooledTask
from fithubert.superb.learners.recognition import type_f1
from fithubert.superb.run import TRAINED

_POOLED = {task.name: task for task in TRAINED if isinstance(task, PooledTask)}
#: Frames of 20 ms for constant diarisations: a constant answer hardly depends on the frame.
_FRAME_SAMPLES = 320


def chance_levels(task: str, manifest: Manifest) -> dict[str, float]:
    """Metric -> percent on test of the best answer that does not depend on the audio; computed from the labels.

    Accuracies: the commonest label of train, given always. PER, WER and CER: the empty answer. EER: equal scores for
    all trials. MTWV: nothing found. F1: the set of slot types that is best on train. DER: nobody, one or both speakers
    all the time, whichever is best on train. Empty where the labels are missing, and for a task without such a level.
    """
    if task in _POOLED:
        found = _majority_accuracy(manifest, _POOLED[task].kind, _POOLED[task].labels_of)
        return {} if found is None else {"acc": found}
    makers: dict[str, Callable[[Manifest], dict[str, float]]] = {
        "pr": lambda _: {"per": 100.0},
        "asr": lambda _: {"wer": 100.0},
        "asv": lambda _: {"eer": 50.0},
        "qbe": lambda _: {"mtwv": 0.0},
        "sf": _slots,
        "sd": _diarisation,
    }
    return makers[task](manifest) if task in makers else {}


def _majority_accuracy(manifest: Manifest, kind: str, labels_of: LabelsOf) -> float | None:
    train, test = (_known(manifest.select(s, kind).utterances, labels_of) for s in ("train", "test"))
    if not train or not test:
        return None
    commonest = Counter(train).most_common(1)[0][0]
    return 100.0 * test.count(commonest) / len(test)


def _known(utterances: Sequence[Utterance], labels_of: LabelsOf) -> list[tuple[str, ...]]:
    return [labels for u in utterances if (labels := labels_of(u)) is not None]


def _slots(manifest: Manifest) -> dict[str, float]:
    train, test = (
        [frozenset(slot.name for slot in u.slots) for u in manifest.select(s, "command") if u.slots is not None]
        for s in ("train", "test")
    )
    if not train or not test:
        return {}
    types = sorted(frozenset().union(*train))
    answers = [frozenset(c) for size in range(len(types) + 1) for c in combinations(types, size)]
    best = max(answers, key=lambda answer: _mean_f1(Counter(train), answer))
    return {"f1": 100.0 * _mean_f1(Counter(test), best), "cer": 100.0}


def _mean_f1(references: Counter[frozenset[str]], answer: frozenset[str]) -> float:
    """The mean over utterances of the F1 of sets of types, as SF scores it."""
    return sum(count * type_f1(reference, answer) for reference, count in references.items()) / references.total()


def _diarisation(manifest: Manifest) -> dict[str, float]:
    train, test = ([u for u in manifest.select(s, "mixture") if has_two_speakers(u)] for s in ("train", "test"))
    if not train or not test:
        return {}
    best = min(((0, 0), (0, 1), (1, 1)), key=lambda answer: _constant_error(train, answer))
    return {"der": _constant_error(test, best)}


def _constant_error(mixtures: Sequence[Utterance], answer: tuple[int, int]) -> float:
    labels = [turn_labels(u, u.num_samples // _FRAME_SAMPLES, _FRAME_SAMPLES).astype(np.int64) for u in mixtures]
    offsets = np.cumsum([0, *(len(rows) for rows in labels)])
    reference = np.concatenate(labels)
    return error_counts(reference, np.tile(np.array(answer, dtype=np.int64), (len(reference), 1)), offsets).value
