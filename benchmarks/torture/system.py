"""Kills at random moments, full disks, folders without write access, and two writers of one output."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from benchmarks.torture.harness import Case, WrongError
from benchmarks.torture.world import World
from fithubert.config.params import Params
from fithubert.errors import UserError, exit_on_user_error
from fithubert.files import digest, remove_leftovers, write_json
from fithubert.models.weights import load_student, read_teacher, save_student, save_teacher
from fithubert.stages.ablation import ablation
from fithubert.stages.cache import cache
from fithubert.stages.depth import depth
from fithubert.stages.distill import distill
from fithubert.stages.export import export
from fithubert.stages.extract import extract
from fithubert.stages.prepare import prepare
from fithubert.stages.profile import profile
from fithubert.stages.report import report
from fithubert.stages.superb import superb
from fithubert.stages.teacher import teacher
from fithubert.training.checkpoint import write_checkpoint
from fithubert.workspace import Workspace

Stage = Callable[[Params, Workspace], object]
#: Stage -> what it does, and the outputs that must be the same after a kill and a second call; of files with times in
#: them only the names. Not the sweep: a lost trial is retried after a minute, which tests/search shortens.
STAGES: dict[str, tuple[Stage, tuple[str, ...]]] = {
    "prepare": (lambda p, w: prepare(p, w), ("data/manifests", "data/audio")),
    "teacher": (lambda p, w: teacher(p, w), ("artifacts/teacher",)),
    "cache": (lambda p, w: cache(p, w), ("data/cache",)),
    "distill": (lambda p, w: distill(p, w, "thin"), ("artifacts/students/thin/model.safetensors",)),
    "ablation": (
        lambda p, w: ablation(p, w, "time_reduction"),
        ("artifacts/ablation", "reports/metrics/ablation/time_reduction.json"),
    ),
    "extract": (lambda p, w: extract(p, w, "fbank"), ("data/extract/fbank",)),
    "superb": (lambda p, w: superb(p, w, "fbank", "pr"), ("reports/metrics/superb/fbank.json",)),
    "profile": (lambda p, w: profile(p, w), ("reports/metrics/profile.json",)),
    "depth": (lambda p, w: depth(p, w), ("reports/metrics/depth.json",)),
    "report": (lambda p, w: report(p, w), ("reports/table.md", "reports/index.html")),
    "export": (lambda p, w: export(w, "thin", "s3prl", w.root / "s3prl"), ("s3prl/config.json", "s3prl/model.pt")),
}


_SLOW = {31: "prepare", 15: "ablation", 7: "depth"}


def _digest_outputs(root: Path, outputs: tuple[str, ...]) -> str:
    parts: list[bytes | str] = []
    for output in outputs:
        path = root / output
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                parts.append(str(file.relative_to(root)))
                if file.suffix not in (".json", ".html", ".md") or "config" in file.name:
                    parts.append(file.read_bytes())
    return digest(*parts)


def _leftovers(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob(".*") if path.suffix in (".part", ".old")]


def _in_child(
    action: Callable[[], object], kill_after_seconds: float | None = None, setup: Callable[[], object] = int
) -> int:
    """The status of `action` in a process of its own, as a command would end; killed after a time if one is given."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            setup()
            with exit_on_user_error():
                action()
            status = 0
        except SystemExit as ending:
            status = int(ending.code or 0) if isinstance(ending.code, int) else 1
        finally:
            os._exit(status)
    if kill_after_seconds is not None:
        time.sleep(kill_after_seconds)
        os.kill(child, signal.SIGKILL)
    _, ending = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ending)


def measure_stages(world: World, scratch: Path, names: Iterable[str]) -> dict[str, tuple[float, str]]:
    """Stage of `names` -> its seconds from no outputs of its own, and the digest of its outputs."""
    measured = {}
    for name in dict.fromkeys(names):
        stage, outputs = STAGES[name]
        mine = _without_outputs(world, scratch / f"measure-{name}", outputs)
        begun = time.monotonic()
        if _in_child(lambda s=stage, m=mine: s(m.params, m.workspace)) != 0:
            raise WrongError(f"the stage {name} fails undisturbed")
        measured[name] = (time.monotonic() - begun, _digest_outputs(mine.root, outputs))
    return measured


def _draw_stages(count: int) -> list[str]:
    """`count` stages in turn; those that take ten times as long as the others come once in 32."""
    quick = [name for name in STAGES if name not in _SLOW.values()]
    return [_SLOW.get(number % 32, quick[number % len(quick)]) for number in range(count)]


def _without_outputs(world: World, root: Path, outputs: tuple[str, ...]) -> World:
    mine = world.clone(root)
    for output in outputs:
        path = root / output
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if "students" in outputs[0]:
        shutil.rmtree(root / "artifacts/students/thin")
    return mine


def list_kills(world: World, scratch: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` kills, spread over the stages and over their time; then the same stage again, undisturbed."""
    rng = random.Random(seed)
    names = _draw_stages(count)
    measured = measure_stages(world, scratch, names)
    for name in names:
        seconds, wanted = measured[name]
        moment = rng.uniform(0.02, 1.0) * seconds
        yield Case(
            "kill -9", f"{name} after {moment:.2f} s of {seconds:.2f}", _kill_case(world, scratch, name, moment, wanted)
        )


def _kill_case(world: World, scratch: Path, name: str, moment: float, wanted: str) -> Callable[[], None]:
    stage, outputs = STAGES[name]

    def run() -> None:
        mine = _without_outputs(world, scratch / f"{os.getpid()}", outputs)
        _in_child(lambda: stage(mine.params, mine.workspace), kill_after_seconds=moment)
        # An export that had ended before the kill is refused, since its folder is not new.
        refused = name == "export" and _digest_outputs(mine.root, outputs) == wanted
        status = _in_child(lambda: stage(mine.params, mine.workspace))
        if status != refused:
            raise WrongError(f"the second call ended with {status}")
        if _digest_outputs(mine.root, outputs) != wanted:
            raise WrongError("other outputs than without a kill")
        for output in outputs:
            remove_leftovers((mine.root / output).parent)
        if left := _leftovers(mine.root):
            raise WrongError(f"left behind: {left[:3]}")
        if set(mine.workspace.list_students()) - {"thin"}:
            raise WrongError("a leftover counts as a student")

    return run


def list_full_disks(world: World, scratch: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` stages whose files may not grow beyond a random size: the error comes in the middle of a write."""
    rng = random.Random(seed)
    quick = [name for name in STAGES if name not in _SLOW.values()]
    names = [*quick, "checkpoint", "json", "save_student", "save_teacher"]
    for number in range(count):
        name = _SLOW.get(number % 32, names[number % len(names)])
        limit = int(10 ** rng.uniform(1, 5))
        yield Case("full disk", f"{name}, at most {limit} bytes a file", _full_case(world, scratch, name, limit))


def _writer(mine: World, name: str) -> Callable[[], object]:
    if name in STAGES:
        return lambda: STAGES[name][0](mine.params, mine.workspace)
    student, read = mine.workspace.student("thin"), mine.workspace.teacher
    return {
        "checkpoint": lambda: write_checkpoint(mine.root / "update-00000001.pt", {"a": torch.ones(50_000)}),
        "json": lambda: write_json(mine.root / "reports/summary.json", {"x": "y" * 50_000}),
        "save_student": lambda: save_student(load_student(student, for_training=True), student),
        "save_teacher": lambda: save_teacher(read_teacher(read), read),
    }[name]


def _full_case(world: World, scratch: Path, name: str, limit: int) -> Callable[[], None]:
    def run() -> None:
        mine = world.clone(scratch / f"{os.getpid()}")
        before = {path: path.read_bytes() for path in mine.root.rglob("*.safetensors")}

        def lower() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        status = _in_child(_writer(mine, name), setup=lower)
        if status not in (0, 1):
            raise WrongError(f"ended with {status} instead of one line")
        after = {path: path.read_bytes() for path in mine.root.rglob("*.safetensors")}
        if status == 1 and any(path not in after for path in before):
            raise WrongError("a model was lost")
        for folder in {path.parent for path in mine.root.rglob("*")}:
            remove_leftovers(folder)
        if left := _leftovers(mine.root):
            raise WrongError(f"left behind: {left[:3]}")
        if status == 1:
            raise UserError("refused")

    return run


def list_forbidden(world: World, scratch: Path, count: int) -> Iterator[Case]:
    """Every stage in a workspace that this user may read only; as root the stage runs as nobody."""
    for number in range(count):
        name = list(STAGES)[number % len(STAGES)]
        yield Case("read-only", name, _forbidden_case(world, scratch, name))


def _forbidden_case(world: World, scratch: Path, name: str) -> Callable[[], None]:
    def run() -> None:
        mine = world.clone(scratch / f"{os.getpid()}")
        for folder in (mine.root, *(path for path in mine.root.rglob("*") if path.is_dir())):
            folder.chmod(0o555)
        scratch.chmod(0o777)

        def become_nobody() -> None:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)

        status = _in_child(_writer(mine, name), setup=become_nobody)
        for folder in (mine.root, *(path for path in mine.root.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        if status != 1:
            raise WrongError(f"ended with {status} instead of one line")
        raise UserError("refused")

    return run


def list_pairs(world: World, scratch: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` pairs of processes with the same stage in the same workspace, the second a little later."""
    rng = random.Random(seed)
    for name in _draw_stages(count):
        delay = rng.uniform(0, 0.5)
        yield Case("two writers", f"{name}, the second {delay:.2f} s later", _pair_case(world, scratch, name, delay))


def _pair_case(world: World, scratch: Path, name: str, delay: float) -> Callable[[], None]:
    stage, outputs = STAGES[name]

    def run() -> None:
        mine = _without_outputs(world, scratch / f"{os.getpid()}", outputs)
        first = os.fork()
        if first == 0:
            os._exit(_in_child(lambda: stage(mine.params, mine.workspace)))
        time.sleep(delay)
        second = _in_child(lambda: stage(mine.params, mine.workspace))
        _, ending = os.waitpid(first, 0)
        statuses = (os.waitstatus_to_exitcode(ending), second)
        if not set(statuses) <= {0, 1} or 0 not in statuses:
            raise WrongError(f"ended with {statuses}")
        if left := _leftovers(mine.root):
            raise WrongError(f"left behind: {left[:3]}")
        # What both have written must be whole: one more call finds nothing to do, or does it.
        if _in_child(lambda: stage(mine.params, mine.workspace)) not in (0, 1):
            raise WrongError("a later call fails")

    return run
