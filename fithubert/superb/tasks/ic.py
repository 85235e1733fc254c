"""IC: action, object and location of a spoken command; right only where all three are."""

from fithubert.data.manifest import Utterance
from fithubert.superb.pooled import PooledTask


def _labels(utterance: Utterance) -> tuple[str, str, str] | None:
    intent = utterance.intent
    return None if intent is None else (intent.action, intent.object, intent.location)


IC = PooledTask("ic", kind="command", wanted="intent", labels_of=_labels)
