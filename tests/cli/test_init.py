"""`fithubert init`, and the commands that need no params.yaml, in folders that have none."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from fithubert.cli import COMMANDS, app
from fithubert.config.data import FolderData, SyntheticData
from fithubert.data.manifest import Manifest
from fithubert.models.weights import save_teacher
from fithubert.search.space import check_space
from fithubert.workspace import load_checked
from tests.cli.test_cli import NAMES, ROOT
from tests.docs.commands import check_commands
from tests.fakes import tiny_hubert, write_noise

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`fithubert ARGUMENTS` in an empty folder: status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_init_writes_checked_parameters_once(here: Run, tmp_path: Path) -> None:
    code, said, _ = here("init")
    assert code == 0
    assert said == "params.yaml: the embedded corpus, teacher mini, student small\nnext: fithubert prepare\n"
    path = tmp_path / "params.yaml"
    params = load_checked(path)
    assert isinstance(params.data, SyntheticData)
    # The student that fits `mini` is the one of the repository's own parameters.
    assert params.students["small"] == load_checked(ROOT / "params.yaml").students["fithubert"]
    assert path.read_text(encoding="utf-8").count("# ") > 15
    path.write_text("mine: {}\n")
    code, _, error = here("init")
    assert code == 1
    assert error == "error: params.yaml: already exists, and is left as it is; name another file with --params\n"
    assert path.read_text() == "mine: {}\n"


@pytest.mark.parametrize("given", [True, False])
def test_init_takes_the_folder_that_holds_recordings(here: Run, tmp_path: Path, given: bool) -> None:
    name = 'my "speech": äö #1'
    for other in (name, "data"):
        write_noise(tmp_path / other / "ann" / "one.wav", 0.1)
    (tmp_path / "notes").mkdir()
    code, said, _ = here("init", *([name] if given else []))
    assert (code, said.splitlines()[0]) == (0, f"params.yaml: 1 recording in {name}, teacher mini, student small")
    params = load_checked(tmp_path / "params.yaml")
    assert isinstance(params.data, FolderData)
    assert params.data.path == Path(name)
    # A sweep of recordings needs no labels, and every shape of its space fits the student and the teacher.
    assert params.sweep.objectives == ("dev_loss", "macs_per_second")
    assert params.sweep.budget.tasks == {}
    check_space(params.sweep.space, params.students[params.sweep.of], 12, 192)


def test_init_asks_which_folder_is_meant_and_refuses_one_without_recordings(here: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_noise(tmp_path / name / "one.wav", 0.1)
    (tmp_path / "empty").mkdir()
    assert here("init")[2] == "error: recordings lie in a, b: name one, as `fithubert init a`\n"
    assert "error: empty: holds no recordings (" in here("init", "empty")[2]
    assert "contain one another" in here("init", ".")[2]
    assert "not a folder" in here("init", "nowhere")[2]
    assert not (tmp_path / "params.yaml").exists()


def test_stages_that_need_no_parameters_run_without_a_file(here: Run, tmp_path: Path, tiny_corpus: Manifest) -> None:
    (tmp_path / "recordings").symlink_to(tiny_corpus.root / "audio" / "train")
    save_teacher(tiny_hubert(), tmp_path / "tiny")
    for arguments in (
        ("prepare", "recordings"),
        ("teacher", "tiny", "--set", "teacher.probe_utterances=2"),
        ("cache", "--codec", "float16"),
        ("extract", "fbank"),
    ):
        code, _, error = here(*arguments)
        assert code == 0, error
    assert (tmp_path / "data" / "extract" / "fbank").is_dir()
    assert not (tmp_path / "params.yaml").exists()


#: Command that needs no params.yaml -> arguments and its answer in an empty folder: what it lacks is no parameter.
NEED_NONE = {
    "init": ((), "next: fithubert prepare"),
    "prepare": (("nowhere",), "nowhere: data.path is not a folder"),
    "pretrain": (("recipe.yaml", "--out", "x"), "recipe.yaml: no such file"),
    "teacher": (("nothing",), "teacher 'nothing': neither"),
    "cache": ((), "artifacts/teacher/config.json: no such file; `fithubert teacher` writes"),
    "compress": (("mini", "nowhere", "--out", "x"), "nowhere: not a folder of recordings"),
    "plan": (("--hours", "1", "--teacher", "nothing"), "teacher 'nothing': neither"),
    "import": (("a.ckpt",), "a.ckpt: no such file"),
    "export": (("nobody", "--to", "onnx", "--out", "x"), "'nobody': not the folder of a student"),
    "features": (("a.wav", "--model", "fbank", "--out", "x"), "a.wav: no such file"),
    "units": (("a.wav", "--model", "fbank", "--out", "x"), "a.wav: no such file"),
    "extract": (("fbank",), "fithubert prepare"),
    "profile": (("mine",), "artifacts/teacher/config.json: no such file; `fithubert teacher` writes"),
    "depth": ((), "artifacts/teacher/config.json: no such file; `fithubert teacher` writes"),
    "leaderboard": (("fbank", "x"), "folders hold no results of it"),
    "pool": (("a", "b", "--out", "x"), "a/params.yaml: no such file"),
    "compare": ((), "fithubert report"),
    "doctor": ((), "no params.yaml in this folder: `fithubert init` writes one"),
}
NEED_ONE = {
    "distill": ("small",),
    "ablation": ("x",),
    "sweep": (),
    "superb": ("fbank",),
    "report": (),
    "prepare": (),
    "teacher": (),
    "profile": (),
}


def test_every_command_is_tried() -> None:
    assert {*NEED_NONE, *NEED_ONE, "ui"} == set(NAMES)  # `ui` serves until it is stopped


@pytest.mark.parametrize("command", NEED_NONE)
def test_a_command_does_not_ask_for_parameters_that_it_does_not_need(here: Run, command: str) -> None:
    arguments, answer = NEED_NONE[command]
    _, said, error = here(command, *arguments)
    assert answer in said + error
    assert "error: params.yaml" not in error


@pytest.mark.parametrize("command", NEED_ONE)
def test_a_command_that_needs_parameters_says_how_to_get_them(here: Run, tmp_path: Path, command: str) -> None:
    code, said, error = here(command, *NEED_ONE[command])
    assert (code, said, error) == (1, "", "error: params.yaml: no such file; `fithubert init` writes one\n")
    assert list(tmp_path.iterdir()) == []


def test_a_named_file_of_parameters_must_exist(here: Run) -> None:
    assert here("cache", "--params", "mine.yaml")[2] == "error: mine.yaml: no such file; `fithubert init` writes one\n"


@pytest.mark.parametrize("name", [name for names in COMMANDS.values() for name in names])
def test_the_example_in_the_help_is_a_command_that_exists(name: str) -> None:
    (found,) = [c for c in app.registered_commands if c.callback is not None and c.callback.__name__ == name]
    assert found.callback is not None
    example = (found.callback.__doc__ or "").rpartition("Example: `")[2].partition("`")[0]
    assert example.startswith(f"fithubert {name.rstrip('_')}")
    check_commands(example.replace("distill small", "distill fithubert"))
