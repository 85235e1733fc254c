"""The code fences of a page, and a clone in which tests run them as a reader would.

The word after a fence's language is its marker:

- `run`: commands, run in order (sh in one terminal, python as a separate script, diff by `git apply`);
- `needs-data`, `needs-network`, `needs-time`: commands that tests cannot run; tests check that they exist;
- `file=PATH`: the text of the file PATH, relative to the terminal's folder;
- `seen`: the output of the fence before it, line by line; `...` stands for anything.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
UNRUN = ("needs-data", "needs-network", "needs-time")
#: The languages that each marker may have.
MARKERS = {"": ("text",), "run": ("sh", "python", "diff"), "seen": ("text",), **dict.fromkeys(UNRUN, ("sh",))}
#: Files and folders that a clone needs.
_CLONE = ("fithubert", "pipeline", "experiments/presets", "params.yaml", "dvc.yaml", ".dvcignore", "pyproject.toml")


@dataclass(frozen=True)
class Fence:
    """One fence. `line` is the number of its first line of text in `page`."""

    page: Path
    line: int
    language: str
    marker: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_fences(page: Path) -> list[Fence]:
    """The fences of a page without Sphinx's directives; an indented block of code is a fence without a language."""
    fences, lines, opened = [], page.read_text().splitlines(), None
    for number, line in enumerate(lines, 1):
        found = re.match(r"(`{3,})\s*([^\s`]*) ?(.*)$", line)
        if opened is None and found:
            opened, start = found, number
        elif opened is not None and found and found[1] == opened[1] and not found[2]:
            if not opened[2].startswith("{"):
                text = "\n".join(lines[start : number - 1]) + "\n"
                fences.append(Fence(page, start + 1, opened[2], opened[3], text))
            opened = None
        elif opened is None and line.startswith("    ") and not lines[number - 2].strip():
            fences.append(Fence(page, number, "", "", line))
    assert opened is None, f"{page}: a fence is not closed"
    return fences


class Terminal:
    """A reader's terminal in a fresh clone, `fithubert`, with the environment active."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fithubert"
        for name in _CLONE:
            source, target = ROOT / name, self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        self._where = folder / ".where"
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "WHERE": str(self._where),
            "GIT_CEILING_DIRECTORIES": str(folder),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "TERM": "dumb",
        }
        self._output = ""

    def follow(self, fence: Fence) -> None:
        """Save or run `fence`, or compare it with the last output. Raises AssertionError if it fails or differs."""
        if fence.marker.startswith("file="):
            path = self.folder / fence.marker.removeprefix("file=")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(fence.text)
        elif fence.marker == "run":
            getattr(self, f"_run_{fence.language}")(fence)
        elif fence.marker == "seen":
            pattern = ".*".join(_match_line(line) for line in fence.text.splitlines())
            assert re.search(pattern, self._output, re.DOTALL), f"{fence}: the output differs:\n{self._output[-3000:]}"

    def _run_sh(self, fence: Fence) -> None:
        # The next commands start in the folder in which these end.
        self._call(fence, ["bash", "-eu", "-o", "pipefail", "-c", f'trap "pwd > $WHERE" EXIT\n{fence.text}'])
        self.folder = Path(self._where.read_text().strip())

    def _run_python(self, fence: Fence) -> None:
        self._call(fence, [sys.executable, "-"], fence.text)

    def _run_diff(self, fence: Fence) -> None:
        self._call(fence, ["git", "apply", "-"], fence.text)

    def _call(self, fence: Fence, command: list[str], typed: str | None = None) -> None:
        done = subprocess.run(
            command,
            input=typed,
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._output = done.stdout
        assert done.returncode == 0, f"{fence}: exit status {done.returncode}\n{done.stdout[-3000:]}"


def _match_line(line: str) -> str:
    """A pattern for one line of `seen`, with any number of blanks between words."""
    words = [r"[^\n]*" if word == "..." else re.escape(word).replace(r"\.\.\.", r"[^\n]*") for word in line.split()]
    return r"[^\S\n]*".join(words)
