"""`fithubert compress`: one call from a folder to a student, the same after a kill, and every mistake in one line."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fithubert import load_student
from fithubert.config.params import load_params
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.models.weights import save_teacher
from fithubert.profile.compression import CompressOptions
from fithubert.records import CompressMetrics
from fithubert.stages.compress import compress
from tests.fakes import tiny_hubert
from tests.http_server import TOKEN, serve_hub

#: Killed in the sixth of ten updates, after the checkpoint of the fifth.
KILLED = """
import os, signal, sys
from pathlib import Path
from fithubert.distill.step import Stepper
from fithubert.profile.compression import CompressOptions
from fithubert.stages.compress import compress
apply, calls = Stepper.apply, []
def apply_or_die(self, rate):
    calls.append(rate)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    apply(self, rate)
Stepper.apply = apply_or_die
teacher, recordings, out = sys.argv[1:]
compress(CompressOptions(teacher, Path(recordings), Path(out), size=0.6, updates=10))
"""


@pytest.fixture
def options(tmp_path: Path, tiny_corpus: Manifest, monkeypatch: pytest.MonkeyPatch) -> CompressOptions:
    """The tiny teacher and the audio of the tiny corpus."""
    monkeypatch.chdir(tmp_path)
    # By a relative name MLflow would go on with the store of another test.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    save_teacher(tiny_hubert(), tmp_path / "tiny")
    recordings = tiny_corpus.root / "audio" / "train"
    return CompressOptions(str(tmp_path / "tiny"), recordings, tmp_path / "out", size=0.6, updates=10)


@pytest.mark.slow
def test_a_killed_call_continues_and_gives_the_same_student(options: CompressOptions, tmp_path: Path) -> None:
    program = [sys.executable, "-c", KILLED, options.teacher, str(options.recordings), str(options.out)]
    assert subprocess.run(program, capture_output=True, cwd=tmp_path).returncode == -9
    resumed = compress(replace(options, write_params=tmp_path / "mine.yaml"))
    whole = compress(replace(options, out=tmp_path / "whole"))
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.relative_error == whole.relative_error
    assert load_params(tmp_path / "mine.yaml").students == load_params(options.out / "params.yaml").students
    weights = options.out / "student" / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    assert compress(options) == resumed
    assert weights.stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"was begun with size 0.6; give the same, or another folder"):
        compress(replace(options, size=0.5))


@pytest.mark.slow
def test_without_updates_the_student_is_the_cut(
    options: CompressOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub(monkeypatch) as hub:
        done = compress(replace(options, updates=0, hub_name="me/small"))
    card = hub.files["README.md"].decode()
    assert 'from_pretrained("me/small", ' in card
    assert f"| 2 | {done.relative_error[2]:.1%} |" in card
    assert done.updates == 0
    assert set(done.relative_error) == {1, 2}
    assert all(0 < error < 1 for error in done.relative_error.values())
    assert 0.45 < done.parameters / done.teacher_parameters < 0.7
    student = load_student(options.out / "student")
    assert sum(parameter.numel() for parameter in student.parameters()) == pytest.approx(done.parameters, rel=0.01)
    assert "relative error" in (options.out / "student" / "README.md").read_text(encoding="utf-8")
    assert (options.out / "work" / "reports" / "index.html").is_file()
    said, progress = capsys.readouterr()
    # Nothing that takes minutes with a large teacher is silent.
    for work in ("measuring", "distill student: cut from the teacher", "profile"):
        assert f"{work}: 100%" in progress
    assert said.index("measuring what is kept") < said.index("writing the student") < said.index("writing the report")
    lines = [line for line in f"{said}{progress}".splitlines() if str(options.out.parent) not in line]
    assert max(map(len, lines)) <= 100
    assert said.endswith(f"on the hub: {hub.address}/me/small\n")
    assert said.index("student fithubert: 2 layers") < said.index("plan: ") < said.index("cutting the student")
    assert "plan: no updates, so the student stays as it is cut from the teacher" in said
    assert CompressMetrics.read(options.out / "work" / "reports" / "metrics" / "compress.json") == done


def test_a_hub_that_refuses_is_found_before_anything_is_written(
    options: CompressOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub(monkeypatch) as hub:
        hub.refuses = {"/api/whoami-v2": 401}
        with pytest.raises(UserError, match="the hub refuses the token") as caught:
            compress(replace(options, hub_name="me/small"))
    assert TOKEN not in str(caught.value)
    assert not options.out.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0.01}, r"--size 0.01: a fithubert student of this teacher has 0\.\d+ to"),
        ({"size": 2.0}, "--size 2: must be above 0 and below 1"),
        ({"recipe": "starhubert"}, "--recipe starhubert: not one of fithubert"),
        ({"teacher": "nothing"}, "teacher 'nothing': neither a directory"),
        ({"teacher": "fbank"}, "teacher 'fbank': has no layers to distil"),
        ({"recordings": Path("tiny")}, "tiny: holds no recordings"),
        ({"recordings": Path("nowhere")}, "nowhere: not a folder of recordings"),
        ({"recordings": Path()}, "contain one another"),
        ({"out": Path("tiny")}, r"tiny: is not empty|tiny: holds"),
    ],
)
def test_a_mistake_is_found_before_anything_is_written(
    options: CompressOptions, change: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        compress(replace(options, **change))  # type: ignore[arg-type]
    assert not options.out.exists()
