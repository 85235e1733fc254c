"""Whether a default `dvc repro` would run here, and what would be in its way."""

import configparser
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fithubert.config.params import Params, load_params
from fithubert.data.manifest import manifest_path
from fithubert.errors import UserError
from fithubert.profile.plan import show_bytes
from fithubert.stages.disk import default_bytes, find_link_type, paper_bytes, show_shares
from fithubert.stages.installation import (
    Finding,
    find_version,
    inspect_extras,
    inspect_gpu,
    inspect_synthesiser,
    inspect_versions,
)
from fithubert.tracking.reach import inspect_store
from fithubert.tracking.sender import mlflow_installed
from fithubert.workspace import Workspace


def doctor(workspace: Workspace, params_path: Path) -> list[Finding]:
    """What was found, in the order in which it matters; nothing is made, changed or downloaded."""
    found = inspect_versions()
    found += inspect_extras()
    if any(finding.mark == "problem" and finding.topic in ("torch", "torchaudio") for finding in found):
        return found
    found.append(inspect_gpu())
    params, problem = _read_params(params_path)
    found += [problem] if problem is not None else []
    if params is None or params.data.source == "synthetic":
        found.append(inspect_synthesiser())
    found.append(_inspect_folder(workspace.root))
    if found[-1].mark == "problem":
        return [*found, _inspect_store(workspace.root)]
    links, of_dvc = _inspect_dvc(workspace.root)
    found += of_dvc
    if params is not None:
        found += _inspect_disk(workspace, params, links)
    return [*found, _inspect_store(workspace.root), *_inspect_results(workspace)]


def _read_params(path: Path) -> tuple[Params | None, Finding | None]:
    try:
        return load_params(path), None
    except UserError as error:
        return None, Finding("problem", "parameters", str(error), "run this in the project's folder, or mend the file")


def _inspect_folder(root: Path) -> Finding:
    """Whether the workspace can be written, tried with a file that is gone again."""
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        reason = error.strerror or "cannot be written"
        fix = "give yourself write access, or name another --workspace"
        return Finding("problem", "workspace", f"{root.resolve()}: cannot be written ({reason})", fix)
    return Finding("ok", "workspace", f"{root.resolve()} can be written")


def _inspect_dvc(root: Path) -> tuple[str | None, list[Finding]]:
    """How DVC will place files from its cache in the workspace (None: unknown), and the findings."""
    found = [_find_dvc()]
    holder = next((folder for folder in [root.resolve(), *root.resolve().parents] if (folder / ".dvc").is_dir()), None)
    piped = (root / "dvc.yaml").is_file()
    if not piped and holder is None:
        said = "no pipeline here: stages are run one by one"
        fix = "nothing for `fithubert STAGE`; for `dvc repro` name the project's folder with --workspace"
        return None, [*found, Finding("note", "DVC", said, fix)]
    if not piped:
        said = "no dvc.yaml here, so there is nothing to repeat"
        found.append(Finding("problem", "DVC", said, "run this in the project's folder, or name it with --workspace"))
    if holder is None:
        found.append(
            Finding("problem", "DVC", "no repository here (.dvc is missing)", "dvc init, or `git checkout .dvc`")
        )
        return None, found
    cache, types = _read_config(holder / ".dvc")
    try:
        links = find_link_type(cache, root, types)
    except OSError as error:
        said = f"the cache {cache} cannot be written ({error.strerror})"
        found.append(
            Finding("problem", "DVC", said, "give yourself write access, or `dvc cache dir` names another one")
        )
        return None, found
    if links == "copy":
        said = "files are copied from the cache: every result takes its space twice"
        fix = "a cache on the disk of the workspace, with cache.type reflink,hardlink,copy, shares it"
        return links, [*found, Finding("note", "DVC", said, fix)]
    return links, [*found, Finding("ok", "DVC", f"cache {cache}, whose files are shared with the workspace ({links})")]


def _find_dvc() -> Finding:
    version = find_version("dvc")
    beside = Path(sys.executable).with_name("dvc")
    if version is None:
        return Finding("problem", "DVC", "is not installed", "pip install 'fithubert[pipeline]'")
    if shutil.which("dvc") is None:
        fix = f". {beside.with_name('activate')}" if beside.exists() else "pip install 'fithubert[pipeline]'"
        return Finding("problem", "DVC", f"{version} is not on the PATH", fix)
    return Finding("ok", "DVC", version)


def _read_config(folder: Path) -> tuple[Path, list[str]]:
    """The cache's directory and the link types to try, from .dvc/config and what overrides it."""
    config = configparser.ConfigParser(strict=False, interpolation=None)
    with suppress(configparser.Error):  # DVC itself says what is wrong with it
        config.read([folder / "config", folder / "config.local"])
    section = config["cache"] if config.has_section("cache") else {}
    types = section.get("type", "reflink,copy").replace(" ", "").strip('"').split(",")
    return (folder / section.get("dir", "cache").strip('"')).resolve(), types


def _inspect_disk(workspace: Workspace, params: Params, links: str | None) -> list[Finding]:
    """Free space against what the run of these parameters takes, and the published one."""
    free = shutil.disk_usage(workspace.root).free
    parts = default_bytes(params, workspace)
    if parts is None:
        said = f"{show_bytes(free)} free; what the run takes is known once the corpus is prepared"
        found = [Finding("note", "disk", said)]
    else:
        total = sum(parts.values()) * (2 if links == "copy" else 1)
        lacking = total - free - _count_bytes(workspace.data)
        said = f"{show_bytes(free)} free; a run with params.yaml takes about {show_bytes(total)} ({show_shares(parts)})"
        fix = f"free {show_bytes(lacking)}, or name another --workspace" if lacking > 0 else ""
        found = [Finding("problem" if lacking > 0 else "ok", "disk", said, fix)]
    needed = paper_bytes()
    fits = free >= needed
    said = f"the published experiment (960 h) caches {show_bytes(needed)}, which {'fits' if fits else 'does not fit'}"
    fix = "" if fits else "distill.targets=live stores nothing; `fithubert plan --hours 960` weighs both"
    return [*found, Finding("ok" if fits else "note", "disk", said, fix)]


def _inspect_store(root: Path) -> Finding:
    if not mlflow_installed():
        return Finding("note", "MLflow", "is not installed; runs are recorded in .tracking/ alone")
    state = inspect_store(root)
    if state.failure is None:
        return Finding("ok", "MLflow", f"{state.uri}: {state.remark}")
    named = "MLFLOW_TRACKING_URI" in os.environ
    fix = "start it, or set MLFLOW_TRACKING_URI to another" if named else "delete or move it"
    said = f"{state.uri} {state.failure}; stages go on and nothing reaches it"
    return Finding("problem", "MLflow", said, fix)


def _inspect_results(workspace: Workspace) -> list[Finding]:
    """What earlier runs left."""
    looked: tuple[tuple[str, Callable[[], str]], ...] = (
        ("corpus", lambda: _describe_corpus(workspace)),
        ("teacher", lambda: "there" if (workspace.teacher / "config.json").is_file() else ""),
        ("students", lambda: ", ".join(workspace.list_students())),
    )
    found = []
    for topic, look in looked:
        try:
            said = look()
        except UserError as error:
            found.append(Finding("problem", topic, str(error)))
            continue
        found.append(Finding("ok", topic, said) if said else Finding("note", topic, "none yet", "`dvc repro` makes it"))
    return found


def _describe_corpus(workspace: Workspace) -> str:
    if not manifest_path(workspace.data).is_file():
        return ""
    manifest = workspace.load_manifest()
    return f"{len(manifest)} utterances, {manifest.hours:.2f} h"


def _count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
