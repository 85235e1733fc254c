"""Check that commands which no test can run exist, with their options, presets, stages, targets and modules."""

import re
import shlex
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import typer
import yaml

from fithubert.cli import app
from fithubert.config.params import load_params
from pipeline.compose import compose
from tests.docs.fences import ROOT

#: Commands of the system, which are not checked.
_SHELL = re.compile(r"\.|cd|cp|curl|done|export|find|for|git|ln|mkdir|mlflow|pip|pre-commit|python3|rm|tar")


def check_commands(text: str) -> None:
    """Raise an error for the first command in the lines of `text` that does not exist as it is written."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s*(?:&&|;|\|)\s*", line.split(" #")[0].strip()):
            words = [word for word in shlex.split(part, comments=True) if word != "do"]
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                _check(words)


def _check(words: Sequence[str]) -> None:
    name, rest = words[0].rpartition("/")[2] or words[0], list(words[1:])
    if name in _CHECKS:
        _CHECKS[name](rest)
    else:
        assert _SHELL.fullmatch(name), f"no such command: {' '.join(words)}"


def _check_fithubert(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("fithubert", list(arguments))
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)
    # `data` has other keys for other corpora.
    changes = [c for c in context.params["change"] or () if not c.startswith("data.")]
    load_params(ROOT / "params.yaml", changes)


def _check_module(arguments: list[str]) -> None:
    if "-m" not in arguments:
        return
    module, *rest = arguments[arguments.index("-m") + 1 :]
    assert find_spec(module), f"no such module: {module}"
    if module == "fithubert.cli":
        _check_fithubert(rest)
    if module == "pipeline.compose":
        compose(rest)


def _check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    missing = {word for word in arguments if "=" not in word} - set(targets)
    assert not missing, f"no such target: {missing}"


def _check_dvc(arguments: list[str]) -> None:
    command, *rest = arguments
    if command == "exp":
        compose([word for word in rest[1:] if word not in ("-S", "--queue")])
    else:
        assert command in ("repro", "unfreeze", "dag", "status", "metrics", "params"), f"no such command: dvc {command}"
        stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
        assert {word.partition("@")[0] for word in rest if word[0] != "-"} <= {*stages, "diff"}, rest


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "fithubert": _check_fithubert,
    "python": _check_module,
    "torchrun": _check_module,
    "make": _check_make,
    "dvc": _check_dvc,
}
