"""Which student is written, what goes along, and every mistake in one line."""

import json
import sys
from pathlib import Path

import pytest

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import write_json
from fithubert.models.weights import save_student
from fithubert.stages.export import FORMS, describe_int8, export, read_speech
from fithubert.workspace import Workspace
from tests.export.students import tiny_readout
from tests.report.sample import distill


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """One with a student `thin` and no corpus."""
    workspace = Workspace(tmp_path / "workspace")
    save_student(tiny_readout("fithubert").student, workspace.student("thin"))
    return workspace


def test_a_student_is_found_by_name_or_folder_and_keeps_its_fingerprint(workspace: Workspace, tmp_path: Path) -> None:
    by_name = export(workspace, "thin", "huggingface", tmp_path / "a")
    by_folder = export(Workspace(tmp_path), str(workspace.student("thin")), "s3prl", tmp_path / "b")
    assert by_name == by_folder
    assert by_name["fingerprint"] == tiny_readout("fithubert").fingerprint
    assert json.loads((tmp_path / "b" / "config.json").read_text())["name"] == "thin"


def test_the_card_has_the_scores_of_these_weights_only(workspace: Workspace, tmp_path: Path) -> None:
    scored = {"superb": {"pr": {"per": 12.345}}, "ci": {"pr": {"per": [11.0, 13.5]}}}
    mine = {**scored, "fingerprint": tiny_readout("fithubert").fingerprint}
    for name, entry in (("mine", mine), ("others", {**scored, "fingerprint": "else"})):
        write_json(workspace.reports / "summary.json", {"models": {"thin": entry}, "teacher": "t", "tasks": ["pr"]})
        export(workspace, "thin", "huggingface", tmp_path / name)
    assert "| Phoneme recognition | PER | 12.3 % | 11.0 to 13.5 |" in (tmp_path / "mine" / "README.md").read_text()
    assert "None are known" in (tmp_path / "others" / "README.md").read_text()


def test_the_card_says_how_long_these_weights_were_trained(workspace: Workspace, tmp_path: Path) -> None:
    trained = distill("thin") | {"updates": 30, "best_update": 20, "audio_hours": 0.11}
    for name, fingerprint in (("mine", tiny_readout("fithubert").fingerprint), ("others", "else")):
        write_json(workspace.metrics("distill@thin"), trained | {"fingerprint": fingerprint})
        export(workspace, "thin", "huggingface", tmp_path / name)
    sentence = "These weights come from update 20 of 30, which read 0.11 h of audio."
    assert sentence in (tmp_path / "mine" / "README.md").read_text()
    assert "These weights come from" not in (tmp_path / "others" / "README.md").read_text()


@pytest.mark.parametrize(("time", "gain"), [(0.6, True), (0.9, False)])
def test_the_error_of_int8_is_printed_and_a_slower_graph_is_not_recommended(time: float, gain: bool) -> None:
    whole = {"relative_error": [0.01, 0.052], "latency_of_torch": time}
    line = describe_int8({"int8": whole, "float32": {"latency_of_torch": 0.8}})
    assert line.startswith(f"int8: 5.2% relative error on speech, {time:.0%} of torch's time; float32: 80%")
    assert ("use model.onnx here" in line) != gain


def test_latency_is_measured_and_recorded(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    few_frames = {"conv_layers": [[8, 10, 5], [16, 64, 64]], "depth": 1}
    save_student(tiny_readout("starhubert", **few_frames).student, tmp_path / "student")
    record = export(Workspace(tmp_path), str(tmp_path / "student"), "onnx", tmp_path / "out")
    assert record["float32"]["latency_of_torch"] > 0
    assert record["float32"]["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert record == json.loads((tmp_path / "out" / "config.json").read_text())


def test_int8_is_measured_on_speech_of_the_corpus(tmp_path: Path, tiny_corpus: Manifest) -> None:
    (tmp_path / "data").symlink_to(tiny_corpus.root)
    speech = read_speech(Workspace(tmp_path))
    assert 1 <= len(speech) <= 16
    assert all(waveform.ndim == 1 and 0 < len(waveform) <= 160_000 and waveform.any() for waveform in speech)


@pytest.mark.parametrize(
    ("student", "to", "int8", "said"),
    [
        ("fat", "s3prl", False, "'fat': not the folder of a student, and not one of thin"),
        ("thin", "coreml", False, "form 'coreml': not one of onnx, huggingface, s3prl"),
        ("thin", "s3prl", True, "--int8 works with --to onnx, not with --to s3prl"),
        ("thin", "onnx", True, "fithubert prepare"),
    ],
)
def test_a_mistake_is_named_and_nothing_written(
    student: str, to: str, int8: bool, said: str, workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        export(workspace, student, to, tmp_path / "out", int8)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", FORMS)
def test_what_is_there_stays(to: str, workspace: Workspace, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not an empty folder"):
        export(workspace, "thin", to, tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_missing_extra_is_named(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"--to onnx: needs pip install 'fithubert\[onnx\]'"):
        export(workspace, "thin", "onnx", tmp_path / "out")
