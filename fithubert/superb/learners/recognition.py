"""Sequence tasks: ASR, PR and SF."""

from collections.abc import Sequence, Set

import numpy as np

from fithubert.data.manifest import Utterance
from fithubert.superb.learners.ctc import CHARACTERS, WORD_EDGE, CtcTask, number_tokens, spell, split_words
from fithubert.superb.metrics import IntArray, Measure, Ratio, edit_distances, error_rate
from fithubert.tasks import TASKS


def _characters(utterance: Utterance) -> tuple[str, ...] | None:
    return None if utterance.words is None else spell(utterance.words)


def _asr_score(references: list[list[str]], hypotheses: list[list[str]]) -> dict[str, Measure]:
    words = [[split_words(row) for row in rows] for rows in (references, hypotheses)]
    return {"wer": error_rate(*number_tokens(*words))}


ASR = CtcTask(
    "asr",
    kind="sentence",
    wanted="words",
    tokens_of=_characters,
    score=_asr_score,
    selection=TASKS["asr"].selection,
    inventory="characters",
    head="recurrent",
    vocabulary=CHARACTERS,
)


def _phones(utterance: Utterance) -> tuple[str, ...] | None:
    if utterance.pronunciation is not None:
        return utterance.pronunciation
    return None if utterance.phones is None else tuple(p.label for p in utterance.phones)


def _pr_score(references: list[list[str]], hypotheses: list[list[str]]) -> dict[str, Measure]:
    return {"per": error_rate(*number_tokens(references, hypotheses))}


PR = CtcTask(
    "pr",
    kind="sentence",
    wanted="phones",
    tokens_of=_phones,
    score=_pr_score,
    selection=TASKS["pr"].selection,
    inventory="phones",
)


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
    selection=TASKS["sf"].selection,
    inventory="slots",
    head="recurrent",
)
