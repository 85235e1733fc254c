"""Students as ONNX graphs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fithubert.errors import UserError
from fithubert.export.folder import describe_export, new_directory, write_readme
from fithubert.export.int8 import MAX_ERROR, quantise_within, relative_errors
from fithubert.files import check_digest, digest_file, read_json, write_json
from fithubert.frames import SAMPLE_RATE_HZ, pad_waveforms
from fithubert.models.runtime import ReadOut, open_session, require_onnx, samples_dim, write_graph
from fithubert.models.speech_model import Locality, SpeechModel, SpeechOutput
from fithubert.models.student import Student


def tidy_graph(path: Path) -> None:
    """Leave out of the graph in `path` the guards of attention, and what the exporter noted about where it was."""
    import onnx

    model = onnx.load(path)
    _drop_nan_guards(model.graph)
    for node in model.graph.node:
        # the lines of source that a node comes from, with the paths of this machine
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    onnx.save(model, path)


def _drop_nan_guards(graph: Any) -> None:
    """Remove what replaces rows of attention that are no numbers.

    torch guards its softmax against rows that are masked throughout. A student's mask never is: every row may attend
    to its first frame at least (`attention_mask`). The guard is a pass over every attention map.
    """
    tests = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "IsNaN"}
    guards = [node for node in graph.node if node.op_type == "Where" and tests.get(node.input[0]) == node.input[2]]
    kept = {node.output[0]: node.input[2] for node in guards}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in kept:
                node.input[index] = kept[name]
    for node in [*guards, *(node for node in graph.node if node.op_type == "IsNaN")]:
        graph.node.remove(node)


FLOAT32, INT8 = "model.onnx", "model.int8.onnx"
#: Samples beyond the shortest input on which every export is compared with torch, alone and as one padded batch.
CHECKED_LENGTHS = (0, 1, 319, 320, 321, 2001, 7777, 16000, 20003, 40000)
#: A larger difference is no rounding.
TOLERANCE = 1e-3
_MAX_BATCH = 4096

#: Latency of each model by name, relative to the first.
TimeModels = Callable[[Mapping[str, SpeechModel]], Mapping[str, float]]


class OnnxStudent:
    """An exported student as a `SpeechModel` run by ONNX Runtime on the CPU, with as many threads as torch has.

    `directory`: what `export_onnx` wrote; `int8` takes the quantised graph. Raises UserError if there is none.
    """

    def __init__(self, directory: Path | str, int8: bool = False) -> None:
        require_onnx("an exported student")
        path = Path(directory) / (INT8 if int8 else FLOAT32)
        if not path.is_file():
            raise UserError(f"{path}: no such file{'; export with --int8' if int8 else ''}")
        record = read_json(Path(directory) / "config.json")
        try:
            check_digest(path, record.get("int8" if int8 else "float32", {}).get("sha256"))
            self.name = record["name"] + (" int8" if int8 else " onnx")
            self.fingerprint = record["fingerprint"] + ("-int8" if int8 else "")
            self.widths: tuple[int, ...] = tuple(record.get("widths", (record["width"],) * record["layers"]))
            self.convolutions: tuple[tuple[int, int], ...] = tuple((int(k), int(s)) for k, s in record["convolutions"])
            self.frame_multiple = int(record.get("frame_multiple", 1))
            self.locality = Locality(**record.get("locality", {}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            config = Path(directory) / "config.json"
            raise UserError(f"{config}: not that of an exported student ({type(error).__name__}: {error})") from None
        try:
            self._session = open_session(path)
        except Exception as error:  # ONNX Runtime has a kind for each status
            raise UserError(f"{path}: not readable as ONNX ({' '.join(str(error).split())[:200]})") from None

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """The states of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) int64 in samples."""
        wanted = None if last_layer is None else [*_state_names(last_layer + 1), "frames"]
        *states, frames = self._session.run(wanted, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})
        return SpeechOutput(tuple(map(torch.from_numpy, states)), torch.from_numpy(frames))


def export_onnx(
    readout: ReadOut, out: Path, speech: Sequence[Tensor] | None, time_models: TimeModels
) -> dict[str, Any]:
    """Write `out` with model.onnx, config.json and README, and return what is recorded.

    Inputs `waveforms` (batch, samples) float32 and `lengths` (batch,) int64; outputs `state_0` ..., each (batch, time,
    feature), and `frames` (batch,). `speech` asks for model.int8.onnx too: 1-D waveforms that its error is measured
    on. Blocks stay in float32 there if a state would be more than `MAX_ERROR` off. Raises UserError if `out` is not new
    or empty, or the extra is missing.
    """
    require_onnx("--to onnx")
    with new_directory(out) as aside:
        write_graph_of(readout, readout.student, aside / FLOAT32)
        record = describe_export(readout) | {
            "convolutions": [list(pair) for pair in readout.convolutions],
            "frame_multiple": readout.frame_multiple,
            "locality": asdict(readout.locality),
        }
        write_json(aside / "config.json", record)
        models: dict[str, SpeechModel] = {"torch": readout, "float32": OnnxStudent(aside)}
        record["float32"] = {"max_difference": check_against_torch(readout, models["float32"])}
        if speech is not None:
            quantised, kept = quantise_within(readout.student, speech)
            write_graph_of(readout, quantised, aside / INT8)
            models["int8"] = OnnxStudent(aside, int8=True)
            record["int8"] = {"relative_error": relative_errors(readout, models["int8"], speech), "float32": kept}
        latencies = time_models(models)
        for name in models.keys() - {"torch"}:
            graph = aside / (INT8 if name == "int8" else FLOAT32)
            record[name] |= {"latency_of_torch": latencies[name], "bytes": graph.stat().st_size}
            record[name]["sha256"] = digest_file(graph)
        write_json(aside / "config.json", record)
        words = {"files": _describe_files(record), "rate": SAMPLE_RATE_HZ, "threads": torch.get_num_threads()}
        write_readme("onnx", aside, readout, record | words)
    return record


def write_graph_of(readout: ReadOut, student: Student, path: Path) -> None:
    """Write the graph of `student`, the read-out's own or its int8 form, for any batch and length."""
    outputs = [*_state_names(len(readout.widths)), "frames"]
    write_padded_graph(_Exported(student), outputs, readout.student.shortest_samples, path)


def write_padded_graph(network: nn.Module, outputs: Sequence[str], shortest: int, path: Path) -> None:
    """Write the graph of `network` (`waveforms`, `lengths`), for any batch and from `shortest` samples on."""
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    shapes = {"waveforms": {0: batch, 1: samples_dim(shortest)}, "lengths": {0: batch}}
    example = {"waveforms": torch.zeros(2, 16000), "lengths": torch.tensor([16000, 12000])}
    write_graph(network, example, outputs, shapes, path)
    tidy_graph(path)


def checked_batches(shortest: int) -> list[tuple[Tensor, Tensor]]:
    """Waveforms (batch, samples) and lengths (batch,) of ten lengths of noise, alone and as one padded batch."""
    generator = torch.Generator().manual_seed(0)
    waveforms = [0.1 * torch.randn(shortest + more, generator=generator) for more in CHECKED_LENGTHS]
    return [*(pad_waveforms([waveform]) for waveform in waveforms), pad_waveforms(waveforms)]


def check_against_torch(readout: ReadOut, exported: SpeechModel) -> float:
    """The largest difference on ten lengths, alone and as one padded batch; raises RuntimeError if it is large."""
    worst = 0.0
    for padded, lengths in checked_batches(readout.student.shortest_samples):
        ours, theirs = readout(padded, lengths), exported(padded, lengths)
        if not torch.equal(ours.lengths, theirs.lengths):
            raise RuntimeError(f"the exported graph has {theirs.lengths.tolist()} frames, not {ours.lengths.tolist()}")
        for one, two in zip(ours.hidden_states, theirs.hidden_states, strict=True):
            for row, count in enumerate(ours.lengths.tolist()):
                worst = max(worst, float((one[row, :count] - two[row, :count]).abs().max()))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the exported graph differs from torch by {worst:.2g}")
    return worst


class _Exported(nn.Module):
    """What is exported: waveforms and their lengths in, the read-out's states and their lengths out."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        states, frames = self.student.read(waveforms, lengths)
        return (*states, frames)


def _state_names(count: int) -> list[str]:
    return [f"state_{index}" for index in range(count)]


def _describe_files(record: Mapping[str, Any]) -> str:
    """A list of the graphs with what was measured when they were written."""
    single = record["float32"]
    lines = [
        f"- `{FLOAT32}`: {single['bytes'] / 1e6:.0f} MB, within {single['max_difference']:.1g} of torch on ten lengths "
        f"and a padded batch, {single['latency_of_torch']:.0%} of torch's time for 10 s."
    ]
    if "int8" in record:
        whole = record["int8"]
        errors = ", ".join(f"{error:.3f}" for error in whole["relative_error"])
        lines.append(
            f"- `{INT8}`: {whole['bytes'] / 1e6:.0f} MB, {whole['latency_of_torch']:.0%} of torch's time; relative "
            f"error of each state on speech {errors}. Convolutions and products are in int8, the rest is not."
        )
        if whole["float32"]:
            lines.append(f"  In float32, for errors within {MAX_ERROR:.0%}: {', '.join(whole['float32'])}.")
    return "\n".join(lines)
