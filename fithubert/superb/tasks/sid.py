"""SID: who speaks, among the speakers of the training split.

Differs from the official protocol on long recordings: whole utterances where s3prl crops 8 s at random in training. The
sentences of the embedded corpus are shorter than that, so there it is the same.
"""

from fithubert.data.manifest import Utterance
from fithubert.superb.pooled import PooledTask


def _labels(utterance: Utterance) -> tuple[str] | None:
    return None if utterance.speaker is None else (utterance.speaker,)


SID = PooledTask("sid", kind="sentence", wanted="speaker", labels_of=_labels)
