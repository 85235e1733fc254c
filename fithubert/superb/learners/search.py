"""QbE: find the recordings that contain a spoken phrase, by dynamic time warping of one layer; trains nothing.

Queries of a split are searched in the corpus's documents, with its own list of matches, or else in the sentences of the
split, matched by their words. As s3prl with its default distance: frames standardised over the split, exp(cosine
distance) - 1, every query frame scaled to 0..1 over the recording, asymmetric steps with open ends, scores standardised
per query. The layer is chosen on dev.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fithubert.data.batching import group_consecutive
from fithubert.data.manifest import Manifest, Utterance
from fithubert.records import Candidate, SuperbMetrics
from fithubert.store.read import FeatureStore
from fithubert.superb.bank import read_layer
from fithubert.superb.learners import MissingLabels
from fithubert.superb.metrics import Detection, FloatArray, IntArray, score_fields, summarise
from fithubert.tasks import TASKS, Metric

#: Shorter queries score 0 everywhere.
_MIN_FRAMES = 5


@dataclass(frozen=True)
class _Split:
    """Ids, and `targets` (query, recording): whether the recording contains the query's words."""

    queries: list[str]
    recordings: list[str]
    targets: np.ndarray


@dataclass(frozen=True)
class QueryLearner:
    """The declaration of QbE; it scores every layer."""

    name: str = "qbe"
    selection: Metric = TASKS["qbe"].selection
    pooling: ClassVar[None] = None

    def search(self, features: FeatureStore, manifest: Manifest) -> SuperbMetrics:
        """Term-weighted values of every layer on dev and of the best one on test; raises MissingLabels.

        Items are pairs of a query and a recording; chance is 0 %, from finding nothing.
        """
        dev, test = (_find_split(manifest, split) for split in ("dev", "test"))
        layers = sorted(features.layers)
        on_dev = [_search_layer(features, dev, layer) for layer in layers]
        values = [measure.value for measure in on_dev]
        best = int(np.argmax(values))
        name = self.selection.name
        on_test = {name: summarise([_search_layer(features, test, layers[best])])}
        return SuperbMetrics(
            task=self.name,
            model="",
            **score_fields(on_test, {name: summarise([on_dev[best]])}),
            dev={name: values[best]},
            chance={name: 0.0},
            candidates=tuple(Candidate(float(layer), value) for layer, value in enumerate(values)),
            layer_weights=tuple(float(layer == best) for layer in range(len(layers))),
            num_dev=dev.targets.size,
            num_test=test.targets.size,
        )


def warp_scores(query: Tensor, recordings: Tensor, lengths: IntArray, max_bytes: int = 64 * 2**20) -> FloatArray:
    """(recording,) the match of `query` (time, width) with each recording: minus the mean cost of the best path.

    `recordings` (frame, width), one after another, of `lengths` frames; every frame has the norm 1. Recordings are
    warped in groups whose costs take at most `max_bytes`, or one by one if a single one takes more. Every query frame
    is used once; from one to the next the recording advances by 0, 1 or 2 frames (dtw-python's `asymmetric` with open
    begin and end).
    """
    costs = torch.expm1(1 - query @ recordings.T).numpy()
    groups = group_consecutive(lengths.tolist(), lambda frames: 8 * len(query) * frames, max_bytes, padded=True)
    parts = np.split(costs, np.cumsum([sum(group) for group in groups])[:-1], axis=1)
    return np.concatenate([_warp(part, np.array(group)) for part, group in zip(parts, groups, strict=True)])


def _warp(costs: FloatArray, lengths: IntArray) -> FloatArray:
    """(recording,) from costs (query frame, frame), whose rows are scaled to 0..1 within each recording first."""
    costs = _pad_rows(costs, lengths)
    low, high = np.nanmin(costs, axis=2, keepdims=True), np.nanmax(costs, axis=2, keepdims=True)
    costs -= low
    costs /= np.maximum(high - low, 1e-8)
    costs[np.isnan(costs)] = np.inf
    # Two columns of infinite cost before the first frame, so that all steps are array operations.
    total = np.full((len(lengths), costs.shape[2] + 2), np.inf)
    total[:, 2:] = costs[:, 0]
    for row in range(1, costs.shape[1]):
        best = np.minimum(total[:, 2:], total[:, 1:-1])
        np.minimum(best, total[:, :-2], out=best)
        np.add(best, costs[:, row], out=total[:, 2:])
    return -total.min(axis=1) / costs.shape[1]


def _search_layer(features: FeatureStore, split: _Split, layer: int) -> Detection:
    (queries, of_queries), (recordings, of_recordings) = (
        read_layer(features, ids, layer) for ids in (split.queries, split.recordings)
    )
    lengths = np.diff(of_recordings)
    frames = torch.cat([queries, recordings])
    mean, scale = frames.mean(0), frames.std(0).clamp(min=1e-5)
    # In place: a layer of all documents takes gigabytes.
    frames.sub_(mean).div_(scale)
    frames.div_(frames.norm(dim=1, keepdim=True).clamp_min(1e-12))
    queries, recordings = frames.split([len(queries), len(recordings)])

    def score(query: Tensor) -> FloatArray:
        short = len(query) < _MIN_FRAMES
        return np.zeros(len(lengths)) if short else warp_scores(query, recordings, lengths)

    # Array operations release the lock of the interpreter.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        scores = np.stack(list(pool.map(score, queries.split(np.diff(of_queries).tolist()))))
    deviation = scores.std(axis=1, keepdims=True)
    return Detection((scores - scores.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-8), split.targets)


def _find_split(manifest: Manifest, split: str) -> _Split:
    documents = manifest.select(kind="document").utterances
    recordings = documents or tuple(u for u in manifest.select(split, "sentence") if u.words)

    def holds(query: Utterance, recording: Utterance) -> bool:
        return recording.id in (query.matches or ()) if documents else _is_spoken(query, recording)

    candidates = [(query, [holds(query, u) for u in recordings]) for query in manifest.select(split, "query")]
    found = [(query, row) for query, row in candidates if any(row)]
    if not found:
        place = "documents" if documents else f"sentences of the {split} split"
        raise MissingLabels(f"no query of the {split} split that occurs in the {place}")
    return _Split([q.id for q, _ in found], [u.id for u in recordings], np.array([row for _, row in found]))


def _is_spoken(query: Utterance, sentence: Utterance) -> bool:
    phrase = tuple((query.query or "").split())
    words = sentence.words or ()
    return bool(phrase) and any(words[i : i + len(phrase)] == phrase for i in range(len(words) - len(phrase) + 1))


def _pad_rows(costs: FloatArray, lengths: IntArray) -> FloatArray:
    """(recording, query frame, longest) from (query frame, frame), NaN after the end of a recording."""
    padded = np.full((len(lengths), int(lengths.max()), costs.shape[0]), np.nan, dtype=np.float64)
    padded[np.arange(padded.shape[1])[None] < lengths[:, None]] = costs.T
    return padded.transpose(0, 2, 1)


QBE = QueryLearner()
