"""Versions of code: a digest of all modules that can change a result.

A result that other code made is made again; an edited comment or docstring changes no version.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock

from fithubert.files import digest

_PACKAGE = "fithubert"
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
#: Python 3.11 counts the depth of a tree for all threads together, and fails if two parse at once.
_PARSING = Lock()
_ROOT = Path(__file__).resolve().parents[1]
#: Modules and packages that no result depends on, and why.
IGNORED = {
    "fithubert.errors": "messages for the user",
    "fithubert.tracking": "copies results to MLflow",
    "fithubert.training.progress": "progress lines",
    "fithubert.workspace": "paths",
}


def code_version(*modules: str) -> str:
    """A digest of `modules` and of all modules of this package that they import, directly or not.

    It is the same on every machine and in every folder. Raises ValueError for an unknown module.
    """
    return digest(*(f"{name}\n{_normalise(name)}" for name in list_modules(*modules)))


def list_modules(*modules: str) -> tuple[str, ...]:
    """`modules` and all modules of this package that they import, sorted, without `IGNORED`.

    Imports inside functions count, and so do the packages that contain a module.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found and not is_ignored(name):
            found.add(name)
            waiting += _read_imports(name)
    return tuple(sorted(found))


def is_ignored(module: str) -> bool:
    """Whether the module or a package that contains it is in `IGNORED`."""
    return any(parent in IGNORED for parent in _list_parents(module))


def find_file(module: str) -> Path | None:
    """The source file of a module below the root of this package, or None."""
    path = _ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _list_parents(module: str) -> list[str]:
    """The module and the packages that contain it, outermost first."""
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _parse(module: str) -> ast.Module:
    file = find_file(module)
    if file is None:
        raise ValueError(f"{module}: no such module")
    with _PARSING:
        return ast.parse(file.read_text(encoding="utf-8"), str(file))


@cache
def _read_imports(module: str) -> tuple[str, ...]:
    """The modules of this package that `module` imports, and the packages that contain it."""
    names = set(_list_parents(module)[:-1])
    for node in ast.walk(_parse(module)):
        for name in _imported_names(node):
            names.update(part for part in _list_parents(name) if find_file(part))
    return tuple(sorted(name for name in names if name.split(".")[0] == _PACKAGE))


def _imported_names(node: ast.AST) -> Iterator[str]:
    """The dotted names that a statement may import; the last part may be a module or a name inside one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == _PACKAGE)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            raise ValueError("relative imports are not followed; import by the full name")
        if node.module and node.module.split(".")[0] == _PACKAGE:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _normalise(module: str) -> str:
    """The module's code without comments and docstrings, in one layout."""
    tree = _parse(module)
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
