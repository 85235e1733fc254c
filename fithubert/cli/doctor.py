"""`fithubert doctor`: whether this machine can run `dvc repro`."""

import json
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fithubert import __version__
from fithubert.cli.options import options
from fithubert.errors import UserError, exit_on_user_error, without_password

if TYPE_CHECKING:
    from fithubert.workspace import Workspace

#: Extras that the default `dvc repro` cannot do without.
NEEDED_EXTRAS = ("synthesis", "train", "trials", "report", "pipeline")
#: Extras that are for developers, or that only join others.
_OTHER_EXTRAS = ("all", "dev", "docs")


@dataclass(frozen=True)
class Finding:
    """One result of the examination, with the way to fix or improve it.

    `problem`: a default `dvc repro` would stop. `note`: good to know.
    """

    mark: Literal["ok", "note", "problem"]
    topic: str
    text: str
    fix: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Check that the stages can run on this machine, and print how to fix each problem.

    One line per finding: versions, extras, GPU, parameters, workspace, free space, existing results. A `problem` stops
    a run, and the exit status is then 1. A `note` is good to know. Nothing is changed or downloaded. For the links
    between DVC's cache and the workspace, run `dvc doctor`.

    Example: `fithubert doctor --json`
    """
    with exit_on_user_error(options.debug):
        from fithubert.workspace import Workspace

        found = inspect_machine(Workspace(options.workspace), options.params)
        problems = sum(finding.mark == "problem" for finding in found)
        if as_json:
            print(json.dumps([asdict(finding) for finding in found], indent=2))
        else:
            width = max(len(finding.topic) for finding in found)
            for finding in found:
                text = " ".join(f"{finding.text}{f': {finding.fix}' if finding.fix else ''}".split())
                print(f"{finding.mark:<7}  {finding.topic:<{width}}  {text}")
            ending = "" if problems == 1 else "s"
            print(f"\n{problems} problem{ending}" if problems else "\nready")
        raise SystemExit(1 if problems else 0)


def inspect_machine(workspace: "Workspace", params: Path) -> list[Finding]:
    """All findings; nothing is written that stays."""
    libraries = [_inspect_library(name) for name in ("torch", "torchaudio")]
    found = [
        Finding("ok", "fithubert", f"{__version__} in Python {platform.python_version()} ({sys.executable})"),
        *libraries,
        *inspect_extras(requires("fithubert") or []),
    ]
    if any(finding.mark == "problem" for finding in libraries):
        return found
    found += [_inspect_gpu(), _inspect_tracking(), _inspect_params(params), _inspect_folder(workspace.root)]
    if found[-1].mark == "problem":
        return found
    free = Finding("ok", "disk", f"{shutil.disk_usage(workspace.root).free / 1e9:.1f} GB free")
    return [*found, free, *_inspect_results(workspace)]


def inspect_extras(requirements: list[str]) -> list[Finding]:
    """One finding for the complete extras in `requirements` (as in the package's metadata), one per incomplete one."""
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra is not None and name is not None and extra[1] not in _OTHER_EXTRAS:
            missing.setdefault(extra[1], []).extend([] if find_version(name[0]) else [name[0]])
    complete = [name for name, names in missing.items() if not names]
    found = [Finding("ok", "extras", f"installed: {', '.join(complete) or 'none'}")]
    for incomplete, names in missing.items():
        if names:
            mark: Literal["note", "problem"] = "problem" if incomplete in NEEDED_EXTRAS else "note"
            text = f"{incomplete} is incomplete, without {', '.join(names)}"
            found.append(Finding(mark, "extras", text, f"pip install 'fithubert[{incomplete}]'"))
    return found


def find_version(package: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _inspect_library(name: str) -> Finding:
    """torch or torchaudio, imported: a build for another version fails only then."""
    try:
        __import__(name)
    except (ImportError, OSError) as error:
        text = f"{find_version(name) or 'missing'}: cannot be imported ({' '.join(str(error).split())[:160]})"
        return Finding("problem", name, text, "install the versions of constraints.txt, which belong together")
    return Finding("ok", name, find_version(name) or "unknown version")


def _inspect_gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        text = f"none; the {os.cpu_count()} CPU cores are enough for the default run, not for the published experiment"
        return Finding("note", "GPU", text)
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return Finding("ok", "GPU", ", ".join(f"{d.name} with {d.total_memory / 2**30:.0f} GiB" for d in devices))


def _inspect_tracking() -> Finding:
    """MLflow's store; a folder is none any more, and runs would silently stay local."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri and ("://" not in uri or uri.startswith("file:")):
        text = f"MLFLOW_TRACKING_URI={uri} is a folder, which MLflow no longer writes to"
        return Finding("problem", "MLflow", text, "unset it, or name a database: sqlite:///mlflow.db")
    return Finding("ok", "MLflow", without_password(uri) or "sqlite:///mlflow.db in the working directory")


def _inspect_params(path: Path) -> Finding:
    from fithubert.workspace import load_checked

    if path == Path("params.yaml") and not path.exists():
        return Finding("note", "parameters", "no params.yaml in this folder", "`fithubert init` writes one")
    try:
        load_checked(path)
    except UserError as error:
        return Finding("problem", "parameters", str(error), "run this in the project's folder, or correct the file")
    return Finding("ok", "parameters", str(path))


def _inspect_folder(root: Path) -> Finding:
    """Whether a temporary file can be written in the workspace."""
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        text = f"{root.resolve()}: cannot be written ({error.strerror})"
        return Finding("problem", "workspace", text, "get write access, or name another --workspace")
    return Finding("ok", "workspace", f"{root.resolve()} can be written")


def _inspect_results(workspace: "Workspace") -> list[Finding]:
    """The results of earlier runs."""
    from fithubert.data.manifest import manifest_path

    corpus = ""
    found: list[Finding] = []
    if manifest_path(workspace.data).is_file():
        try:
            manifest = workspace.load_manifest()
            corpus = f"{len(manifest)} utterances, {manifest.hours:.2f} h"
        except UserError as error:
            found.append(Finding("problem", "corpus", str(error)))
    teacher = "exists" if (workspace.teacher / "config.json").is_file() else ""
    results = {
        "corpus": (corpus, "prepare"),
        "teacher": (teacher, "teacher"),
        "students": (", ".join(workspace.list_students()), "distill"),
    }
    for topic, (text, command) in results.items():
        if text:
            found.append(Finding("ok", topic, text))
        elif topic not in [finding.topic for finding in found]:
            found.append(Finding("note", topic, "none yet", f"`fithubert {command}` makes it"))
    return found
