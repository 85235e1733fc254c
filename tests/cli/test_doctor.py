"""`fithubert doctor`: its findings, which of them are problems, and that it leaves nothing behind."""

import json
from pathlib import Path

import pytest

from fithubert.cli.doctor import NEEDED_EXTRAS, Finding, inspect_extras
from fithubert.models.weights import save_student
from tests.cli.test_cli import run
from tests.models.shapes import strong, tiny
from tests.test_packaging import EXTRAS


def look(workspace: Path) -> tuple[int, list[Finding]]:
    code, printed, _ = run("doctor", "--json", workspace=workspace)
    return code, [Finding(**entry) for entry in json.loads(printed)]


def problems(found: list[Finding]) -> str:
    return "\n".join(f"{f.topic}: {f.text}: {f.fix}" for f in found if f.mark == "problem")


def test_an_empty_workspace_has_no_problem_and_stays_empty(tmp_path: Path) -> None:
    code, found = look(tmp_path)
    assert (code, problems(found)) == (0, "")
    assert list(tmp_path.iterdir()) == []
    topics = {finding.topic for finding in found}
    assert topics >= {"fithubert", "torch", "torchaudio", "extras", "GPU", "parameters", "workspace", "disk", "corpus"}
    assert Finding("note", "students", "none yet", "`fithubert distill` makes it") in found


def test_wrong_parameters_are_a_problem_in_aligned_lines(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {source: nothing}\n")
    code, printed, _ = run("doctor", params=tmp_path / "params.yaml", workspace=tmp_path)
    assert code == 1
    *lines, blank, verdict = printed.splitlines()
    assert (blank, verdict) == ("", "1 problem")
    (line,) = [line for line in lines if line.startswith("problem")]
    start = line.index(str(tmp_path))
    assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines)


def test_a_folder_that_cannot_be_written_is_a_problem() -> None:
    code, found = look(Path("/proc"))  # Not even root may
    assert code == 1
    assert "workspace: /proc: cannot be written" in problems(found)


@pytest.mark.parametrize(
    ("uri", "wrong"),
    [("./mlruns", True), ("file:///tmp/x", True), ("postgresql://me:secret@host/db", False), ("", False)],
)
def test_a_tracking_store_that_mlflow_does_not_write_to_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, wrong: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    _, found = look(tmp_path)
    assert ("MLflow: MLFLOW_TRACKING_URI=" in problems(found)) == wrong
    assert "secret" not in str(found)


def test_existing_results_are_named(tmp_path: Path) -> None:
    save_student(strong(tiny("armhubert")), tmp_path / "artifacts" / "students" / "mine")
    (tmp_path / "data" / "manifests").mkdir(parents=True)
    (tmp_path / "data" / "manifests" / "corpus.parquet").write_text("broken")
    found = look(tmp_path)[1]
    assert Finding("ok", "students", "mine") in found
    assert "not readable as Parquet" in problems(found)


def test_an_incomplete_extra_is_a_problem_only_if_the_default_run_needs_it() -> None:
    assert set(NEEDED_EXTRAS) < set(EXTRAS)
    requirements = ["torch>=2", "scipy; extra == 'trials'", "none-such; extra == 'trials'", "no-one>=1; extra == 'hub'"]
    assert inspect_extras([*requirements, "pytest; extra == 'cli'", "not-here; extra == 'dev'"]) == [
        Finding("ok", "extras", "installed: cli"),
        Finding("problem", "extras", "trials is incomplete, without none-such", "pip install 'fithubert[trials]'"),
        Finding("note", "extras", "hub is incomplete, without no-one", "pip install 'fithubert[hub]'"),
    ]
