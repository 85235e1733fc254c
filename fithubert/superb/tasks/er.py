"""ER: the emotion of a sentence; in the embedded corpus its prosody style (pitch, range, rate and volume by rule).

One train/dev/test split, that of the corpus: of IEMOCAP one fold, of which the official task averages five.
"""

from fithubert.data.manifest import Utterance
from fithubert.superb.pooled import PooledTask


def _labels(utterance: Utterance) -> tuple[str] | None:
    return None if utterance.style is None else (utterance.style,)


ER = PooledTask("er", kind="sentence", wanted="prosody style", labels_of=_labels)
