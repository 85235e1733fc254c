"""What a fresh clone installs, and who imports whom."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import fithubert

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def test_every_dependency_is_pinned_to_the_version_that_was_tested() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    pinned = {name_of(line) for line in lines}
    wanted = {name_of(r) for rs in [PROJECT["dependencies"], *EXTRAS.values()] for r in rs} - {"fithubert"}
    assert wanted <= pinned


def test_all_is_every_extra_but_those_of_developers() -> None:
    (everything,) = EXTRAS["all"]
    assert set(everything[len("fithubert[") : -1].split(",")) == set(EXTRAS) - {"all", "dev", "docs"}


def test_weights_and_assets_are_part_of_the_package() -> None:
    package = ROOT / "fithubert"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["fithubert"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    others = {p for p in package.rglob("*.*") if p.is_file() and p.suffix not in (".py", ".pyc") and p.name[0] != "."}
    assert others <= packed


def test_versions_agree() -> None:
    assert PROJECT["version"] == fithubert.__version__


def test_the_library_is_imported_without_pipeline_tracking_or_command_line() -> None:
    rooms = "data.manifest store.read models.student importers distill superb.run profile.costs"
    program = f"""
import importlib, sys
for room in {rooms.split()!r}:
    importlib.import_module("fithubert." + room)
heavy = {{"mlflow", "dvc", "optuna", "typer", "transformers", "lightning_fabric", "sklearn", "matplotlib", "hydra"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_room_imports_upwards() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
