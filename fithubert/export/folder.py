"""Students as folders: for transformers, for s3prl, and the parts that all exported folders share."""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import torch
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
#: Of a model card.
_NO_SCORES = "None are known of these weights."
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


def export_huggingface(
    readout: ReadOut, out: Path, scores: Sequence[Mapping[str, Any]] = (), training: str = "", place: str = "DIR"
) -> dict[str, Any]:
    """Write `out` for `AutoModel.from_pretrained(out, trust_remote_code=True)` and return what is recorded.

    transformers takes code from the folder of a model, so the student's own source goes along and this package is not
    needed there. `scores` are rows for the model card, all with the same keys; `training` is a paragraph before
    them, and `place` the name by which its examples load the model. Raises UserError if `out` is not new or empty.
    """
    with new_directory(out) as aside:
        write_source(aside)
        write_templates("huggingface", aside)
        record = describe_export(readout)
        write_json(aside / "config.json", _huggingface_config(readout, record))
        write_json(aside / "preprocessor_config.json", _huggingface_preprocessor())
        weights = {f"student.{name}": tensor for name, tensor in readout.student.state_dict().items()}
        save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
        words = {
            **record,
            "place": place,
            "depth": readout.student.config.depth,
            "parameters": f"{sum(tensor.numel() for tensor in weights.values()):,}",
            "scores": training + (_score_table(scores) if scores else _NO_SCORES),
        }
        write_readme("huggingface", aside, readout, words)
    return record


def _huggingface_config(readout: ReadOut, record: Mapping[str, Any]) -> dict[str, Any]:
    code = {
        "AutoConfig": "configuration_fithubert.FithubertConfig",
        "AutoModel": "modeling_fithubert.FithubertModel",
    }
    return {
        "architectures": ["FithubertModel"],
        "auto_map": code,
        "model_type": "fithubert_student",
        "readout": record["readout"],
        "student": describe_shape(readout.student),
        "torch_dtype": "float32",
        "fithubert": {key: record[key] for key in ("name", "fingerprint", "fithubert")},
    }


def _huggingface_preprocessor() -> dict[str, Any]:
    """Padding and an attention mask, and nothing else: a student reads waveforms as they are."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE_HZ,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": False,
        "return_attention_mask": True,
    }


def _score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(str(row[key]) for key in head)} |" for row in rows])


def export_s3prl(readout: ReadOut, out: Path) -> dict[str, Any]:
    """Write `out` with expert.py, hubconf.py, launch.py, weights, configuration and README; what is recorded.

    s3prl users are often bound to an old torch, so nothing of this package is needed there: the student's source goes
    along. `hidden_states` is what the read-out reads. Raises UserError if `out` is not new or empty.
    """
    upstream = "student_" + re.sub(r"\W", "_", readout.name)
    with new_directory(out) as aside:
        write_source(aside / "fithubert_student")
        write_templates("s3prl", aside, {"student_upstream": upstream})
        record = describe_export(readout)
        write_json(aside / "config.json", {**record, "upstream": upstream, "student": describe_shape(readout.student)})
        # Into an open file, so that a full disk is an error with a number.
        with (aside / "model.pt").open("wb") as file:
            torch.save(readout.student.state_dict(), file)
        (aside / "requirements.txt").write_text("torch>=2.4\n", encoding="utf-8")
        words = {
            **record,
            "version": record["fithubert"],
            "upstream": upstream,
            "folder": out.resolve(),
            "launch": out.resolve() / "launch.py",
        }
        write_readme("s3prl", aside, readout, words)
    return record
