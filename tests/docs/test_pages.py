"""README, guides and reference: fences have markers, commands exist, public names are documented, no warnings."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")

import fithubert
from fithubert.config.params import load_params
from fithubert.models.recipes import RECIPES
from tests.docs.commands import check_commands
from tests.docs.fences import MARKERS, PAGES, ROOT, UNRUN, Fence, read_fences

FENCES = [fence for page in PAGES for fence in read_fences(page)]
UNRUN_FENCES = [fence for fence in FENCES if fence.marker in UNRUN]


def test_every_fence_has_a_marker() -> None:
    unmarked = [
        str(fence)
        for fence in FENCES
        if not re.fullmatch(r"file=\S+", fence.marker) and fence.language not in MARKERS.get(fence.marker, ())
    ]
    assert unmarked == []


@pytest.mark.parametrize("fence", UNRUN_FENCES, ids=str)
def test_commands_that_are_not_run_exist(fence: Fence) -> None:
    check_commands(fence.text)


@pytest.mark.parametrize(
    "line",
    [
        "fithubert distil small",
        "fithubert plan --hours many",
        "fithubert export",
        "fithubert --set distill.update=3 distill small",
        "torchrun --nproc-per-node 8 -m fithubert.trainer distill small",
        "python -m pipeline.compose teacher=hubert_bass",
        "cd runs && dvc exp run -S data=librispeech_961",
        "dvc repro distil@fithubert",
        "make repo",
        "fithubet ui",
    ],
)
def test_a_command_that_does_not_exist_is_an_error(line: str) -> None:
    # Typer's, ours and asserts are all errors here.
    with pytest.raises((Exception, SystemExit)):
        check_commands(line)


def test_parameters_in_guides_are_valid(tmp_path: Path) -> None:
    files = [fence for fence in FENCES if fence.marker.startswith("file=params")]
    assert files
    for fence in files:
        path = tmp_path / "params.yaml"
        path.write_text(fence.text)
        load_params(path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as `make docs` builds them. Any warning is an error."""
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", str(out / "trees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(out / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "html"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    names = [f"fithubert.{name}" for name in fithubert.__all__]
    names += [f"fithubert.models.recipes.{name}" for name in RECIPES]
    assert [name for name in names if f'id="{name}"' not in pages] == []


def test_pages_need_no_network(site: Path) -> None:
    loaded = r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+href="(?:https?:)?//|url\((?:https?:)?//'
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert [page.name for page in pages if re.search(loaded, page.read_text())] == []
