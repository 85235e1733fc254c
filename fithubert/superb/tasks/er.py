"""ER: the prosody style of a sentence (pitch, range, rate and volume by rule; not human emotion).

One train/dev/test split, that of the corpus; the official task averages five folds over the sessions of IEMOCAP.
"""

from fithubert.data.manifest import Utterance
from fithubert.superb.pooled import PooledTask


def _labels(utterance: Utterance) -> tuple[str] | None:
    return None if utterance.style is None else (utterance.style,)


ER = PooledTask("er", kind="sentence", wanted="prosody style", labels_of=_labels)
