"""Front ends for voice conversion: teachers and students as the ONNX graphs through which RVC reads speech.

RVC's voices read `vec-768-layer-12.onnx` (v2) or `vec-256-layer-9.onnx` (v1, through `final_proj`): `source` (1, 1,
samples) float32 at 16 kHz in, `embed` (1, frames, feature) out, one frame every 320 samples.
Source: RVC-Project/Retrieval-based-Voice-Conversion-WebUI, infer/lib/infer_pack/onnx_inference.py (`ContentVec`) for
the files and shapes, infer/modules/train/extract_feature_print.py for layers and projection; onnx_export.py of
so-vits-svc 4.0 (`hubert4.0.onnx`) for the names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert import __version__
from fithubert.errors import UserError
from fithubert.export.folder import new_directory, write_readme
from fithubert.export.onnx import CHECKED_LENGTHS, TOLERANCE, TimeModels, tidy_graph
from fithubert.files import digest_file, write_json
from fithubert.frames import count_samples, hop_padding, receptive_field
from fithubert.models.canonical import Projection
from fithubert.models.hubert import PROJECTED_LAYER, HubertTeacher
from fithubert.models.runtime import ReadOut, Unpadded, open_session, require_onnx, samples_dim, write_graph
from fithubert.models.speech_model import SpeechModel, SpeechOutput


class _Voice(NamedTuple):
    """What one version of RVC reads. `width`: the features that its voices are trained on."""

    version: str
    layer: int
    projected: bool
    width: int


_VOICES = (_Voice("v2", 12, False, 768), _Voice("v1", PROJECTED_LAYER, True, 256))


def export_rvc(
    model: HubertTeacher | ReadOut,
    out: Path,
    final_proj: Projection | None,
    hop_aligned: bool,
    time_models: TimeModels,
) -> dict[str, Any]:
    """Write `out` with the graphs that `model` can give, config.json and README, and return what is recorded.

    A student gives its predictions of the teacher's layers. `final_proj`: the projection for v1. `hop_aligned` adds
    zeros at both ends (`frames.hop_padding`). A graph is named by its width and layer, so that only widths of 768 and
    256 have RVC's file names; other widths are for voices trained on them. Raises UserError if `model` gives neither
    graph, or `out` is not new or empty, or the extra is missing.
    """
    require_onnx("--layout rvc")
    graphs, reasons = {}, {}
    for voice in _VOICES:
        try:
            module = _find_states(model, voice.layer)
            projection = _find_projection(module, final_proj) if voice.projected else None
        except UserError as error:
            reasons[voice.version] = str(error)
            continue
        padding = hop_padding(model.convolutions) if hop_aligned else (0, 0)
        graphs[voice] = _Embed(module, projection, padding)
    if not graphs:
        raise UserError(f"{model.name}: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    shortest = count_samples(model.frame_multiple, model.convolutions)
    if hop_aligned:
        shortest = model.frame_multiple * receptive_field(model.convolutions)[1]
    record: dict[str, Any] = {"name": model.name, "fingerprint": model.fingerprint, "fithubert": __version__}
    with new_directory(out) as aside:
        written = {}
        for voice, graph in graphs.items():
            name = f"vec-{graph.width}-layer-{voice.layer}.onnx"
            measured = _write(graph, aside / name, shortest, time_models)
            written[name] = {"version": voice.version, "layer": voice.layer, "width": graph.width, **measured}
            written[name]["fits"] = graph.width == voice.width
        record |= {"layout": "rvc", "hop_aligned": hop_aligned, "shortest": shortest}
        record |= {"graphs": written, "left_out": reasons}
        write_json(aside / "config.json", record)
        threads = torch.get_num_threads()
        words = {"lines": "\n".join(describe_graphs(record)), "graph": next(iter(written)), "threads": threads}
        write_readme("rvc", aside, None, record | words)
    return record


def describe_graphs(record: Mapping[str, Any]) -> list[str]:
    """A line for each graph of an export, and for each that is left out."""
    widths = {voice.version: voice.width for voice in _VOICES}
    lines = []
    for name, graph in record["graphs"].items():
        version = graph["version"]
        fits = f"for RVC {version}"
        if not graph["fits"]:
            fits = f"as RVC {version}, but its published voices read {widths[version]} features, not {graph['width']}"
        lines.append(
            f"- `{name}`: layer {graph['layer']}, {graph['width']} wide, {fits}; within {graph['max_difference']:.1g} "
            f"of torch, {graph['latency_of_torch']:.0%} of its time, {graph['bytes'] / 1e6:.1f} MB"
        )
    return lines + [f"- no graph for RVC {version}: {reason}" for version, reason in record["left_out"].items()]


class _States(nn.Module):
    """One layer (batch, time, feature) of waveforms (batch, samples) of one length; `width` features."""

    width: int


class _TeacherLayer(_States):
    def __init__(self, teacher: HubertTeacher, layer: int) -> None:
        super().__init__()
        self.model, self.width = Unpadded(teacher.model, layer), teacher.widths[layer]

    def forward(self, waveforms: Tensor) -> Tensor:
        return cast(tuple[Tensor, ...], self.model(waveforms))[-1]


class _StudentHead(_States):
    def __init__(self, readout: ReadOut, head: int) -> None:
        super().__init__()
        self.student, self.head, self.width = readout.student, head, readout.student.config.heads.teacher_width

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.student.hints(waveforms, None, [self.head]).projections[0]


class _Embed(nn.Module):
    """What is exported."""

    def __init__(self, states: _States, projection: Projection | None, padding: tuple[int, int]) -> None:
        super().__init__()
        self.states, self.padding = states, padding
        self.projection: nn.Linear | None = None
        self.width = states.width
        if projection is not None:
            weight, bias = projection
            self.width = len(bias)
            self.projection = nn.Linear(weight.shape[1], len(bias))
            self.projection.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, source: Tensor) -> Tensor:
        embed = self.states(F.pad(source[:, 0], self.padding))
        return embed if self.projection is None else self.projection(embed)


def _find_states(model: HubertTeacher | ReadOut, layer: int) -> _States:
    """The module that gives the teacher's `layer`; raises UserError if `model` has or predicts no such layer."""
    if isinstance(model, HubertTeacher):
        if layer >= len(model.widths):
            raise UserError(f"it reads layer {layer}, and the teacher has {len(model.widths) - 1}")
        return _TeacherLayer(model, layer)
    heads = model.student.config.heads
    predicted = [theirs for _, theirs in heads.layer_map] if heads.kind != "none" else []
    if layer not in predicted:
        kept = f"only layer {', '.join(map(str, predicted))}" if predicted else "no layer of the teacher"
        raise UserError(f"it reads layer {layer}, and the student predicts {kept}; train it with heads.keep: [{layer}]")
    return _StudentHead(model, predicted.index(layer))


def _find_projection(states: _States, final_proj: Projection | None) -> Projection:
    if final_proj is None:
        out = "the teacher has none" if isinstance(states, _TeacherLayer) else "name the student's teacher (--teacher)"
        raise UserError(f"it reads layer {PROJECTED_LAYER} through final_proj; {out}")
    if final_proj[0].shape[1] != states.width:
        raise UserError(f"final_proj is of {final_proj[0].shape[1]} features, and the states have {states.width}")
    return final_proj


def _write(graph: _Embed, path: Path, shortest: int, time_models: TimeModels) -> dict[str, Any]:
    """Write `graph` to `path`; what was measured. Raises RuntimeError if the file differs from torch."""
    graph.eval().requires_grad_(False)
    example = {"source": torch.zeros(1, 1, 16_000)}
    write_graph(graph, example, ["embed"], {"source": {2: samples_dim(shortest)}}, path)
    tidy_graph(path)
    session = open_session(path)

    def run(source: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"source": source.numpy()})[0])

    generator, worst = torch.Generator().manual_seed(0), 0.0
    for more in CHECKED_LENGTHS:
        source = 0.1 * torch.randn(1, 1, shortest + more, generator=generator)
        ours, theirs = graph(source), run(source)
        worst = max(worst, float((ours - theirs).abs().max())) if ours.shape == theirs.shape else float("inf")
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the exported graph differs from torch by {worst:.2g}")
    latencies = time_models({"torch": _as_model(graph), "onnx": _as_model(run)})
    return {
        "max_difference": worst,
        "latency_of_torch": latencies["onnx"],
        "bytes": path.stat().st_size,
        "sha256": digest_file(path),
    }


def _as_model(run: Any) -> SpeechModel:
    """`run`, which reads a source, as what is timed."""
    return cast(SpeechModel, lambda waveforms, lengths: SpeechOutput((run(waveforms[:, None]),), lengths))
