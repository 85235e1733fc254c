"""Guides and README, followed literally: every fence with `run` is run, in a fresh copy of the clone."""

import subprocess
import sys
from pathlib import Path

import pytest

from fithubert.files import read_json
from tests.docs.fences import PAGES, ROOT, Terminal, read_fences

for needed in ("typer", "espeakng_loader", "onnxruntime", "onnxscript", "soundfile"):
    pytest.importorskip(needed)

FOLLOWED = [page for page in PAGES if any(fence.marker == "run" for fence in read_fences(page))]
#: Runs run_student.py with these modules blocked.
FORBIDDEN = """
import runpy, sys
for name in ("torch", "torchaudio", "fithubert", "transformers", "scipy"):
    sys.modules[name] = None
sys.argv = ["run_student.py", *sys.argv[1:]]
runpy.run_path("run_student.py", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", FOLLOWED, ids=[page.stem for page in FOLLOWED])
def test_a_reader_gets_to_the_end(page: Path, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    for fence in read_fences(page):
        terminal.follow(fence)
    if page.stem == "your-speech":
        check_that_onnxruntime_is_enough(tmp_path / "my-speech")
    if page.stem == "extend":
        scored = read_json(tmp_path / "fithubert" / "try" / "reports" / "metrics" / "superb" / "fbank.json")
        assert 0 < scored["tasks"]["rate"]["chance"]["acc"] < 100


def check_that_onnxruntime_is_enough(workspace: Path) -> None:
    recording = min(workspace.glob("data/audio/**/*.flac"))
    for graph in ("onnx/model.onnx", "onnx/model.int8.onnx"):
        done = subprocess.run(
            [sys.executable, "-c", FORBIDDEN, graph, str(recording)], cwd=workspace, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "frames of 192 features" in done.stdout


def test_every_guide_is_followed() -> None:
    assert set((ROOT / "docs" / "guides").glob("*.md")) <= set(FOLLOWED)
