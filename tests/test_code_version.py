"""Versions of code: what changes them, what does not, and that dvc.yaml depends on the code that it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

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
