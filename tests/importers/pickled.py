"""Checkpoints with objects in them: of packages that are not installed, and such as run something when unpickled."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


class Hostile:
    """Creates a file, by a call of its own or through a shell, where it is unpickled."""

    def __init__(self, trace: Path, shell: bool = False) -> None:
        self.trace, self.shell = trace, shell

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.trace}",)) if self.shell else (Path.touch, (self.trace,))


@contextmanager
def foreign(kinds: dict[str, type]) -> Iterator[list[Any]]:
    """Classes by their full name, each derived from the type given and put where pickle finds it, but only inside."""
    made = []
    hidden: dict[str, ModuleType | None] = {}
    for full_name, base in kinds.items():
        module, _, name = full_name.rpartition(".")
        kind = type(name, (base,), {"__module__": module})
        parts = module.split(".")
        for package in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):
            hidden.setdefault(package, sys.modules.get(package))
            sys.modules[package] = ModuleType(package)
        setattr(sys.modules[module], name, kind)
        made.append(kind)
    try:
        yield made
    finally:
        for package, before in hidden.items():
            if before is None:
                del sys.modules[package]
            else:
                sys.modules[package] = before
