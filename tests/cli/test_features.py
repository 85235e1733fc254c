"""`fithubert features` and `fithubert units` as a user meets them."""

import inspect
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import KMeans

import fithubert
from fithubert.cli.features import features as features_command
from fithubert.cli.units import units as units_command
from fithubert.export import find
from fithubert.export.onnx import export_onnx
from fithubert.models.runtime import ReadOut
from fithubert.models.weights import load_student, save_student
from fithubert.models.windows import Windows
from fithubert.pretrain.discretise import SAMPLE_FRAMES
from fithubert.workspace import Workspace
from tests.cli.test_cli import ROOT, run
from tests.export.students import SMALL, tiny_readout
from tests.fakes import FakeModel, write_folder
from tests.models.shapes import strong, tiny


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of four heads, `all_heads`, and recordings in `in`."""
    root = tmp_path_factory.mktemp("workspace")
    save_student(strong(tiny("armhubert")), root / "artifacts" / "students" / "all_heads")
    write_folder(root / "in")
    return root


def test_options_have_the_librarys_defaults() -> None:
    for command in (features_command, units_command):
        parameters = inspect.signature(command).parameters
        names = ("max_seconds", "window_seconds", "context_seconds")
        assert Windows(*(parameters[name].default for name in names)) == Windows()
    assert inspect.signature(units_command).parameters["sample_frames"].default == SAMPLE_FRAMES


@pytest.mark.parametrize(
    ("model", "options", "layers"),
    [
        ("all_heads", [], None),
        ("all_heads", ["--layers", "all"], "all"),
        ("all_heads", ["--layer", "0", "--layer", "1"], (0, 1)),
        ("all_heads", ["--layer", "1,0"], (0, 1)),
        ("fbank", [], (0,)),
        ("mini", ["--layer", "3"], (3,)),
    ],
)
def test_features_of_the_layers_that_are_named(
    workspace: Path, tmp_path: Path, model: str, options: list[str], layers: tuple[int, ...] | str | None
) -> None:
    out = tmp_path / "f.parquet"
    audio = str(workspace / "in" / "r01.flac")
    code, said, error = run("features", audio, "--model", model, "--out", str(out), *options, workspace=workspace)
    assert code == 0, error
    assert said.startswith(f"{out}: 1 recordings, 0.0 min; layer")
    assert f"of {model}, " in said
    features = fithubert.load_features(out)
    if layers is None:
        assert features.layers == (features.layers[-1],)
        assert features.layers != (0,)
    elif layers == "all":
        assert features.layers == tuple(range(len(features.layers)))
        assert len(features.layers) > 1
    else:
        assert features.layers == layers
    assert set(pandas.read_parquet(out).frame_rate_hz) == {100.0 if model == "fbank" else 50.0}


@pytest.mark.parametrize("longest", ["300", "0.5"])
def test_hop_aligned_frames_count_the_hops(workspace: Path, tmp_path: Path, longest: str) -> None:
    options = ["--hop-aligned", "--max-seconds", longest, "--window-seconds", "0.4", "--context-seconds", "0.2"]
    for command, extra in (("features", []), ("units", ["--clusters", "5", "--soft"])):
        arguments = [command, str(workspace / "in"), "--model", "all_heads", *options, *extra]
        assert run(*arguments, "--out", str(tmp_path / command), workspace=workspace)[0] == 0
        rows = pandas.read_parquet(tmp_path / command)
        frames = rows.groupby("path").agg({"frames": "sum", "seconds": "first"})
        assert (frames.frames == (frames.seconds * 50).astype(int)).all()
    assert (rows.soft.map(len) == rows.frames * 5).all()
    book = ["--codebook", str(tmp_path / "units.codebook"), "--out", str(tmp_path / "x")]
    code, _, error = run("units", str(workspace / "in"), "--model", "all_heads", *book, workspace=workspace)
    assert (code, "it is of all_heads hop-aligned, with other weights or frames" in error) == (1, True)


def test_an_exported_student_says_what_the_student_says(workspace: Path, tmp_path: Path) -> None:
    readout = tiny_readout("armhubert", **SMALL)
    save_student(readout.student, tmp_path / "student")
    export_onnx(readout, tmp_path / "onnx", None, lambda models: dict.fromkeys(models, 1.0))
    said = []
    for name in ("student", "onnx", "onnx/model.onnx"):
        out = tmp_path / f"{len(said)}.parquet"
        arguments = ["features", str(workspace / "in"), "--model", str(tmp_path / name), "--layers", "all"]
        assert run(*arguments, "--out", str(out), workspace=workspace)[0] == 0
        said.append(fithubert.load_features(out))
    assert len(said[0].layers) > 1
    for path in said[0].ids:
        torched, exported, named = (features.read(path).hidden_states for features in said)
        for layer, states in torched.items():
            torch.testing.assert_close(exported[layer], states, rtol=0, atol=1e-4)
            torch.testing.assert_close(named[layer], exported[layer], rtol=0, atol=0)
    missing = ["--model", str(tmp_path / "onnx" / "model.int8.onnx"), "--out", str(tmp_path / "x.parquet")]
    assert "export with --int8" in run("features", str(workspace / "in"), *missing, workspace=workspace)[2]


def test_teachers_of_every_kind_go_to_load_teacher(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(find, "load_teacher", lambda spec: asked.append(str(spec)) or FakeModel())
    file = workspace / "in" / "r01.flac"  # any file: whose it is, load_teacher says
    (tmp_path / "config.json").write_text("{}")
    specs = ["hf:owner/name", "torchaudio:HUBERT_BASE", "fairseq:/x.pt", str(file), str(tmp_path), "mini", "fbank"]
    for spec in specs:
        find.find_model(Workspace(workspace), spec)
    find.find_model(Workspace(workspace), "teacher")
    assert asked == [*specs, str(workspace / "artifacts" / "teacher")]


def test_the_packaged_student_is_found_unless_the_workspace_has_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fithubert").mkdir()  # as in the repository, where it is the package
    packaged = ReadOut(load_student("fithubert"), "fithubert").fingerprint
    for find_any in (find.find_model, find.find_student):
        assert find_any(Workspace(Path()), "fithubert").fingerprint == packaged
        assert "the student of the package; the workspace has none of this name" in capsys.readouterr().err
    own = tiny_readout("fithubert")
    save_student(own.student, Workspace(Path()).student("fithubert"))
    for find_any in (find.find_model, find.find_student):
        assert find_any(Workspace(Path()), "fithubert").fingerprint == own.fingerprint
        assert capsys.readouterr().err == ""


def test_the_folder_of_a_student_is_the_student(workspace: Path, tmp_path: Path) -> None:
    for name, model in (("a", "all_heads"), ("b", str(workspace / "artifacts" / "students" / "all_heads"))):
        out = tmp_path / f"{name}.parquet"
        assert run("features", str(workspace / "in"), "--model", model, "--out", str(out), workspace=workspace)[0] == 0
    part = "part-00000.parquet"
    assert (tmp_path / "a.parquet" / part).read_bytes() == (tmp_path / "b.parquet" / part).read_bytes()


def test_a_broken_recording_is_named_and_the_good_part_kept(workspace: Path, tmp_path: Path) -> None:
    recordings = write_folder(tmp_path / "in", 3)
    (recordings / "broken.wav").write_text("no audio")
    for command, extra in (("features", []), ("units", ["--clusters", "5"])):
        out = tmp_path / f"{command}.parquet"
        arguments = [command, str(recordings), "--model", "all_heads", "--out", str(out), *extra]
        code, said, error = run(*arguments, workspace=workspace)
        assert code == 1
        assert said.startswith(f"{out}: 3 recordings, ")
        assert f"skipped {recordings / 'broken.wav'}: not readable as audio" in error
        assert error.endswith("1 skipped; the others are in the file\n")
        assert len(set(pandas.read_parquet(out).path)) == 3


def test_units_leave_a_codebook_that_gives_the_same_units(workspace: Path, tmp_path: Path) -> None:
    base = ["units", str(workspace / "in"), "--model", "all_heads"]
    first, second, third = (tmp_path / f"{name}.parquet" for name in ("first", "second", "third"))
    code, said, _ = run(*base, "--layer", "0", "--clusters", "8", "--out", str(first), workspace=workspace)
    assert code == 0
    assert "8 of 8 clusters of layer 0 of all_heads" in said
    book = tmp_path / "first.codebook"
    assert {path.name for path in book.iterdir()} == {"config.json", "codebook.safetensors"}
    assert run(*base, "--codebook", str(book), "--out", str(second), workspace=workspace)[0] == 0
    assert second.read_bytes() == first.read_bytes()
    assert not (tmp_path / "second.codebook").exists()
    code, _, error = run(*base, "--codebook", str(book), "--layer", "1", "--out", str(third), workspace=workspace)
    assert code == 1
    assert f"--layer 1: the codebook {book} has 0; leave --layer out" in error
    code, _, error = run(*base, "--out", str(first), workspace=workspace)
    assert code == 1
    assert f"{first}: already exists" in error


def test_a_published_codebook_gives_the_units_of_its_author(workspace: Path, tmp_path: Path) -> None:
    source, states = [str(workspace / "in"), "--model", "all_heads", "--layer", "1"], tmp_path / "states.parquet"
    assert run("features", *source, "--out", str(states), workspace=workspace)[0] == 0
    rows = pandas.read_parquet(states)
    frames = [row.features.reshape(row.frames, row.width) for row in rows.itertuples()]
    author = KMeans(6, n_init=1, random_state=1).fit(np.concatenate(frames))
    joblib.dump(author, tmp_path / "km.bin")
    book, out = ["--codebook", str(tmp_path / "km.bin")], tmp_path / "units.parquet"
    assert run("units", *source, *book, "--out", str(out), workspace=workspace)[0] == 0
    units = dict(zip(*pandas.read_parquet(out)[["path", "units"]].to_numpy().T, strict=True))
    for path, mine in zip(rows.path, frames, strict=True):
        np.testing.assert_array_equal(units[path], author.predict(mine))
    for wrong, said in (
        (["fbank", "--layer", "0"], f"{tmp_path / 'km.bin'}: centres of {frames[0].shape[1]} features, but layer 0 of"),
        (["all_heads"], f"--codebook {tmp_path / 'km.bin'}: a published file does not say its layer; give --layer too"),
    ):
        arguments = [*source[:2], *wrong, *book, "--out", str(tmp_path / "others.parquet")]
        code, _, error = run("units", *arguments, workspace=workspace)
        assert (code, said in error) == (1, True), error


def test_units_go_on_with_the_codebook_of_an_interrupted_run_and_no_other(workspace: Path, tmp_path: Path) -> None:
    base = ["units", str(workspace / "in"), "--model", "all_heads", "--out", str(tmp_path / "u.parquet")]
    assert run(*base, "--clusters", "8", workspace=workspace)[0] == 0
    before = (tmp_path / "u.parquet").read_bytes()
    (tmp_path / "u.parquet").unlink()
    written = (tmp_path / "u.codebook" / "config.json").stat().st_mtime_ns
    code, _, error = run(*base, "--clusters", "9", workspace=workspace)
    assert code == 1
    assert "u.codebook: a codebook of other settings or recordings; use it with --codebook" in error
    assert run(*base, "--clusters", "8", workspace=workspace)[0] == 0
    assert (tmp_path / "u.parquet").read_bytes() == before
    assert (tmp_path / "u.codebook" / "config.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--model", "nobody"],
            "model 'nobody': no file or folder, no student (students here: all_heads), nor teacher",
        ),
        (["--model", str(ROOT / "tests")], "a folder without config.json holds no student, export or teacher"),
        (["--model", "mini", "--layer", "13"], "--layer 13: the model has layers 0 to 12"),
        (["--model", "fbank", "--layer", "-1"], "--layer -1: the model has layer 0 alone"),
        (["--model", "fbank", "--layer", "last"], "--layer last: give numbers, or `all`"),
        (["--model", "fbank", "--dtype", "int8"], "dtype 'int8': not one of float32, float16"),
        (["--model", "fbank", "--device", "tpu"], "device 'tpu': not one of auto, cpu, cuda"),
        (["--model", "teacher"], "artifacts/teacher"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(workspace: Path, tmp_path: Path, options: list[str], said: str) -> None:
    audio, out = str(workspace / "in"), str(tmp_path / "f.parquet")
    code, _, error = run("features", audio, "--out", out, *options, workspace=workspace)
    assert code == 1
    assert error.splitlines()[-1].startswith("error: ")
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_does_not_exist_is_named(workspace: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "f.parquet")
    code, _, error = run("features", "/no/where", "--model", "fbank", "--out", out, workspace=workspace)
    assert (code, error) == (1, "error: /no/where: no such file or folder\n")
    nowhere = "/proc/nowhere/f.parquet"
    code, _, error = run("features", str(workspace / "in"), "--model", "fbank", "--out", nowhere, workspace=workspace)
    assert code == 1
    assert "error: /proc/nowhere: cannot be created" in error
