"""Parameters with wrong values in every place, and YAML that is no YAML."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.torture.harness import Case
from benchmarks.torture.world import World
from fithubert.config.params import Params
from fithubert.models.recipes import resolve
from fithubert.models.weights import parameter_counts
from fithubert.workspace import Workspace, load_checked

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 10**22, -(10**22), 0.5, -0.5, 1e-9, 1e300, float("inf"), float("nan"), "", "x", "../..",
    ".", "a/b", "/", "a\nb", "\x1b[31m", "ü" * 300, "9" * 5000, [], [0], [-1], [1, 1], [float("inf")],
    [2, 3], [[1, 2], [3]],
    {}, {"x": 1}, {"": {}}, {"../x": {}}, {1: 2},
)  # fmt: skip
TEXTS = (
    "2001-99-99", "!!int x", "!!python/object/apply:os.system ['true']", "9" * 5000, "[" * 1200, "{" * 1200, "a: b: c",
    "\t- x", "&a [*a]", "? ? ?", "%YAML 9.9\n---\na: 1", "- 1\n- 2", "1", "null", "\x00", "key: 'open", "<<: 3",
    "a: *b", "!!binary x", "!!timestamp x", "!!float x", "!!set {a, b}", "=: 1", "1e400: 1", "a: !!merge x",
)  # fmt: skip


def list_cases(world: World, scratch: Path, seed: int, count: int) -> Iterator[Case]:
    """`count` files of parameters with one or two wrong values, and as many damaged texts as there are."""
    rng = random.Random(seed)
    for number in range(count):
        values = copy.deepcopy(world.values)
        words = [_mutate(values, rng) for _ in range(1 + number % 2)]
        yield _case(scratch, "; ".join(words), yaml.safe_dump(values, allow_unicode=True))
    text = yaml.safe_dump(world.values)
    lines = text.splitlines()
    for wrong in TEXTS:
        yield _case(scratch, f"the text {wrong[:30]!r}", wrong)
        at = rng.randrange(len(lines))
        key = lines[at].partition(":")[0]
        yield _case(
            scratch, f"{wrong[:30]!r} in line {at}", "\n".join([*lines[:at], f"{key}: {wrong}", *lines[at + 1 :]])
        )


def _mutate(values: dict[str, Any], rng: random.Random) -> str:
    """Replace, delete or add one entry anywhere; what was done."""
    places = list(_walk(values, ()))
    holder, key, path = rng.choice(places)
    name = ".".join(map(str, path))
    action = rng.randrange(8)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
        return f"{name} deleted"
    value = copy.deepcopy(rng.choice(VALUES))
    if action == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = value
        return f"{name}x added"
    if action == 2 and isinstance(holder, dict):
        wrong = rng.choice(["..", ".", "a/b", "../../thesis", "", " ", "-x", "teacher", "x" * 300, "a\nb", ".hidden"])
        holder[wrong] = holder.pop(key)
        return f"{name} renamed {wrong[:20]!r}"
    holder[key] = value
    return f"{name} = {str(value)[:30]!r}"


def _walk(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, Any, tuple[Any, ...]]]:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(entries):
        yield node, key, (*path, key)
        yield from _walk(value, (*path, key))


def _case(scratch: Path, words: str, text: str) -> Case:
    def run() -> None:
        path = scratch / "params.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        check_accepted(load_checked(path))

    return Case("parameters", words, run)


def check_accepted(params: Params) -> None:
    """What the first minutes of a run do with accepted parameters: none of it may fail."""
    workspace = Workspace(Path("w"))
    for name, student in params.students.items():
        parameter_counts(resolve(student.recipe, student.shape))
        inside = (Path("w/artifacts/students") / name).resolve().parent == Path("w/artifacts/students").resolve()
        assert inside, f"the student {name!r} lies outside of its folder"
        assert workspace.student(name).name == name
    for name, ablation in params.ablation.items():
        assert workspace.ablation(name).name == name
        for changes in ablation.variants.values():
            changed = params.students[ablation.of].changed(changes)
            parameter_counts(resolve(changed.recipe, changed.shape))
    seeds = (params.distill.seed, params.sweep.seed, *params.superb.seeds)
    for seed in seeds:
        torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.zeros(1))
    torch.optim.AdamW(
        [parameter], lr=params.distill.learning_rate, betas=params.distill.betas, eps=params.distill.epsilon
    )
    assert 0 < params.profile.threads <= 4096
    assert all(0.02 < seconds < 36_000 for seconds in params.profile.seconds)
