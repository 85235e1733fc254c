"""QbE: find the recordings that hold a spoken phrase, by dynamic time warping of one layer at a time; trains nothing.

The queries of a split and the corpus's documents, with the pairs that match by its own list; or else the sentences of
the split, whose words say it. As s3prl with its default distance: frames standardised over the split, exp(cosine
distance) - 1, every query frame scaled to 0..1 over the recording, asymmetric steps with open ends, scores standardised
per query. The layer is chosen on dev.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fithubert.data.manifest import Manifest, Utterance
from fithubert.superb.bank import FeatureSource, read_layer
from fithubert.superb.metrics import Detection, FloatArray, IntArray
from fithubert.superb.protocol import MissingLabels, SearchOutcome

#: Shorter queries score 0 everywhere.
_MIN_FRAMES = 5
#: What the costs of one query against a group of recordings may take, unless the group is a single one.
_COST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Split:
    """Ids, and `targets` (query, recording): whether the recording holds the query's words."""

    queries: list[str]
    recordings: list[str]
    targets: np.ndarray


@dataclass(frozen=True)
class QueryTask:
    """The search task; `search` answers for every layer."""

    name: str = "qbe"

    def search(self, features: FeatureSource, manifest: Manifest) -> SearchOutcome:
        """Term-weighted values of every layer on dev and of the best one on test; raises MissingLabels."""
        dev, test = (_find_split(manifest, split) for split in ("dev", "test"))
        layers = sorted(features.layers)
        on_dev = [_search_layer(features, dev, layer).value for layer in layers]
        best = int(np.argmax(on_dev))
        return SearchOutcome(
            metric="mtwv",
            dev=tuple(on_dev),
            layer=best,
            test=_search_layer(features, test, layers[best]),
            num_dev=dev.targets.size,
            num_test=test.targets.size,
        )


def warp_scores(query: Tensor, recordings: Tensor, lengths: IntArray) -> FloatArray:
    """(recording,) how well `query` (time, width) occurs in each recording: minus the mean cost of the best path.

    `recordings` (frame, width), one after another, of `lengths` frames; every frame has the length 1. Many recordings
    are warped at once, as many as fit in 64 MB. Every query frame is used once; from one to the next the recording
    advances by 0, 1 or 2 frames (dtw-python's `asymmetric` with open begin and end).
    """
    costs = torch.expm1(1 - query @ recordings.T).numpy()
    edges, offsets = [0], np.concatenate([[0], np.cumsum(lengths)])
    for i in range(1, len(lengths) + 1):
        group = lengths[edges[-1] : i + 1]
        if i == len(lengths) or 8 * len(query) * int(group.max()) * len(group) > _COST_BYTES:
            edges.append(i)
    parts = [_warp(costs[:, offsets[a] : offsets[b]], lengths[a:b]) for a, b in pairwise(edges)]
    return np.concatenate(parts)


def _warp(costs: FloatArray, lengths: IntArray) -> FloatArray:
    """(recording,) from costs (query frame, frame), whose rows are scaled to 0..1 within each recording first."""
    costs = _pad_rows(costs, lengths)
    low, high = np.nanmin(costs, axis=2, keepdims=True), np.nanmax(costs, axis=2, keepdims=True)
    costs -= low
    costs /= np.maximum(high - low, 1e-8)
    costs[np.isnan(costs)] = np.inf
    # Two frames that no path comes from stand before the first one.
    total = np.full((len(lengths), costs.shape[2] + 2), np.inf)
    total[:, 2:] = costs[:, 0]
    for row in range(1, costs.shape[1]):
        best = np.minimum(total[:, 2:], total[:, 1:-1])
        np.minimum(best, total[:, :-2], out=best)
        np.add(best, costs[:, row], out=total[:, 2:])
    return -total.min(axis=1) / costs.shape[1]


def _search_layer(features: FeatureSource, split: _Split, layer: int) -> Detection:
    (queries, of_queries), (recordings, of_recordings) = (
        read_layer(features, ids, layer) for ids in (split.queries, split.recordings)
    )
    lengths = np.diff(of_recordings)
    frames = torch.cat([queries, recordings])
    mean, scale = frames.mean(0), frames.std(0).clamp(min=1e-5)
    # In place: a layer of all documents is gigabytes.
    frames.sub_(mean).div_(scale)
    frames.div_(frames.norm(dim=1, keepdim=True).clamp_min(1e-12))
    queries, recordings = frames.split([len(queries), len(recordings)])

    def score(query: Tensor) -> FloatArray:
        short = len(query) < _MIN_FRAMES
        return np.zeros(len(lengths)) if short else warp_scores(query, recordings, lengths)

    # Array operations let other threads work beside them.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        scores = np.stack(list(pool.map(score, queries.split(np.diff(of_queries).tolist()))))
    deviation = scores.std(axis=1, keepdims=True)
    return Detection((scores - scores.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-8), split.targets)


def _find_split(manifest: Manifest, split: str) -> _Split:
    documents = manifest.select(kind="document").utterances
    recordings = documents or tuple(u for u in manifest.select(split, "sentence") if u.words)
    holds = _is_listed if documents else _is_spoken
    candidates = [(query, [holds(query, u) for u in recordings]) for query in manifest.select(split, "query")]
    found = [(query, row) for query, row in candidates if any(row)]
    if not found:
        where = "documents" if documents else f"sentences of the {split} split"
        raise MissingLabels(f"no query of the {split} split that occurs in the {where}")
    return _Split([q.id for q, _ in found], [u.id for u in recordings], np.array([row for _, row in found]))


def _is_listed(query: Utterance, document: Utterance) -> bool:
    return document.id in (query.matches or ())


def _is_spoken(query: Utterance, sentence: Utterance) -> bool:
    phrase = tuple((query.query or "").split())
    words = sentence.words or ()
    return bool(phrase) and any(words[i : i + len(phrase)] == phrase for i in range(len(words) - len(phrase) + 1))


def _pad_rows(costs: FloatArray, lengths: IntArray) -> FloatArray:
    """(recording, query frame, longest) from (query frame, frame), NaN where a recording has ended."""
    padded = np.full((len(lengths), int(lengths.max()), costs.shape[0]), np.nan, dtype=np.float64)
    padded[np.arange(padded.shape[1])[None] < lengths[:, None]] = costs.T
    return padded.transpose(0, 2, 1)


QBE = QueryTask()
