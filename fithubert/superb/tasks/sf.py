"""SF: the characters of a command with a pair of tags around every slot value.

F1: per utterance over the sets of slot types, then the mean. CER: every reference value against the closest hypothesis
value of the same type (nothing where there is none), pooled; spurious values cost nothing. Both as s3prl computes them.
Two BLSTM layers of the width, frame rate and layer norms that the budget says (official: 1024, every frame, none);
differs: no SpecAugment, no end symbol.
"""

from collections.abc import Sequence, Set

import numpy as np

from fithubert.data.manifest import Utterance
from fithubert.superb.ctc import CtcTask
from fithubert.superb.metrics import IntArray, Measure, Ratio, edit_distances
from fithubert.superb.protocol import Selection
from fithubert.superb.tokens import WORD_EDGE, number_tokens, spell

_BEGIN, _END = "B-", "E-"


def _tagged(utterance: Utterance) -> tuple[str, ...] | None:
    """Characters of the words, `B-type` before the first and `E-type` after the last word of each slot."""
    if utterance.slots is None or utterance.words is None:
        return None
    first = {slot.first_word: slot.name for slot in utterance.slots}
    last = {slot.first_word + slot.num_words - 1: slot.name for slot in utterance.slots}
    tokens: list[str] = []
    for position, word in enumerate(utterance.words):
        tokens += [_BEGIN + first[position]] if position in first else []
        tokens += spell([word])
        tokens += [_END + last[position]] if position in last else []
    return tuple(tokens)


def parse_slots(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """(type, value) of every `B-type` .. `E-type` pair in order; tags without a partner are dropped."""
    slots: list[tuple[str, str]] = []
    opened: tuple[str, list[str]] | None = None
    for token in tokens:
        if token.startswith(_BEGIN):
            opened = (token[len(_BEGIN) :], [])
        elif token.startswith(_END):
            if opened is not None and opened[0] == token[len(_END) :]:
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
            errors[i] += min(_distances([value] * len(rivals), rivals))
            lengths[i] += len(value)
    return {"f1": Ratio(scores, np.ones(len(parsed))), "cer": Ratio(errors, lengths)}


def type_f1(reference: Set[str], hypothesis: Set[str]) -> float:
    """F1 of two sets of slot types, 0 to 1; 1 where both are empty."""
    if not reference and not hypothesis:
        return 1.0
    return 2 * len(reference & hypothesis) / (len(reference) + len(hypothesis))


def _distances(references: list[str], hypotheses: list[str]) -> IntArray:
    return edit_distances(*number_tokens(references, hypotheses))


SF = CtcTask(
    "sf",
    kind="command",
    wanted="slots",
    tokens_of=_tagged,
    score=score_slots,
    selection=Selection("f1", less_is_better=False),
    inventory="slots",
    head="recurrent",
)
