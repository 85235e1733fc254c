"""PR: the phones of a sentence.

The embedded corpus has 40 phones without stress, hence 41 outputs with the blank; LibriSpeech has the official 74 (69
stressed phones, silence, noise, three specials), so the two error rates cannot be compared.
"""

from fithubert.data.manifest import Utterance
from fithubert.superb.ctc import CtcTask
from fithubert.superb.metrics import Measure, error_rate
from fithubert.superb.protocol import Selection
from fithubert.superb.tokens import number_tokens


def _phones(utterance: Utterance) -> tuple[str, ...] | None:
    if utterance.pronunciation is not None:
        return utterance.pronunciation
    return None if utterance.phones is None else tuple(p.label for p in utterance.phones)


def _score(references: list[list[str]], hypotheses: list[list[str]]) -> dict[str, Measure]:
    return {"per": error_rate(*number_tokens(references, hypotheses))}


PR = CtcTask(
    "pr",
    kind="sentence",
    wanted="phones",
    tokens_of=_phones,
    score=_score,
    selection=Selection("per", less_is_better=True),
    inventory="phones",
)
