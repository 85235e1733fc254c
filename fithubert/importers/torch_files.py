"""Checkpoints of other frameworks, read without executing anything in them."""

import argparse
import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from fithubert.errors import UserError
from fithubert.files import check_regular
from fithubert.tensors import find_saved_instead


def parse_list(text: Any, where: str) -> list[Any]:
    """A list written as Python: literals joined by + and repeated by *. Parsed, never evaluated."""
    try:
        return list(_parse(ast.parse(str(text), mode="eval").body))
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"{where}: not a list of numbers or tuples (given {str(text)!r})") from None


def _parse(node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        return [_parse(item) for item in node.elts]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _parse(node.left), _parse(node.right)
        if isinstance(node.op, ast.Mult) and isinstance(right, int) and right > 100:
            raise ValueError("too many")
        return left + right if isinstance(node.op, ast.Add) else left * right
    raise ValueError("not a list")


#: Packages whose objects trainers leave in their checkpoints next to the weights. They are never imported.
_BYSTANDERS = (
    *("fairseq", "omegaconf", "hydra", "numpy", "typing", "enum", "collections", "datetime"),
    *("s3prl", "optimizers", "apex", "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"),
    # The modules of a trainer itself.
    *("__main__", "train", "modules", "models", "utils", "torch.optim"),
)
_PLAIN_TYPES = ("bool", "bytes", "dict", "float", "int", "list", "object", "set", "str", "tuple")


class Inert:
    """Replaces an object of a class that is not imported: its data, without its methods."""

    def __init__(self, *args: Any, **_: Any) -> None:
        self.args: tuple[Any, ...] = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.args, self.state = (), state


class _InertMapping:
    """Replaces a mapping of a class that is not imported by a plain one."""

    def __new__(cls, *_: Any) -> Any:
        return {}


class _InertList(list):  # type: ignore[type-arg]
    """Replaces a list of a class that is not imported."""


def read_torch_file(path: Path, mapped: bool = False) -> dict[str, Any]:
    """The mapping in a torch checkpoint, read without running anything in it (torch's weights-only reader).

    `mapped`: tensors stay in the file, which must then stay as it is, if its format allows that.

    `argparse.Namespace` is read as the plain data that it is; objects of training frameworks become `Inert`.
    Raises UserError if the file is missing, broken, or holds any other pickled object.
    """
    check_regular(path)
    mapped = mapped and is_zipfile(path)
    kinds: dict[str, type] = {}
    while True:
        known = [(type(name, (kind,), {}), name) for name, kind in kinds.items()]
        try:
            with torch.serialization.safe_globals([argparse.Namespace, *known]):
                values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            break
        except Exception as error:  # torch raises many kinds for a broken file, and pickle's for a refused one
            name, kind = _find_stand_in(str(error), kinds)
            if kind is None or kinds.get(name or "") is kind:
                raise UserError(f"{path}: {find_saved_instead(path) or _why_unreadable(error, name)}") from None
            kinds[str(name)] = kind
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no mapping of names to tensors")
    return values


def as_plain_data(value: Any) -> Any:
    """`value` with namespaces, omegaconf's containers and enumerations as plain data; None for other objects."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Inert):
        if isinstance(value.state, dict):
            return as_plain_data(value.state.get("_content", value.state.get("_val")))
        # A member of an enumeration is made from its value.
        return value.args[0] if len(value.args) == 1 else None
    if isinstance(value, Mapping):
        return {str(as_plain_data(key)): as_plain_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain_data(item) for item in value]
    return value


def _find_stand_in(error: str, kinds: Mapping[str, type]) -> tuple[str | None, type | None]:
    """The class or function that torch's reader stopped at by `error`, and what may stand for it: None if nothing."""
    found = re.search(r"GLOBAL ([\w.]+) (?:was not an allowed global|whose module)", error)
    if found:
        # The reader leaves the module of Python's own types out.
        name = found[1] if "." in found[1] else f"builtins.{found[1]}"
        harmless = name.startswith(tuple(f"{package}." for package in _BYSTANDERS))
        return name, Inert if harmless or name.removeprefix("builtins.") in _PLAIN_TYPES else None
    found = re.search(r"Can only (SETITEM|append).* but got <class '([^']+)'>", error)
    name = next((name for name in kinds if found and found[2].endswith(name)), None)
    if found is None or name is None:
        return None, None
    return name, _InertMapping if found[1] == "SETITEM" else _InertList


def _why_unreadable(error: Exception, name: str | None) -> str:
    if name is None and "WeightsUnpickler" not in str(error) and "weights_only" not in str(error).lower():
        return f"not a readable checkpoint ({type(error).__name__})"
    what = name or "objects"
    return f"refused, nothing was run: it holds pickled Python ({what}); only tensors and plain data are read"
