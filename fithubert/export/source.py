"""A student's own source in a folder, so that an export needs torch and not this package.

The modules are copied as they are and only their imports made relative: there is no second implementation.
"""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from fithubert import __version__
from fithubert.student.model import Student

_TEMPLATES = Path(__file__).parent / "templates"
#: What a student in use consists of. The shape is that of config.json in place of the strict, pydantic one.
_MODULES = (
    "errors",
    "frames",
    "blocks.frontend",
    "blocks.positional",
    "blocks.relative",
    "blocks.encoder",
    "student.masking",
    "student.time_reduction",
    "student.heads",
    "student.model",
    "student.states",
)
_RENAMED = {"config.student": "shape"}
_IMPORT = re.compile(r"^from fithubert\.([\w.]+) import", re.MULTILINE)


def write_source(folder: Path) -> None:
    """Write the modules of a student to `folder`, flat, `build.py` with `build_student(shape)` among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _MODULES:
        module = importlib.import_module(f"fithubert.{name}")
        note = f"# fithubert {__version__}, {name.replace('.', '/')}.py, with relative imports. Apache-2.0.\n"
        source = _IMPORT.sub(lambda found: f"from .{_flat_name(found[1])} import", inspect.getsource(module))
        (folder / f"{_flat_name(name)}.py").write_text(note + source)
    write_templates("student", folder)


def write_templates(kind: str, folder: Path, replace: dict[str, str] | None = None) -> None:
    """Copy the Python files of `templates/kind` to `folder`, with the names in `replace` exchanged."""
    for path in sorted((_TEMPLATES / kind).glob("*.py")):
        text = path.read_text()
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        (folder / path.name).write_text(text)


def read_template(kind: str, name: str) -> str:
    """The text of one template."""
    return (_TEMPLATES / kind / name).read_text()


def describe_shape(student: Student) -> dict[str, Any]:
    """The shape of a released student for `build_student` of the written source.

    Gradients are not balanced between layers any more: that belongs to hints from every layer.
    """
    config = student.config.model_copy(update={"balance_gradients": False})
    factors = [config.factor_of(layer) for layer in range(config.depth + 1)]
    return {**config.model_dump(mode="json"), "factors": factors}


def _flat_name(name: str) -> str:
    return _RENAMED.get(name, name.rpartition(".")[2])
