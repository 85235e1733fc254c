"""A probe answers as the score says: stored features, torch and the graph agree, and no other model gets its head."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fithubert import load_probe
from fithubert.data.audio import read_recording
from fithubert.errors import UserError
from fithubert.models.runtime import ReadOut
from fithubert.models.weights import load_student, save_student
from fithubert.probes import Label, Probe, Symbols
from fithubert.probes.graph import METADATA, export_probe
from fithubert.records import ProbeRecord
from fithubert.stages.export import export_task
from fithubert.superb.heads import LinearHead
from fithubert.superb.kept import read_head, write_head
from fithubert.superb.learners import TrainedHead
from fithubert.tensors import digest_tensors
from fithubert.workspace import Workspace
from tests.export.students import tiny_readout

#: Two convolutions and one layer: exported in seconds.
SMALL = {"conv_layers": [[8, 10, 5], [16, 64, 64]], "depth": 1}
#: Runs without torch.
WITHOUT_TORCH = """
import sys
for name in ("torch", "torchaudio"):
    sys.modules[name] = None
from fithubert import load_probe
print(load_probe(sys.argv[1])(sys.argv[2]))
"""


ODD = ("a b\nc", '"quoted" | ä½ ', "日本語", "", "\u2028", "../../etc")


def small_head(readout: ReadOut, labels: tuple[str, ...]) -> tuple[TrainedHead, ProbeRecord]:
    torch.manual_seed(0)
    head = LinearHead(len(readout.widths), readout.widths[0], 5, len(labels))
    trained = TrainedHead(head, "mean", (labels,), 1, {"acc": 50.0}, {"acc": 40.0})
    record = ProbeRecord(
        format="fithubert-probe-1",
        task="sid",
        model="odd",
        fingerprint=readout.fingerprint,
        features="f",
        corpus="c",
        codec="int8",
        identity="i",
        layers=tuple(range(len(readout.widths))),
        layer_weights=tuple(head.layer_sum.shares().tolist()),
        pooling="mean",
        labels=(labels,),
        dev={"acc": 50.0},
        test={"acc": 40.0},
        seed=1,
        weights=digest_tensors(head.state_dict()),
        sampling_rate=16_000,
        shortest_samples=readout.student.shortest_samples,
        field_samples=325,
        stride_samples=320,
    )
    return trained, record


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a student `odd`, its head for odd labels, and both as a graph in `graph`."""
    root, readout = tmp_path_factory.mktemp("odd"), tiny_readout("starhubert", **SMALL)
    save_student(readout.student, Workspace(root).student("odd"))
    write_head(Workspace(root).probe("odd", "sid"), *small_head(readout, ODD))
    export_task(Workspace(root), "odd", "sid", root / "graph")
    return root


def test_labels_survive_as_they_are(odd: Path) -> None:
    import onnx

    kept, graph = load_probe(Workspace(odd).probe("odd", "sid")), load_probe(odd / "graph" / "model.onnx")
    assert kept.record.labels == graph.record.labels == (ODD,)
    props = {entry.key: entry.value for entry in onnx.load(odd / "graph" / "model.onnx").metadata_props}
    assert json.loads(props["labels"]) == [list(ODD)]
    assert ProbeRecord.from_json(json.loads(props[METADATA])) == kept.record
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        waveform = torch.randn(5000, generator=generator)
        one, two = kept(waveform), graph(waveform)
        assert isinstance(one, Label)
        assert isinstance(two, Label)
        assert one.parts == two.parts
        assert one.label in ODD
    said = (odd / "graph" / "README.md").read_text(encoding="utf-8")
    assert "Acc 40.00 %" in said
    assert "$" not in said


def test_a_file_of_any_rate_answers_as_its_waveform(odd: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (30_000, 2))
    for rate in (16_000, 44_100):
        soundfile.write(tmp_path / "two.flac", noise, rate)
        for folder in (Workspace(odd).probe("odd", "sid"), odd / "graph"):
            probe = load_probe(str(folder))
            assert probe(tmp_path / "two.flac") == probe(read_recording(tmp_path / "two.flac"))


def test_a_graph_needs_no_torch(odd: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 9_000), 16_000)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(odd / "graph"), str(tmp_path / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Label(label=")


def test_symbols_have_the_times_of_their_frames() -> None:
    _, record = small_head(tiny_readout("starhubert", **SMALL), ("", "A", "B"))
    record = replace(record, pooling="frames", field_samples=400)
    best = [1, 1, 0, 1, 2, 2, 0]
    logits = np.eye(3, dtype=np.float32)[[*best, 2]][None]  # the last frame is padding
    probe = Probe(record, lambda _: (logits, np.array([len(best)])))
    answer = probe(np.zeros(9999))
    assert isinstance(answer, Symbols)
    assert answer.text == "A A B"
    starts = [symbol.start_seconds for symbol in answer.symbols]
    ends = [symbol.end_seconds for symbol in answer.symbols]
    # A frame stands for the 320 samples in the middle of its 400.
    assert starts == pytest.approx([0.0025, 0.0625, 0.0825])
    assert ends == pytest.approx([0.0425, 0.0825, 0.1225])


def test_another_student_is_refused(odd: Path, tmp_path: Path) -> None:
    folder, own = Workspace(odd).probe("odd", "sid"), Workspace(odd).student("odd")
    other = load_student(own)
    with torch.no_grad():
        other.encoder_norm.bias.add_(0.1)
    save_student(other, tmp_path / "other")
    assert load_probe(folder, own).record == load_probe(folder, ReadOut(load_student(own), "same")).record
    said = r"trained on other weights than those of other; run `fithubert superb odd sid`"
    with pytest.raises(UserError, match=said):
        load_probe(folder, tmp_path / "other")
    record, head = read_head(folder)
    with pytest.raises(UserError, match=said):
        export_probe(ReadOut(load_student(tmp_path / "other"), "other"), head, record, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # A copy elsewhere has no workspace, and opens no model that its record names.
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(UserError, match=r"holds a head alone, .* give `model`"):
        load_probe(tmp_path / "copy")
    assert load_probe(tmp_path / "copy", own).record.task == "sid"
    with pytest.raises(UserError, match="leave out `model`"):
        load_probe(odd / "graph", own)


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no record": lambda at: (at / "probe.json").unlink(),
    "half a record": lambda at: (at / "probe.json").write_bytes((at / "probe.json").read_bytes()[:100]),
    "another format": lambda at: edit(at / "probe.json", format="fithubert-probe-9"),
    "no number": lambda at: edit(at / "probe.json", stride_samples="many"),
    "labels that are none": lambda at: edit(at / "probe.json", labels=[[1, {}]]),
    "deep": lambda at: (at / "probe.json").write_text("[" * 100_000),
    "too few labels": lambda at: edit(at / "probe.json", labels=[["a"]]),
}
KEPT_DAMAGE: dict[str, Callable[[Path], object]] = {
    **DAMAGE,
    "half the weights": lambda at: (at / "model.safetensors").write_bytes(b"\x10" + bytes(40)),
    "no weights": lambda at: (at / "model.safetensors").unlink(),
    "other weights": lambda at: edit(at / "probe.json", weights="0" * 32),
    "other layers": lambda at: edit(at / "probe.json", layers=[0, 90]),
    "no layers": lambda at: edit(at / "probe.json", layers=[]),
    "negative layers": lambda at: edit(at / "probe.json", layers=[-1, 0]),
    "another pooling": lambda at: edit(at / "probe.json", pooling="statistics"),
}
GRAPH_DAMAGE: dict[str, Callable[[Path], object]] = {
    **DAMAGE,
    "half a graph": lambda at: (at / "model.onnx").write_bytes((at / "model.onnx").read_bytes()[:-1]),
    "no graph": lambda at: (at / "model.onnx").unlink(),
    "no onnx": lambda at: (
        (at / "model.onnx").write_bytes(b"nothing"),
        edit(at / "probe.json", graph={"sha256": SHA_OF_NOTHING, "bytes": 7, "max_difference": 0.0}),
    ),
}
SHA_OF_NOTHING = "1785cfc3bc6ac7738e8b38cdccd1af12563c2b9070e07af336a1bf8c0f772b6a"
CASES = [("kept", name) for name in KEPT_DAMAGE] + [("graph", name) for name in GRAPH_DAMAGE]


@pytest.mark.parametrize(("form", "name"), CASES)
def test_damage_is_one_line(form: str, name: str, odd: Path, tmp_path: Path) -> None:
    source = Workspace(odd).probe("odd", "sid") if form == "kept" else odd / "graph"
    shutil.copytree(source, tmp_path / "probe")
    (KEPT_DAMAGE if form == "kept" else GRAPH_DAMAGE)[name](tmp_path / "probe")
    with pytest.raises(UserError) as caught:
        load_probe(tmp_path / "probe", Workspace(odd).student("odd") if form == "kept" else None)(np.zeros(5000))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros(100), "waveform: 100 samples at 16 kHz give no frame; at least"),
        (np.full(9000, np.nan), "not one channel of finite samples"),
        (np.zeros((2, 9000)), "not one channel"),
        ("nowhere.wav", "nowhere.wav: no such recording"),
    ],
)
def test_a_recording_that_cannot_be_used_is_named(samples: Any, said: str, odd: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_probe(odd / "graph")(samples)


@pytest.mark.parametrize(
    ("student", "task", "said"),
    [
        ("odd", "ks", r"probes/odd/ks: no trained head; run `fithubert superb odd ks` first"),
        ("odd", "qbe", "--task qbe: its head is no probe to take away; pr, ks, sid, asv, er, ic have one"),
        ("odd", "sd", "--task sd: its head is no probe"),
        ("odd", "../x", "superb task '../x': not one of pr"),
        ("fat", "ks", "model 'fat'"),
    ],
)
def test_a_mistake_is_named_and_nothing_written(student: str, task: str, said: str, odd: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        export_task(Workspace(odd), student, task, tmp_path / "out")
    assert not (tmp_path / "out").exists()
