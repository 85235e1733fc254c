"""Probes as ONNX graphs: model, weighted sum and head in one."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fithubert import __version__
from fithubert.errors import UserError
from fithubert.export.folder import new_directory, write_readme
from fithubert.export.onnx import TOLERANCE, checked_batches, write_padded_graph
from fithubert.files import digest_file
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import ReadOut, open_session, require_onnx
from fithubert.models.speech_model import SpeechModel
from fithubert.probes import GRAPH
from fithubert.probes.network import ProbeNetwork
from fithubert.records import PROBE_FILE, ProbeGraph, ProbeRecord
from fithubert.superb.heads import LinearHead
from fithubert.superb.learners.verification import SpeakerHead
from fithubert.tasks import task_info

_OUTPUTS = {"mean": ("logits",), "frames": ("logits", "frames"), "statistics": ("embedding",)}
#: The key of the record in the metadata of the graph; the labels are under `labels` too.
METADATA = "fithubert.probe"


def export_probe(model: SpeechModel, head: LinearHead | SpeakerHead, record: ProbeRecord, out: Path) -> ProbeRecord:
    """Write `out` with model.onnx, probe.json and README, and return what probe.json records.

    Inputs `waveforms` (batch, samples) float32 and `lengths` (batch,) int64; outputs `logits` (batch, output), `logits`
    (batch, time, output) and `frames` (batch,), or `embedding` (batch, width), as `ProbeNetwork` gives them. Raises
    UserError if the head is another model's, the model no student or teacher, `out` not new or empty, or the extra is
    missing; RuntimeError if the graph differs from torch.
    """
    require_onnx("--to onnx")
    if not isinstance(model, ReadOut | HubertTeacher):
        raise UserError(f"model {model.name}: neither a student nor a teacher with layers, so it has no graph")
    network, names = ProbeNetwork(model.to("cpu"), head, record).eval(), _OUTPUTS[record.pooling]
    with new_directory(out) as aside:
        path = aside / GRAPH
        write_padded_graph(network, names, record.shortest_samples, path)
        _add_metadata(path, record)
        difference = check_graph(network, path, record.shortest_samples)
        record = replace(record, graph=ProbeGraph(digest_file(path), path.stat().st_size, difference))
        record.write(aside / PROBE_FILE)
        write_readme("probe", aside, None, _describe(record, names))
    return record


def check_graph(network: ProbeNetwork, path: Path, shortest: int) -> float:
    """The largest difference of the graph in `path` from `network` on ten lengths, alone and as one padded batch.

    Relative to the largest output, at least 1. Raises RuntimeError if it is large.
    """
    session, worst = open_session(path), 0.0
    for padded, lengths in checked_batches(shortest):
        with torch.inference_mode():
            ours = [output.numpy() for output in network(padded, lengths)]
        theirs = session.run(None, {"waveforms": padded.numpy(), "lengths": lengths.numpy()})
        if len(ours) == 2 and not np.array_equal(ours[1], theirs[1]):
            raise RuntimeError(f"the exported graph has {theirs[1].tolist()} frames, not {ours[1].tolist()}")
        scale = max(1.0, float(np.abs(ours[0]).max()))
        for row in range(len(lengths)):
            valid = slice(int(ours[1][row])) if len(ours) == 2 else slice(None)
            gaps = np.abs(ours[0][row, valid] - theirs[0][row, valid])
            worst = max(worst, float(gaps.max(initial=0.0)) / scale)
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the exported graph differs from torch by {worst:.2g}")
    return worst


def _add_metadata(path: Path, record: ProbeRecord) -> None:
    import onnx

    model = onnx.load(path)
    values = {METADATA: json.dumps(record.to_json()), "labels": json.dumps(record.labels, ensure_ascii=False)}
    onnx.helper.set_model_props(model, values)
    onnx.save(model, path)


def _describe(record: ProbeRecord, names: Sequence[str]) -> dict[str, object]:
    info = task_info(record.task, tuple(record.test))
    shapes = {"mean": "(batch, output)", "frames": "(batch, time, output)", "statistics": "(batch, width)"}
    scores = ", ".join(f"{metric.label} {record.test[metric.name]:.2f} %" for metric in info.metrics)
    count = record.labels and f"{sum(map(len, record.labels)):,} outputs, named in `{PROBE_FILE}` in order"
    return {
        "task": record.task,
        "title": info.title,
        "model": record.model,
        "version": __version__,
        "fingerprint": record.fingerprint,
        "outputs": f"`{names[0]}` {shapes[record.pooling]}" + (", `frames` (batch,)" if len(names) > 1 else ""),
        "count": count or "an embedding: the cosine of two of them is the score of one speaker",
        "shortest": record.shortest_samples,
        "scores": scores,
        "codec": record.codec,
        "difference": f"{record.graph.max_difference:.1g}" if record.graph else "",
    }
