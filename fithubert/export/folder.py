"""The parts that all exported folders share: source, record, weights."""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

from safetensors.torch import save_file

from fithubert import __version__
from fithubert.errors import UserError
from fithubert.files import atomic_directory, write_json
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field
from fithubert.models.runtime import ReadOut
from fithubert.models.student import Student

_TEMPLATES = Path(__file__).parent / "templates"
#: The modules of a student in use. The shape is that of config.json instead of the strict, pydantic one.
_MODULES = (
    "errors",
    "frames",
    "models.frontend",
    "models.encoder",
    "models.heads",
    "models.student",
)
_RENAMED = {"config.students": "shape"}
_IMPORT = re.compile(r"^from fithubert\.([\w.]+) import", re.MULTILINE)


def write_source(folder: Path) -> None:
    """Write the modules of a student to `folder`, flat, `build.py` with `build_student(shape)` among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _MODULES:
        module = importlib.import_module(f"fithubert.{name}")
        note = f"# fithubert {__version__}, {name.replace('.', '/')}.py, with relative imports. Apache-2.0.\n"
        source = _IMPORT.sub(lambda found: f"from .{_flat_name(found[1])} import", inspect.getsource(module))
        (folder / f"{_flat_name(name)}.py").write_text(note + source, encoding="utf-8")
    write_templates("student", folder)


def write_templates(kind: str, folder: Path, replace: dict[str, str] | None = None) -> None:
    """Copy the Python files of `templates/kind` to `folder`, with the names in `replace` exchanged."""
    for path in sorted((_TEMPLATES / kind).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for old, new in (replace or {}).items():
            text = text.replace(old, new)
        (folder / path.name).write_text(text, encoding="utf-8")


def write_readme(kind: str, folder: Path, readout: ReadOut | None, words: Mapping[str, Any]) -> None:
    """Write README.md to `folder` from the one in `templates/kind`, with `words` and a student's $states filled in."""
    template = Template((_TEMPLATES / kind / "README.md").read_text(encoding="utf-8"))
    states = {} if readout is None else {"states": describe_states(readout)}
    text = template.substitute({**states, **words})
    (folder / "README.md").write_text(text, encoding="utf-8")


def describe_shape(student: Student) -> dict[str, Any]:
    """The shape of a released student for `build_student` of the written source.

    Gradients are not balanced between layers any more: that belongs to hints from every layer.
    """
    config = student.config.model_copy(update={"balance_gradients": False})
    factors = [config.factor_of(layer) for layer in range(config.depth + 1)]
    computed = {"factors": factors, "layer_sizes": config.layer_sizes, "read_pairs": config.read_pairs}
    return {**config.model_dump(mode="json"), **computed}


def _flat_name(name: str) -> str:
    return _RENAMED.get(name, name.rpartition(".")[2])


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory next to `path` that replaces it at the end; raises UserError if `path` holds something."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: already exists and is not an empty folder; choose another one with --out")
    with atomic_directory(path) as aside:
        yield aside


def describe_export(readout: ReadOut) -> dict[str, Any]:
    """Which student this is, of which version, and what is read from it."""
    return {
        "name": readout.name,
        "fingerprint": readout.fingerprint,
        "fithubert": __version__,
        "readout": readout.student.config.readout,
        "layers": len(readout.widths),
        "width": readout.widths[-1],
        "widths": list(readout.widths),
        "downsample_rate": receptive_field(readout.convolutions)[1],
    }


def describe_states(readout: ReadOut) -> str:
    """What is read from the student, in words."""
    count, width, read = len(readout.widths), readout.widths[-1], readout.student.config.heads.read
    heads = f"the heads of teacher layers {', '.join(map(str, read))}" if read else "all heads"
    return {
        "encoder": f"one state, the last layer of the student, {width} wide",
        "outputs": f"{count} states, layers 1 to {count} of the student, {width} wide",
        "all": f"{count} states, the projected features, all layers and the projections of all heads, {width} wide",
        "last": f"one state, the projection of the last head, {width} wide",
        "layers": f"{count} states, layers 0 to {count - 1} of the student, {width} wide",
        "projections": f"{count} states, the projections of {heads}, {width} wide",
    }[readout.student.config.readout]


def write_portable(readout: ReadOut, folder: Path) -> dict[str, Any]:
    """Write `folder` with source/ (a Python package), model.safetensors and config.json; what config.json records.

    `sampling_rate` in Hz and `shortest`, the fewest samples that give a frame, are what a waveform has to keep to.
    """
    write_source(folder / "source")
    (folder / "source" / "__init__.py").touch()
    save_file(readout.student.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    shortest = readout.student.shortest_samples
    record = describe_export(readout) | {"sampling_rate": SAMPLE_RATE_HZ, "shortest": shortest}
    write_json(folder / "config.json", {**record, "student": describe_shape(readout.student)})
    return record
