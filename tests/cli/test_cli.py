"""The command line: help for every command, one line for every mistake, JSON for machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fithubert
from fithubert.errors import UserError

pytest.importorskip("typer")

from typer.testing import CliRunner

from fithubert.cli import COMMANDS, app
from fithubert.files import write_json
from fithubert.workspace import Workspace
from tests.data.corpora.miniatures import write_librispeech
from tests.importers.authors import publish

ROOT = Path(__file__).parents[2]
SUMMARY = {
    "models": {
        "teacher": {
            "params": {"trunk": 5_000_000, "readout": 0, "training_only": 0, "total": 5_000_000},
            "superb": {"pr": {"per": 20.5}},
            "size_ratio": 1.0,
        },
        "fithubert": {
            "params": {"trunk": 1_000_000, "readout": 0, "training_only": 0, "total": 1_000_000},
            "superb": {},
            "size_ratio": 0.2,
            "init": "random",
        },
    },
    "teacher": "teacher",
    "tasks": ["pr"],
}


def run(*arguments: str, params: Path = ROOT / "params.yaml", workspace: Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["--params", str(params), "--workspace", str(workspace), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


NAMES = [command.rstrip("_") for commands in COMMANDS.values() for command in commands]


@pytest.mark.parametrize("command", NAMES)
def test_every_command_has_help_with_an_example_and_no_types_of_flags(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert f"Example: fithubert {command}" in result.stdout
    assert "--workspace FOLDER" in result.stdout
    assert "bool" not in result.stdout


def test_every_command_is_a_file_of_its_name() -> None:
    files = {path.stem.rstrip("_") for path in (ROOT / "fithubert" / "cli").glob("*.py")}
    assert files == {*NAMES, "options", "__init__".rstrip("_")}


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "fithubert", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fithubert {fithubert.__version__}\n"


def test_global_options_may_follow_the_command(tmp_path: Path) -> None:
    write_json(tmp_path / "reports" / "summary.json", SUMMARY)
    result = CliRunner().invoke(app, ["compare", "--json", "--workspace", str(tmp_path), "--debug"])
    assert [row["model"] for row in json.loads(result.stdout)] == ["fithubert", "teacher"]
    with pytest.raises(UserError, match=r"distill.updats: unknown key"):
        CliRunner().invoke(
            app,
            ["profile", f"--params={ROOT / 'params.yaml'}", "--set", "distill.updats=3", "--debug"],
            catch_exceptions=False,
        )


def test_help_loads_no_library_of_a_stage() -> None:
    program = "import sys, fithubert.cli; print(sorted({'torch', 'pyarrow', 'mlflow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_published_corpus_is_prepared_in_place(tmp_path: Path) -> None:
    write_librispeech(tmp_path / "corpora")
    arguments = ["prepare", "--source", "librispeech", "--path", str(tmp_path / "corpora")]
    code, out, error = run("--set", "data.train=[dev-clean]", "--set", "data.dev=[]", *arguments, workspace=tmp_path)
    assert (code, error.count("error")) == (0, 0)
    assert out.startswith("16 utterances")
    assert "\ntrain 8, 0.00 h; " in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["distill", "nobody"], "'nobody': not one of fithubert"),
        (["superb", "nobody", "pr"], "'nobody': not one of fbank, teacher, fithubert"),
        (["superb", "fbank", "ks", "--data", "/no/corpora", "--official"], "/no/corpora: data.path is not a folder"),
        (["leaderboard", "fbank", "/no/workspace"], "folders hold no results of it"),
        (["distill", "fithubert"], "no such file"),
        (["extract", "fithubert"], "no finished student; run `fithubert distill fithubert` first"),
        (["--set", "ablation={}", "ablation", "x"], "ablation 'x': params.yaml has no ablation"),
        (["cache"], "artifacts/teacher"),
        (["cache", "--codec", "int4"], "cache.codec"),
        (["teacher", "nothing"], "neither a directory, a file, one of fbank, mini"),
        (["prepare", "/no/such/folder"], "/no/such/folder"),
        (["prepare", "--source", "librispeech", "--path", "/no/corpora"], "/no/corpora: data.path is not a folder"),
        (
            ["prepare", "--source", "librispeech", "--subset", "tiny"],
            "data.librispeech.test.0: Input should be 'train-clean",
        ),
        (["prepare", "--source", "snips", "--subset", "test-clean"], "data.snips.train: unknown key"),
        (["prepare", "--source", "libri"], "data: Input tag 'libri'"),
        (["prepare", "--download"], "data.source is synthetic; name a corpus, as --source librispeech"),
        (["prepare", "--source", "iemocap", "--download"], "iemocap has no download"),
        (["--set", "data.fold=9", "prepare", "--source", "iemocap"], "data.iemocap.fold"),
        (["prepare", "--path", "/no/corpora"], "data.synthetic.path: unknown key"),
        (["--set", "report.titel=x", "report"], "unknown key"),
        (["plan", "--hours", "1", "--epochs", "0"], "--epochs: must be above 0"),
        (["compare"], "fithubert report"),
        (["report"], "nothing has been measured yet; `dvc repro` does it all"),
        (["superb", "fithubert", "pr"], "no finished student; run `fithubert distill fithubert` first"),
        (["profile"], "artifacts/teacher/config.json: no such file; `fithubert teacher` writes"),
        (["ablation", "time_reduction"], "artifacts/teacher/config.json: no such file; `fithubert teacher` writes"),
        (["--set", "sweep.of=big", "sweep"], "sweep.of 'big': not one of fithubert, "),
        (["sweep", "--study", "../../thesis"], "--study: '../../thesis' is no name: use letters"),
        (["--set", "nonsense", "compare"], "--set nonsense: this command reads no parameters"),
        (["superb", "--all"], "artifacts/students/fithubert: no finished student; run `fithubert distill fithubert`"),
        (["superb", "teacher", "kws"], "task 'kws': not one of pr, "),
        (
            ["--set", "superb.tasks={sid: {steps: 1}}", "superb", "teacher", "ks"],
            "superb.tasks of params.yaml has no ks",
        ),
        (["compare", "/no/summary.json"], "/no/summary.json"),
        (["--set", "distill.updats=3", "profile"], "unknown key"),
        (["import", "/no/checkpoint.ckpt"], "no such file"),
        (
            ["export", "nobody", "--to", "s3prl", "--out", "x"],
            "'nobody': not the folder of a student, and",
        ),
        (["export", "nobody", "--to", "coreml", "--out", "x"], "form 'coreml': not one of"),
        (["export", "nobody", "--to", "onnx", "--out", "x", "--hub-name", "me/x"], "works with --to huggingface"),
        (["pretrain", "/no/recipe.yaml", "--out", "x"], "no such file"),
        (["compress", "mini", "/no/recordings", "--out", "x"], "/no/recordings: not a folder of recordings"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(arguments: list[str], said: str, tmp_path: Path) -> None:
    code, _, error = run(*arguments, workspace=tmp_path)
    assert code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert list(tmp_path.rglob("*.*")) == []


def test_an_import_replaces_a_student_and_never_a_folder_of_students(tmp_path: Path) -> None:
    published, students = publish("starhubert").save(tmp_path / "published"), tmp_path / "students"
    for _ in range(2):
        assert run("import", *published, "--out", str(students / "mine"), workspace=tmp_path)[0] == 0
    code, _, error = run("import", *published, "--out", str(students), workspace=tmp_path)
    assert (code, error.count("\n")) == (1, 1)
    assert "students: holds 'mine', which does not belong to the new contents" in error
    assert (students / "mine" / "config.json").is_file()


@pytest.mark.parametrize("module", ["fithubert.cli", "pipeline"])
def test_idle_threads_sleep_unless_the_user_says_otherwise(module: str) -> None:
    program = f"import os, {module}; print(os.environ['OMP_WAIT_POLICY'])"
    for given, wanted in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.stdout.strip() == wanted


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fithubert", "--debug", "--params", str(tmp_path / "params.yaml"), "profile"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_text_file_named_wav_is_skipped_and_alone_it_is_an_error(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    (recordings / "notes.wav").write_text("this is not audio")
    code, _, error = run("prepare", str(recordings), workspace=tmp_path / "workspace")
    assert code == 1
    assert "notes.wav" in error
    assert not (tmp_path / "workspace" / "data" / "manifests" / "corpus.parquet").exists()


def test_a_repair_keeps_the_settings_of_the_cache(workspace: Workspace) -> None:
    code, said, _ = run("--set", "cache.shard_minutes=0.2", "cache", "--codec", "pca_int8", workspace=workspace.root)
    assert code == 0
    train = workspace.cache("train")
    before = {path.name: path.read_bytes() for path in train.iterdir()}
    shard = train / "shard-00001.parquet"
    shard.write_bytes(before[shard.name][:1000])
    (train / "shard-00000.parquet").unlink()
    code, said, error = run("cache", "--repair", workspace=workspace.root)
    assert code == 0, error
    assert f"{train}/shard-00000.parquet: it was missing; written again" in said
    assert f"{shard}: " in said
    assert {path.name: path.read_bytes() for path in train.iterdir()} == before
    assert run("cache", "--repair", "--codec", "int8", workspace=workspace.root)[0] != 0


def test_compare_prints_a_table_and_json_and_marks_recorded_results(tmp_path: Path) -> None:
    write_json(tmp_path / "reports" / "summary.json", SUMMARY)
    code, table, note = run("compare", workspace=tmp_path)
    assert code == 0
    assert "fithubert" in table
    assert "recorded results: their students are not in this folder" in note
    assert "no kept: no task on which the teacher clearly leads filter banks on dev" in table
    code, text, _ = run("compare", "--json", workspace=tmp_path)
    assert code == 0
    assert {row["model"]: row["params"] for row in json.loads(text)} == {"teacher": 5_000_000, "fithubert": 1_000_000}
    write_json(tmp_path / "artifacts" / "students" / "fithubert" / "config.json", {})
    assert "recorded" not in "".join(run("compare", workspace=tmp_path)[1:])


def test_a_task_runs_on_its_own_corpus_by_the_official_protocol(tmp_path: Path) -> None:
    corpora = str(write_librispeech(tmp_path / "corpora"))
    official = ("superb", "fbank", "pr", "--data", corpora, "--official")
    code, said, _ = run("--set", "superb.tasks.pr.steps=2", *official, workspace=tmp_path / "work")
    assert code == 0
    assert said.splitlines()[1:] == ["  not the official protocol: steps 2 instead of 100000"]
    code, _, error = run("leaderboard", "fbank", str(tmp_path / "work"), workspace=tmp_path)
    assert code == 1
    assert "pr departs from the protocol (steps 2 instead of 100000); asr is not scored" in error
    code, _, error = run("--set", "superb.protocol=official", "superb", "fbank", "pr", workspace=tmp_path / "work")
    assert code == 1
    assert "was prepared from librispeech but data.source is synthetic" in error
