"""`fithubert doctor`: what it finds, what it calls a problem, and that it leaves nothing behind."""

import http.server
import json
import shutil
import sqlite3
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fithubert.config.params import load_params
from fithubert.data.synthetic import speech as espeak
from fithubert.errors import UserError
from fithubert.models.weights import save_student
from fithubert.profile.budget import bytes_per_hour
from fithubert.stages import disk, doctor, installation
from fithubert.stages.installation import EXTRAS, Finding, inspect_extras, inspect_synthesiser
from fithubert.tracking.reach import inspect_store
from fithubert.workspace import Workspace
from tests.cli.test_cli import ROOT, run
from tests.models.shapes import strong, tiny
from tests.test_packaging import name_of


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A fresh clone, as far as the doctor looks."""
    root = tmp_path / "clone"
    (root / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    shutil.copy(ROOT / "dvc.yaml", root)
    return root


def look(workspace: Path) -> tuple[int, list[Finding]]:
    code, said, _ = run("doctor", "--json", workspace=workspace)
    return code, [Finding(**entry) for entry in json.loads(said)]


def problems(found: list[Finding]) -> str:
    return "\n".join(f"{f.topic}: {f.text}: {f.fix}" for f in found if f.mark == "problem")


def test_a_fresh_clone_has_no_problem_and_nothing_is_left_in_it(workspace: Path) -> None:
    before = sorted(workspace.rglob("*"))
    code, found = look(workspace)
    assert problems(found) == ""
    assert code == 0
    assert sorted(workspace.rglob("*")) == before
    topics = [finding.topic for finding in found]
    for topic in ("torch", "torchaudio", "extras", "GPU", "espeak-ng", "workspace", "DVC", "disk", "MLflow", "corpus"):
        assert topic in topics
    assert next(f for f in found if f.topic == "MLflow").text == "sqlite:///mlflow.db: the first run makes it"
    assert next(f for f in found if f.topic == "students") == Finding(
        "note", "students", "none yet", "`dvc repro` makes it"
    )


def test_lines_are_aligned_and_say_the_fix(workspace: Path) -> None:
    (workspace / "dvc.yaml").unlink()
    code, said, _ = run("doctor", workspace=workspace)
    assert code == 1
    *lines, blank, verdict = said.splitlines()
    assert (blank, verdict) == ("", "1 problem")
    (line,) = [line for line in lines if line.startswith("problem")]
    assert line.split(maxsplit=2)[2].startswith(
        "no dvc.yaml here, so there is nothing to repeat: run this in the project's"
    )
    start = line.index("no dvc.yaml")
    assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines)


def test_a_folder_that_cannot_be_written_is_a_problem() -> None:
    code, found = look(Path("/proc"))  # not even root may
    assert code == 1
    assert "workspace: /proc: cannot be written" in problems(found)


def test_a_missing_dvc_folder_is_a_problem(workspace: Path) -> None:
    shutil.rmtree(workspace / ".dvc")
    code, found = look(workspace)
    assert code == 1
    assert problems(found) == "DVC: no repository here (.dvc is missing): dvc init, or `git checkout .dvc`"


def test_a_workspace_without_any_dvc_is_none(workspace: Path) -> None:
    shutil.rmtree(workspace / ".dvc")
    (workspace / "dvc.yaml").unlink()
    code, found = look(workspace)
    assert code == 0
    assert [f.text for f in found if f.mark == "note" and f.topic == "DVC"] == [
        "no pipeline here: stages are run one by one"
    ]


def test_a_dvc_cache_elsewhere_is_the_one_that_is_tried(workspace: Path, tmp_path: Path) -> None:
    (workspace / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path / 'cache'}\n    type = symlink\n")
    code, found = look(workspace)
    assert code == 0
    said = next(f.text for f in found if "cache " in f.text)
    assert said == f"cache {tmp_path / 'cache'}, whose files are shared with the workspace (symlink)"
    (workspace / ".dvc" / "config.local").write_text("[cache]\n    dir = /proc/cache\n")
    code, found = look(workspace)
    assert code == 1
    assert "DVC: the cache /proc/cache cannot be written" in problems(found)


def test_dvc_that_is_not_there_or_not_on_the_path(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "is not on the PATH" in problems(look(workspace)[1])
    monkeypatch.setattr(doctor, "find_version", lambda _: None)
    assert "DVC: is not installed: pip install 'fithubert[pipeline]'" in problems(look(workspace)[1])


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://me:secret@127.0.0.1:9", "http://me:***@127.0.0.1:9 does not answer"),
        (
            "postgresql+psycopg://me:secret@127.0.0.1:9/runs",
            "postgresql+psycopg://me:***@127.0.0.1:9/runs cannot be opened",
        ),
        ("sqlite:////proc/none/mlflow.db", "/proc cannot be written"),
    ],
)
def test_a_tracking_store_that_is_away_is_a_problem(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if "/proc" in uri:  # root may write everywhere by the mode bits
        monkeypatch.setattr("os.access", lambda path, _: not str(path).startswith("/proc"))
    code, found = look(workspace)
    assert code == 1
    assert said in problems(found)
    assert "secret" not in problems(found)
    assert "start it, or set MLFLOW_TRACKING_URI to another" in problems(found)


class _Server(http.server.BaseHTTPRequestHandler):
    status = 200
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "failure"), [(200, None), (401, None), (404, None), (503, "answers with an error (503)")]
)
def test_a_server_is_asked_for_its_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, failure: str | None
) -> None:
    monkeypatch.setattr(_Server, "status", status)
    with http.server.HTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}/")
        assert inspect_store(tmp_path).failure == failure
        server.shutdown()
    assert _Server.asked[-1] == "/health"


def test_an_sqlite_store_is_read_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inspect_store(tmp_path).failure is None
    assert list(tmp_path.iterdir()) == []
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("create table runs (run_uuid text)")
        database.execute("insert into runs values ('a')")
    database.close()
    assert inspect_store(tmp_path).remark == "1 runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert inspect_store(Path("/nowhere")).remark == "1 runs"
    (tmp_path / "mlflow.db").write_text("no database, but long enough to be looked at" * 100)
    assert "is not readable as a store of MLflow" in (inspect_store(tmp_path).failure or "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path))
    assert inspect_store(tmp_path).failure is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks://profile")
    assert "not checked" in inspect_store(tmp_path).remark


def test_a_small_disk_is_a_problem_and_what_is_there_counts(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=100e6))
    code, found = look(workspace)
    assert code == 1
    assert "disk: 100 MB free; a run with params.yaml takes about 2." in problems(found)
    (workspace / "data").mkdir()
    with (workspace / "data" / "there").open("wb") as file:
        file.truncate(3 * 10**9)
    assert look(workspace)[0] == 0


def test_the_bytes_of_a_run_are_those_of_its_stores(tmp_path: Path) -> None:
    params, workspace = load_params(ROOT / "params.yaml"), Workspace(tmp_path)
    parts = disk.default_bytes(params, workspace)
    assert parts is not None
    hours, waveform = params.data.hours, 2 * 16_000 * 3600
    assert parts["audio"] == waveform * hours
    assert parts["cache"] == bytes_per_hour("int8", 13, 192) * hours
    # The teacher and all heads of one student, both of 13 or 12 layers, are nearly everything.
    whole = bytes_per_hour("int8", 13 + 12, 192) - waveform
    assert whole * hours < parts["features"] < 1.6 * whole * hours
    live = load_params(ROOT / "params.yaml", ["distill.targets=live"])
    assert "cache" not in (disk.default_bytes(live, workspace) or {})
    folder = load_params(ROOT / "params.yaml", [f"data={json.dumps({'source': 'folder', 'path': str(tmp_path)})}"])
    assert disk.default_bytes(folder, workspace) is None
    assert disk.paper_bytes() == bytes_per_hour("pca_int8", 12, 768) * 960
    preset = yaml.safe_load((ROOT / "experiments" / "presets" / "budget" / "paper_960h.yaml").read_text())
    assert preset["cache"]["codec"] == disk._PAPER_CODEC


def test_without_reflinks_and_hardlinks_files_are_copies(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(disk, "_reflink", refuse)
    monkeypatch.setattr(disk.os, "link", refuse)
    found = look(workspace)[1]
    assert any("files are copied from the cache" in f.text and f.mark == "note" for f in found)
    taken = next(f.text for f in found if "a run with params.yaml" in f.text)
    assert "takes about 4." in taken


def test_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"all", "dev", "docs"}
    modules = {"hydra-core": "hydra", "scikit-learn": "sklearn", "espeakng-loader": "espeakng_loader", "pillow": "PIL"}
    for name, extra in EXTRAS.items():
        packages = {name_of(requirement) for requirement in extras[name]}
        assert set(extra.modules) == {modules.get(package, package.replace("-", "_")) for package in packages}


def test_a_missing_extra_is_a_problem_where_the_default_run_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"scipy", "onnxscript", "mlflow"}
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name in missing else object())
    there, *others = inspect_extras()
    assert there.mark == "ok"
    marks = {finding.text.split()[0]: (finding.mark, finding.fix) for finding in others}
    assert marks == {
        "trials": ("problem", "pip install 'fithubert[trials]'"),
        "tracking": ("note", "pip install 'fithubert[tracking]'"),
        "onnx": ("note", "pip install 'fithubert[onnx]'"),
        "sweep": ("note", "pip install 'fithubert[sweep]'"),
    }


def test_a_synthesiser_that_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inspect_synthesiser().mark == "ok"
    broken = SimpleNamespace(get_library_path=lambda: "/no/library.so")
    monkeypatch.setattr(espeak, "find_espeak", lambda: broken)
    assert "cannot be loaded" in inspect_synthesiser().text

    def absent() -> None:
        raise UserError("data.source synthetic needs espeak-ng: pip install fithubert[synthesis]")

    monkeypatch.setattr(espeak, "find_espeak", absent)
    assert inspect_synthesiser() == Finding(
        "problem", "espeak-ng", "is not installed", "pip install fithubert[synthesis]"
    )


def test_wrong_parameters_are_a_problem(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {source: nothing}\n")
    code, said, _ = run("doctor", params=tmp_path / "params.yaml", workspace=workspace)
    assert code == 1
    assert "problem  parameters" in said
    assert "params.yaml" in said


def test_what_earlier_runs_left_is_named(workspace: Path) -> None:
    save_student(strong(tiny("armhubert")), workspace / "artifacts" / "students" / "mine")
    (workspace / "data" / "manifests").mkdir(parents=True)
    (workspace / "data" / "manifests" / "corpus.parquet").write_text("broken")
    found = look(workspace)[1]
    assert Finding("ok", "students", "mine") in found
    assert "corpus: " in problems(found)
    assert "not readable as Parquet" in problems(found)
