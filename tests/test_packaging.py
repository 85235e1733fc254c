"""What a fresh clone installs, and who imports whom."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import fithubert
from fithubert.data.manifest import Manifest

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


def test_every_pinned_version_can_be_installed_with_the_oldest_python_of_the_project() -> None:
    """Also with its first release: the Python of Debian 12 is 3.11.2, and a package may ask for 3.11.5."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    oldest = Version(PROJECT["requires-python"].removeprefix(">=") + ".0")
    refused = []
    for name, _, version in (line.partition("==") for line in lines):
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # it belongs to an extra that is not installed
        if metadata["Version"] == version and oldest not in SpecifierSet(metadata.get("Requires-Python") or ""):
            refused.append(f"{name}=={version}")
    assert refused == []


def test_all_is_every_extra_but_those_of_developers() -> None:
    (everything,) = EXTRAS["all"]
    assert set(everything[len("fithubert[") : -1].split(",")) == set(EXTRAS) - {"all", "dev", "docs"}


def test_weights_and_assets_are_part_of_the_package() -> None:
    package = ROOT / "fithubert"
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["fithubert"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    others = {p for p in package.rglob("*.*") if p.is_file() and p.suffix not in (".py", ".pyc") and p.name[0] != "."}
    assert others <= packed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as its wheel installs it. The wheel is built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copied = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fithubert", folder / "source" / "fithubert", ignore=copied)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip"]
    offline = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "./source", "--no-build-isolation", "-w", "built", *offline], cwd=folder, check=True)
    (wheel,) = (folder / "built").glob("*.whl")
    subprocess.run([*pip, "install", "--target", "site", wheel, *offline], cwd=folder, check=True)
    return folder / "site"


#: Runs the command, and fails if any module of this repository came from elsewhere than the folder that is named first.
FROM_SITE = """
import sys
site = sys.argv.pop(1)
from fithubert.cli import main
try:
    main()
finally:
    ours = [m for name, m in sys.modules.items() if name.partition(".")[0] in ("fithubert", "pipeline", "tests")]
    assert ours and all(str(m.__file__).startswith(site) for m in ours), ours
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--help", "compress"),
        ("doctor", "no params.yaml in this folder: `fithubert init` writes one"),
        ("init recordings", "params.yaml: 6 recordings in recordings"),
        ("features recordings --model fithubert --out features.parquet", "6 recordings"),
        ("compress mini recordings --out small --updates 0", "layer 12: relative error"),
    ],
)
def test_the_wheel_works_without_the_repository(
    site: Path, tmp_path: Path, tiny_corpus: Manifest, arguments: str, said: str
) -> None:
    (tmp_path / "recordings").mkdir()
    for path in sorted((tiny_corpus.root / "audio" / "train").rglob("*.flac"))[:6]:
        shutil.copy(path, tmp_path / "recordings")
    done = subprocess.run(
        [sys.executable, "-P", "-c", FROM_SITE, str(site), *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    if arguments.startswith("compress"):
        assert (tmp_path / "small" / "student" / "README.md").is_file()
        assert "<style>" in (tmp_path / "small" / "work" / "reports" / "index.html").read_text(encoding="utf-8")


def test_the_container_is_built_from_files_and_extras_that_exist() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 15
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    copied = [name for word, *names, _ in steps if word == "COPY" for name in names]
    # What the build reads, besides the package, is what pyproject.toml names.
    assert {"fithubert", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    (image,) = [words[0] for word, *words in steps if word == "FROM"]
    version = re.fullmatch(r"python:(3\.\d+)-slim", image)
    assert version is not None
    # The pinned versions were tested with this Python.
    assert f"(Python {version[1]})" in (ROOT / "constraints.txt").read_text()
    (extra,) = re.findall(r"\.\[(\w+)\]", " ".join(lines))
    assert extra in EXTRAS
    assert "://" not in " ".join(lines)


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
