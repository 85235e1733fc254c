"""ASR: the characters of a sentence, scored by words; greedy decoding without a language model.

SUPERB's 28 characters and two BLSTM layers, of the width, frame rate and layer norms that the budget says (official:
1024, every frame, none) and, differing from it, without SpecAugment. LibriSpeech brings the official 32 outputs with an
end symbol; elsewhere there is none.
"""

from fithubert.data.manifest import Utterance
from fithubert.superb.ctc import CtcTask
from fithubert.superb.metrics import Measure, error_rate
from fithubert.superb.protocol import Selection
from fithubert.superb.tokens import CHARACTERS, number_tokens, spell, split_words


def _characters(utterance: Utterance) -> tuple[str, ...] | None:
    return None if utterance.words is None else spell(utterance.words)


def _score(references: list[list[str]], hypotheses: list[list[str]]) -> dict[str, Measure]:
    words = [[split_words(row) for row in rows] for rows in (references, hypotheses)]
    return {"wer": error_rate(*number_tokens(*words))}


ASR = CtcTask(
    "asr",
    kind="sentence",
    wanted="words",
    tokens_of=_characters,
    score=_score,
    selection=Selection("wer", less_is_better=True),
    inventory="characters",
    head="recurrent",
    vocabulary=CHARACTERS,
)
