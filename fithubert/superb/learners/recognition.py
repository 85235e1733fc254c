"""Sequence tasks: ASR, PR and SF."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from fithubert.data.manifest import Manifest, Utterance
from fithubert.data.synthetic.phones import CHARACTERS, WORD_EDGE
from fithubert.superb.learners.ctc import CtcLearner
from fithubert.superb.metrics import (
    SLOT_BEGIN,
    SLOT_END,
    Measure,
    error_rate,
    number_tokens,
    score_slots,
    type_f1,
)
from fithubert.tasks import TASKS


def spell(words: Sequence[str]) -> tuple[str, ...]:
    """The upper-case characters of the words, each word ended by WORD_EDGE; other characters are dropped."""
    return tuple(c for word in words for c in (*word.upper(), WORD_EDGE) if c in CHARACTERS)


def split_words(characters: Sequence[str]) -> list[str]:
    """The words of a character sequence, split at WORD_EDGE; empty words vanish."""
    return [word for word in "".join(characters).split(WORD_EDGE) if word]


def _characters(utterance: Utterance) -> tuple[str, ...] | None:
    return None if utterance.words is None else spell(utterance.words)


def _asr_score(references: list[list[str]], hypotheses: list[list[str]]) -> dict[str, Measure]:
    words = [[split_words(row) for row in rows] for rows in (references, hypotheses)]
    return {"wer": error_rate(*number_tokens(*words))}


ASR = CtcLearner(
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


PR = CtcLearner(
    "pr",
    kind="sentence",
    wanted="phones",
    tokens_of=_phones,
    score=_pr_score,
    selection=TASKS["pr"].selection,
    inventory="phones",
)


def _tagged(utterance: Utterance) -> tuple[str, ...] | None:
    """Characters of the words, `B-type` before the first and `E-type` after the last word of each slot."""
    if utterance.slots is None or utterance.words is None:
        return None
    first = {slot.first_word: slot.name for slot in utterance.slots}
    last = {slot.first_word + slot.num_words - 1: slot.name for slot in utterance.slots}
    tokens: list[str] = []
    for position, word in enumerate(utterance.words):
        tokens += [SLOT_BEGIN + first[position]] if position in first else []
        tokens += spell([word])
        tokens += [SLOT_END + last[position]] if position in last else []
    return tuple(tokens)


def _slot_chance(manifest: Manifest) -> dict[str, float]:
    """F1 of the set of slot types that is best on train, whose values are empty; empty without labels."""
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
    return sum(count * type_f1(reference, answer) for reference, count in references.items()) / references.total()


SF = CtcLearner(
    "sf",
    kind="command",
    wanted="slots",
    tokens_of=_tagged,
    score=score_slots,
    selection=TASKS["sf"].selection,
    inventory="slots",
    head="recurrent",
    constant=_slot_chance,
)
