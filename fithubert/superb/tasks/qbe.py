"""QbE: find the recordings that hold a spoken word, by dynamic time warping of one layer at a time; trains nothing.

The queries of a split and the corpus's documents, with the pairs that match by its own list; or else the sentences of
the split, whose words say it. As s3prl with its default distance: frames standardised over the split, exp(cosine
distance) - 1, every query frame scaled to 0..1 over the recording, asymmetric steps with open ends, scores standardised
per query. The layer is chosen on dev.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fithubert.data.manifest import Manifest, Utterance
from fithubert.superb.bank import FeatureSource, FrameBank, read_frames
from fithubert.superb.metrics import Detection, FloatArray, IntArray
from fithubert.superb.protocol import MissingLabels, SearchOutcome

#: Shorter queries score 0 everywhere.
_MIN_FRAMES = 5


@dataclass(frozen=True)
class _Split:
    """`targets` (query, recording): whether the recording holds the query's word."""

    queries: FrameBank
    recordings: FrameBank
    targets: np.ndarray


@dataclass(frozen=True)
class QueryTask:
    """The search task; `search` answers for every layer."""

    name: str = "qbe"

    def search(self, features: FeatureSource, manifest: Manifest) -> SearchOutcome:
        """Term-weighted values of every layer on dev and of the best one on test; raises MissingLabels."""
        dev, test = (_read_split(features, manifest, split) for split in ("dev", "test"))
        layers = dev.queries.features.shape[0]
        on_dev = [_search_layer(dev, layer).value for layer in range(layers)]
        best = int(np.argmax(on_dev))
        return SearchOutcome(
            metric="mtwv",
            dev=tuple(on_dev),
            layer=best,
            test=_search_layer(test, best),
            num_dev=dev.targets.size,
            num_test=test.targets.size,
        )


def warp_scores(query: Tensor, recordings: Tensor, lengths: IntArray) -> FloatArray:
    """(recording,) how well `query` (time, width) occurs in each recording: minus the mean cost of the best path.

    `recordings` (frame, width), one after another, of `lengths` frames; all of them are warped at once. Every query
    frame is used once; from one to the next the recording advances by 0, 1 or 2 frames (dtw-python's `asymmetric` with
    open begin and end).
    """
    cosine = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(recordings, dim=1).T
    costs = _pad_rows(torch.expm1(1 - cosine).numpy(), lengths)
    low, high = np.nanmin(costs, axis=2, keepdims=True), np.nanmax(costs, axis=2, keepdims=True)
    costs = np.nan_to_num((costs - low) / np.maximum(high - low, 1e-8), nan=np.inf)
    total = costs[:, 0]
    for row in range(1, costs.shape[1]):
        before = np.full((len(lengths), total.shape[1] + 2), np.inf)
        before[:, 2:] = total
        total = costs[:, row] + np.minimum(np.minimum(before[:, 2:], before[:, 1:-1]), before[:, :-2])
    return -total.min(axis=1) / len(query)


def _search_layer(split: _Split, layer: int) -> Detection:
    queries, recordings = (bank.features[layer].float() for bank in (split.queries, split.recordings))
    frames = torch.cat([queries, recordings])
    mean, scale = frames.mean(0), frames.std(0).clamp(min=1e-5)
    queries, recordings = (queries - mean) / scale, (recordings - mean) / scale
    scores = np.zeros((len(split.queries), len(split.recordings)))
    for i, query in enumerate(queries.split(split.queries.lengths.tolist())):
        if len(query) >= _MIN_FRAMES:
            scores[i] = warp_scores(query, recordings, split.recordings.lengths)
    deviation = scores.std(axis=1, keepdims=True)
    return Detection((scores - scores.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-8), split.targets)


def _read_split(features: FeatureSource, manifest: Manifest, split: str) -> _Split:
    documents = manifest.select(kind="document").utterances
    recordings = documents or tuple(u for u in manifest.select(split, "sentence") if u.words)
    holds = _is_listed if documents else _is_spoken
    candidates = [(query, [holds(query, u) for u in recordings]) for query in manifest.select(split, "query")]
    found = [(query, row) for query, row in candidates if any(row)]
    if not found:
        where = "documents" if documents else f"sentences of the {split} split"
        raise MissingLabels(f"no query of the {split} split that occurs in the {where}")
    queries, sentences = (read_frames(features, [u.id for u in us]) for us in ([q for q, _ in found], recordings))
    return _Split(queries, sentences, np.array([row for _, row in found]))


def _is_listed(query: Utterance, document: Utterance) -> bool:
    return document.id in (query.matches or ())


def _is_spoken(query: Utterance, sentence: Utterance) -> bool:
    return query.query in (sentence.words or ())


def _pad_rows(costs: FloatArray, lengths: IntArray) -> FloatArray:
    """(recording, query frame, longest) from (query frame, frame), NaN where a recording has ended."""
    padded = np.full((len(lengths), int(lengths.max()), costs.shape[0]), np.nan, dtype=np.float64)
    padded[np.arange(padded.shape[1])[None] < lengths[:, None]] = costs.T
    return padded.transpose(0, 2, 1)


QBE = QueryTask()
