"""Probes to take away: a trained head and the model that it belongs to, `probe.json` next to weights or to a graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from fithubert.records.base import Record

PROBE_FILE = "probe.json"
#: How frames become one output: the mean of all, none (an output for each frame), or mean and deviation.
Pooling = Literal["mean", "frames", "statistics"]


@dataclass(frozen=True)
class ProbeGraph(Record):
    """The graph next to the record. `max_difference`: from torch, relative to the largest output (at least 1)."""

    sha256: str
    bytes: int
    max_difference: float


@dataclass(frozen=True)
class ProbeRecord(Record):
    """A trained head of `task` on the states `layers` of `model`, which are summed with `layer_weights`.

    `fingerprint`: of the model's weights; `features`, `corpus`: of the stored features and the labels that it was
    trained on; `codec`: of these features; `identity`: of all that decides the score. `labels`: the names of the
    outputs, slot after slot, "" for one that is no symbol; none of an embedding. `dev`, `test`: the values of this very
    head, in percent; those of a score over several seeds are their means. `seed`: of the several, the best on dev.
    `weights`: a digest of the head's tensors. `graph`: None without one.
    """

    omit_none: ClassVar[bool] = True

    format: Literal["fithubert-probe-1"]
    task: str
    model: str
    fingerprint: str
    features: str
    corpus: str
    codec: str
    identity: str
    layers: tuple[int, ...]
    layer_weights: tuple[float, ...]
    pooling: Pooling
    labels: tuple[tuple[str, ...], ...]
    dev: Mapping[str, float]
    test: Mapping[str, float]
    seed: int
    weights: str
    sampling_rate: int
    shortest_samples: int
    field_samples: int
    stride_samples: int
    graph: ProbeGraph | None = None
