"""KS: which of ten words, an unknown word, or silence; keyword clips of the corpus."""

from fithubert.data.manifest import Utterance
from fithubert.superb.pooled import PooledTask


def _labels(utterance: Utterance) -> tuple[str] | None:
    return None if utterance.keyword is None else (utterance.keyword,)


KS = PooledTask("ks", kind="keyword", wanted="keyword", labels_of=_labels, sampling="balanced", dev="expected")
