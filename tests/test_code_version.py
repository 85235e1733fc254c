"""Versions of code: what changes them, what does not, and that dvc.yaml depends on the code that it runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fithubert.code_version import code_version, find_file, list_modules

ROOT = Path(__file__).parents[1]


def test_a_version_follows_imports_and_ignores_messages() -> None:
    modules = list_modules("fithubert.store.extract")
    assert {"fithubert", "fithubert.store", "fithubert.frames", "fithubert.data.batching"} <= set(modules)
    assert "fithubert.errors" not in modules
    assert not [name for name in modules if name.startswith("fithubert.distill")]
    with pytest.raises(ValueError, match="no such module"):
        list_modules("fithubert.nothing")


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ('"""', '"""Another docstring. ', False),
        ("\n\n\ndef ", "\n\n\n# A comment.\ndef ", False),
        ("\n\n\ndef ", "\n\n\n_UNUSED = 1\n\n\ndef ", True),
    ],
)
def test_only_code_changes_a_version_and_the_folder_does_not(old: str, new: str, changes: bool, tmp_path: Path) -> None:
    for module in (*list_modules("fithubert.code_version"), "fithubert.errors"):
        source = find_file(module)
        assert source is not None
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(source.read_text())
    edited = tmp_path / "fithubert" / "files.py"
    assert old in edited.read_text()
    edited.write_text(edited.read_text().replace(old, new, 1))
    command = "from fithubert.code_version import code_version; print(code_version('fithubert.code_version'))"
    found = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert (found.stdout.strip() != code_version("fithubert.code_version")) == changes


#: What a stage may import without a dependency in dvc.yaml, and why.
NOT_A_DEPENDENCY = {
    "fithubert/__init__.py": "names only",
    "fithubert/code_version.py": "compares results with the code that made them",
    "fithubert/config": "the sections of params.yaml are dependencies themselves",
    "fithubert/devices.py": "CPU or GPU, which differ by rounding",
    "fithubert/downloads.py": "bytes are checked by their digest",
    "fithubert/files.py": "writing and digests",
    "fithubert/records": "the form of the metrics files",
    "fithubert/stages": "the other stages' way of opening their outputs",
    "fithubert/tensors.py": "the form of weight files, under a digest",
    "fithubert/workers.py": "how many processes and threads run changes no result",
    "fithubert/tasks.py": "titles and budgets, except in superb, ablation and report",
}
COPIED_TO_MLFLOW = [
    "data",
    "export",
    "frames.py",
    "importers",
    "models",
    "probes",
    "profile",
    "store",
    "superb",
    "training",
]
#: The same for one stage.
NOT_OF_THIS_STAGE = {
    "prepare": {"fithubert/training": "progress lines"},
    "teacher": {"fithubert/superb": "the probe alone is used", "fithubert/training": "progress lines"},
    "cache": {
        "fithubert/importers": "the prepared teacher is read",
        "fithubert/superb": "the probe of the stage teacher",
        "fithubert/training": "progress lines, and ranks, which change no result",
    },
    "profile": {"fithubert/importers": "filter banks have no weights", "fithubert/training": "progress lines"},
    "superb": {"fithubert/models": "types of the feature store", "fithubert/training": "reading ahead and devices"},
    "report": dict.fromkeys((f"fithubert/{room}" for room in COPIED_TO_MLFLOW), "copies students to MLflow"),
}
NOT_OF_THIS_STAGE |= {"extract": NOT_OF_THIS_STAGE["cache"], "extract_student": NOT_OF_THIS_STAGE["cache"]}
NOT_OF_THIS_STAGE |= {"superb_control": NOT_OF_THIS_STAGE["superb"], "depth": NOT_OF_THIS_STAGE["superb"]}


@pytest.mark.parametrize("stage", list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]))
def test_a_stage_of_dvc_depends_on_the_code_that_it_runs(stage: str) -> None:
    entry = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    entry = entry.get("do", entry)
    dependencies = [path for path in entry["deps"] if path.startswith("fithubert")]
    files = [find_file(module) for module in list_modules(entry["cmd"].split()[2])]
    used = [file.relative_to(ROOT).as_posix() for file in files if file is not None]
    used = [name for name in used if name.startswith("fithubert/")]
    covered = {path: [name for name in used if name == path or name.startswith(f"{path}/")] for path in dependencies}
    assert all(covered.values()), f"{stage}: a dependency that it does not use"
    missing = set(used) - {name for names in covered.values() for name in names}
    allowed = {*NOT_A_DEPENDENCY, *NOT_OF_THIS_STAGE.get(stage, {})}
    assert {"/".join(name.split("/")[:2]) for name in missing} <= allowed, sorted(missing)
