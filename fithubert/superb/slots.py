"""Slot filling: slots in tagged characters, and the scores of predicted ones."""

from collections import Counter
from collections.abc import Sequence, Set

import numpy as np

from fithubert.data import WORD_EDGE
from fithubert.superb.metrics import Measure, Ratio, error_rate

#: Tags before the first and after the last word of a slot, each followed by its type.
SLOT_BEGIN, SLOT_END = "B-", "E-"


def parse_slots(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """(type, value) of every `B-type` .. `E-type` pair in order; unpaired tags are dropped."""
    slots: list[tuple[str, str]] = []
    opened: tuple[str, list[str]] | None = None
    for token in tokens:
        if token.startswith(SLOT_BEGIN):
            opened = (token[len(SLOT_BEGIN) :], [])
        elif token.startswith(SLOT_END):
            if opened is not None and opened[0] == token[len(SLOT_END) :]:
                slots.append((opened[0], "".join(opened[1]).strip(WORD_EDGE)))
                opened = None
        elif opened is not None:
            opened[1].append(token)
    return slots


def score_slots(references: list[list[str]], hypotheses: list[list[str]]) -> dict[str, Measure]:
    """Slot type F1 and slot value CER of tagged character sequences, in percent."""
    parsed = [(parse_slots(r), parse_slots(h)) for r, h in zip(references, hypotheses, strict=True)]
    scores = np.array([type_f1({t for t, _ in ref}, {t for t, _ in hyp}) for ref, hyp in parsed])
    errors, lengths = np.zeros(len(parsed)), np.zeros(len(parsed))
    for i, (ref, hyp) in enumerate(parsed):
        for slot_type, value in ref:
            rivals = [v for t, v in hyp if t == slot_type] or [""]
            errors[i] += min(error_rate([value] * len(rivals), rivals).numerators)
            lengths[i] += len(value)
    return {"f1": Ratio(scores, np.ones(len(parsed))), "cer": Ratio(errors, lengths)}


def type_f1(reference: Set[str], hypothesis: Set[str]) -> float:
    """F1 of two sets of slot types, 0 to 1; 1 if both are empty."""
    if not reference and not hypothesis:
        return 1.0
    return 2 * len(reference & hypothesis) / (len(reference) + len(hypothesis))


def best_types(references: Counter[frozenset[str]], types: frozenset[str], size: int) -> frozenset[str]:
    """The `size` types of highest mean F1, which for a fixed size is a sum of one share per type."""
    shares = {t: sum(n / (len(r) + size) for r, n in references.items() if t in r) for t in sorted(types)}
    return frozenset(sorted(shares, key=lambda name: -shares[name])[:size])


def mean_f1(references: Counter[frozenset[str]], answer: frozenset[str]) -> float:
    """The mean F1 of one answer to all `references`, 0 to 1."""
    return sum(count * type_f1(reference, answer) for reference, count in references.items()) / references.total()
