"""A student as an MLflow model: it says what the student says, without this package, and names every mistake."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("mlflow")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fithubert.cli import app
from fithubert.errors import UserError
from fithubert.export.folder import write_portable
from fithubert.models.runtime import ReadOut
from fithubert.models.weights import save_student
from fithubert.records import ModelSummary, Summary
from fithubert.tracking.models import (
    TrackedStudent,
    log_students,
    log_summary,
    recorded_runs,
    register_student,
    write_model,
)
from tests.export.students import draw_waveforms, read_alone, tiny_readout

LENGTHS = (400, 719, 720, 4001, 16000, 16000)

#: Loads a model and runs it where this package cannot be imported.
ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fithubert", "torchaudio"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import mlflow, numpy, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
waveforms = [numpy.array(row) for row in json.load(open(sys.argv[2]))]
said = model.predict(pandas.DataFrame({"waveform": waveforms, "sampling_rate": [16000] * len(waveforms)}))
print(json.dumps([states.tolist() for states in said["features"]]))
"""


def track(readout: ReadOut) -> TrackedStudent:
    return TrackedStudent(readout.name, readout.fingerprint, partial(write_portable, readout))


def table(*waveforms: object, rate: int = 16_000) -> pd.DataFrame:
    return pd.DataFrame({"waveform": list(waveforms), "sampling_rate": [rate] * len(waveforms)})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a tiny student. Do not change it."""
    out = tmp_path_factory.mktemp("model") / "model"
    write_model(track(tiny_readout("fithubert")), out)
    return out


@pytest.mark.parametrize("recipe", ["fithubert", "distilhubert", "starhubert", "armhubert"])
def test_a_model_says_what_the_read_out_says_of_each_alone(recipe: str, tmp_path: Path) -> None:
    readout = tiny_readout(recipe)
    write_model(track(readout), tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    waveforms = draw_waveforms(*LENGTHS)
    said = loaded.predict(table(*[waveform.numpy() for waveform in waveforms]))
    padded = readout(torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor(LENGTHS))
    for row, waveform in enumerate(waveforms):
        wanted = read_alone(readout, waveform)[-1].numpy()
        features, frames = said["features"][row], said["frames"][row]
        assert features.shape == (frames, readout.widths[-1]) == wanted.shape
        np.testing.assert_allclose(features, wanted, atol=1e-6)
        np.testing.assert_allclose(features, padded.hidden_states[-1][row, :frames], atol=1e-4)


def test_a_model_needs_no_fithubert_and_is_executed_from_its_own_source(model: Path, tmp_path: Path) -> None:
    waveforms = draw_waveforms(400, 2345)
    (tmp_path / "waveforms.json").write_text(json.dumps([waveform.tolist() for waveform in waveforms]))
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", ALONE, str(model), str(tmp_path / "waveforms.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    readout = tiny_readout("fithubert")
    for features, waveform in zip(json.loads(done.stdout), waveforms, strict=True):
        np.testing.assert_allclose(features, read_alone(readout, waveform)[-1].numpy(), atol=1e-6)
    assert [path for path in model.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")] == []


def test_several_models_live_in_one_process(model: Path, tmp_path: Path) -> None:
    write_model(track(tiny_readout("distilhubert")), tmp_path / "other")
    one, other = (mlflow.pyfunc.load_model(str(path)) for path in (model, tmp_path / "other"))
    [waveform] = draw_waveforms(3000)
    for loaded, recipe in ((one, "fithubert"), (other, "distilhubert")):
        wanted = read_alone(tiny_readout(recipe), waveform)[-1].numpy()
        np.testing.assert_allclose(loaded.predict(table(waveform.tolist()))["features"][0], wanted, atol=1e-6)


def test_signature_and_example_are_there_and_agree(model: Path) -> None:
    info = mlflow.models.get_model_info(str(model))
    assert [column.name for column in info.signature.inputs.inputs] == ["waveform", "sampling_rate"]
    assert [column.name for column in info.signature.outputs.inputs] == ["features", "frames"]
    loaded = mlflow.pyfunc.load_model(str(model))
    assert loaded.predict(loaded.input_example)["frames"].tolist() == [4]
    assert info.metadata["fingerprint"] == tiny_readout("fithubert").fingerprint


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (table([0.0] * 800, rate=8000), "sampling_rate of 8000 Hz, but this student needs 16000 Hz; resample it first"),
        (table([0.1] * 400, []), r"utterance 1 \(the first is 0\) is empty"),
        (table([0.1] * 399), "has 399 samples; at least 400 are needed for one frame"),
        (table([0.1] * 400 + [float("nan")]), "holds values that are not finite"),
        (table([0.1] * 400).head(0), "the input has no rows"),
        (pd.DataFrame({"waveform": [[0.1] * 400]}), "Model is missing inputs .*sampling_rate"),
        (pd.DataFrame({"sampling_rate": [16000]}), "Model is missing inputs .*waveform"),
        (table([[0.1] * 400]), "Failed to enforce schema"),
    ],
)
def test_a_mistake_is_named(rows: pd.DataFrame, said: str, model: Path) -> None:
    with pytest.raises(MlflowException, match=said):
        mlflow.pyfunc.load_model(str(model)).predict(rows)


def test_a_report_logs_each_student_once_and_links_it_to_its_runs(store: MlflowClient, tmp_path: Path) -> None:
    student = track(tiny_readout("fithubert"))
    experiments = []
    for _ in range(2):
        log_summary(Summary(models={"fithubert": ModelSummary(), "t": ModelSummary()}), tmp_path, flush_seconds=60.0)
        log_students([student, track(tiny_readout("distilhubert"))], tmp_path, 60.0)
        run = store.get_run(recorded_runs(tmp_path)["fithubert"])
        experiments.append(run.info.experiment_id)
        [logged] = store.search_logged_models([run.info.experiment_id])
        assert [output.model_id for output in run.outputs.model_outputs] == [logged.model_id]
    assert (logged.name, logged.status.value, logged.model_type) == ("fithubert", "READY", "student")
    assert logged.source_run_id != run.info.run_id  # the first summary's
    loaded = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    assert loaded.predict(table([0.1] * 800))["frames"].tolist() == [2]


def test_a_registered_student_is_found_by_its_name_and_has_one_version(store: MlflowClient, tmp_path: Path) -> None:
    student = track(tiny_readout("fithubert"))
    assert register_student(student, "thin", tmp_path) == "1"
    assert register_student(student, "thin", tmp_path) == "1"
    assert register_student(track(tiny_readout("distilhubert")), "thin", tmp_path) == "2"
    assert register_student(student, "another", tmp_path) == "1"
    dotted = replace(track(tiny_readout("fithubert_lite")), name="fithubert.v2")
    assert register_student(dotted, "dotted", tmp_path) == "1"
    run = store.get_run(store.get_model_version("thin", "1").run_id)
    assert (run.info.run_name, run.info.status, run.data.tags["kind"]) == ("export@fithubert", "FINISHED", "export")
    [waveform] = draw_waveforms(1234)
    said = mlflow.pyfunc.load_model("models:/thin/1").predict(table(waveform.numpy()))
    np.testing.assert_allclose(said["features"][0], read_alone(tiny_readout("fithubert"), waveform)[-1], atol=1e-6)
    with pytest.raises(UserError, match="Names cannot contain"):
        register_student(student, "a/b", tmp_path)


def test_a_failed_upload_leaves_no_model_that_is_ready(
    store: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        raise OSError("no space left")

    log_summary(Summary(models={"thin": ModelSummary()}), tmp_path, flush_seconds=60.0)
    log_students([TrackedStudent("thin", "f" * 32, fail)], tmp_path, 60.0)
    assert [record.message.count("no space left") for record in caplog.records if "local record" in record.message] == [
        1
    ]
    experiment = store.get_experiment_by_name("fithubert")
    assert experiment is not None
    assert [model.status.value for model in store.search_logged_models([experiment.experiment_id])] == ["FAILED"]


def test_the_command_writes_and_registers(store: MlflowClient, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    readout = tiny_readout("fithubert")
    save_student(readout.student, tmp_path / "artifacts" / "students" / "thin")
    line = ["--workspace", str(tmp_path), "export", "thin", "--to", "mlflow"]
    done = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "model"), "--register", "phones"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'model'}: thin {readout.fingerprint}, 1 states, {readout.widths[-1]} wide",
        "models:/phones/1",
    ]
    assert (tmp_path / "model" / "MLmodel").is_file()
    for wrong, said in (
        (line, "name a folder that is new or empty with --out"),
        ([*line[:-1], "s3prl", "--register", "x"], "--register works with --to mlflow, not with --to s3prl"),
    ):
        refused = CliRunner().invoke(app, wrong)
        assert (refused.exit_code, refused.stderr) == (1, f"error: {said}\n")
