"""Students and teachers on disk (config.json and model.safetensors), and the parameters of a shape."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fithubert.config.base import validate
from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig
from fithubert.errors import UserError
from fithubert.files import atomic_directory, read_json, write_json
from fithubert.models.canonical import (
    canonical_state,
    digest_model,
    fill_model,
    prepare_for_inference,
    projection_state,
    take_projection,
)
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.student import Student
from fithubert.tensors import read_tensors, write_tensors

STUDENT_FORMAT, TEACHER_FORMAT = "fithubert-student-1", "fithubert-teacher-1"
#: The student that comes with the package.
SHIPPED_STUDENT = "fithubert"
_LATER_OPTIONS = (
    "second_softmax",
    "activation",
    "final_norm",
    "units",
    "head_width",
    "frontend",
    "mel_bands",
    "context_frames",
)
#: All that the folder of a model holds.
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
#: A teacher's file may have it or not: only masking distillation asks for it.
_MASK_EMBEDDING = "mask_embedding"
_TRAINING_ONLY = (_MASK_EMBEDDING, "unit_head")


def save_student(
    student: Student, directory: Path, *, release: bool = True, record: dict[str, Any] | None = None
) -> str:
    """Write `student` to `directory` as config.json + model.safetensors, both or neither; a digest of what was written.

    `release` leaves out the parts that only training needs: unread heads, the unit head and the mask embedding.
    `record` is kept in config.json as it is (how the weights came about).
    """
    state = released_state(student) if release else canonical_state(student)
    config = student.config.released() if release else student.config
    values = {"format": STUDENT_FORMAT, "student": config.model_dump(mode="json"), "record": record or {}}
    _write_folder(Path(directory), values, state | projection_state(student.final_proj))
    return _fingerprint(config, state)


def load_student(directory: Path | str, *, for_training: bool = False) -> Student:
    """The student saved in `directory`, ready for use: evaluation mode, weight norm folded.

    "fithubert" is the student that comes with the package, unless a folder of that name holds a student.
    `for_training` gives it in training mode with its weight norm. Raises UserError naming the file, and the tensor
    where one is wrong.
    """
    directory = Path(directory)
    if directory == Path(SHIPPED_STUDENT) and not (directory / _CONFIG).exists():
        directory = Path(__file__).resolve().parents[1] / "pretrained" / SHIPPED_STUDENT
    values, path = _read_config(directory / _CONFIG, STUDENT_FORMAT, "student"), directory / _WEIGHTS
    config = validate(StudentConfig, values["student"], str(directory / _CONFIG))
    state = read_tensors(path)
    # Folded before, not after, so that the weight is the saved one bit by bit.
    student = Student(config) if for_training else prepare_for_inference(Student(config))
    student.final_proj = take_projection(state, config.heads.teacher_width, str(path))
    fill_model(student, state, str(path))
    return student


def read_record(directory: Path | str) -> dict[str, Any]:
    """The training record that `save_student` stored with the student in `directory`."""
    return dict(_read_config(Path(directory) / _CONFIG, STUDENT_FORMAT, "student").get("record", {}))


def released_state(student: Student) -> dict[str, Tensor]:
    """The canonical state of the student that `config.released()` describes."""
    pairs, released = student.config.heads.layer_map, student.config.released().heads.layer_map
    kept = [index for index, pair in enumerate(pairs) if pair in released]
    state = {name: x for name, x in canonical_state(student).items() if name.split(".")[0] not in _TRAINING_ONLY}
    heads = {name.removeprefix("heads."): state.pop(name) for name in list(state) if name.startswith("heads.")}
    if kept:
        cut = student.heads.cut(heads, kept)
        state |= {f"heads.{name}": tensor for name, tensor in cut.items()}
    return state


def release(student: Student) -> Student:
    """A copy of `student` for inference without the parts that only training needs, on the CPU."""
    copy = prepare_for_inference(Student(student.config.released()))
    fill_model(copy, released_state(student), "release")
    copy.final_proj = student.final_proj
    return copy


def fingerprint(student: Student) -> str:
    """A digest of the released student's shape and weights, the same before and after saving."""
    return _fingerprint(student.config.released(), released_state(student))


def _fingerprint(config: StudentConfig, state: Mapping[str, Tensor]) -> str:
    # Options of later versions are left out where they change nothing, so that older fingerprints stay.
    fields = StudentConfig.model_fields
    same: dict[str, Any] = {name: True for name in _LATER_OPTIONS if getattr(config, name) == fields[name].default}
    same["heads"] = {name for name in ("keep", "read") if not getattr(config.heads, name)}
    return digest_model(config.model_dump_json(exclude=same), state)


def save_teacher(
    teacher: HubertTeacher, directory: Path, dtype: torch.dtype = torch.float32, record: dict[str, object] | None = None
) -> None:
    """Write `teacher` to `directory` as config.json + model.safetensors, both or neither.

    `dtype` float16 halves the file; `record` is kept in config.json as it is (how the weights came about).
    """
    state = canonical_state(teacher.model) | projection_state(teacher.final_proj)
    if teacher.mask_embedding is not None:
        state[_MASK_EMBEDDING] = teacher.mask_embedding
    values = {"name": teacher.name, "model": teacher.model.config.model_dump(mode="json"), "record": record or {}}
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    _write_folder(directory, {"format": TEACHER_FORMAT, **values}, state)


def read_teacher(directory: Path) -> HubertTeacher:
    """The teacher saved in `directory`; raises UserError naming the file, and the tensor if one is wrong."""
    path, weights = directory / _CONFIG, directory / _WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: no such file; `fithubert teacher` writes a teacher's folder")
    values = _read_config(path, TEACHER_FORMAT, "model")
    config = validate(HubertConfig, values["model"], str(path))
    model, state = prepare_for_inference(HubertModel(config)), read_tensors(weights)
    embedding, projection = state.pop(_MASK_EMBEDDING, None), take_projection(state, config.width, str(weights))
    fill_model(model, state, str(weights))
    if embedding is not None and embedding.shape != (config.width,):
        shape = tuple(embedding.shape)
        raise UserError(f"{weights}: tensor {_MASK_EMBEDDING} has shape {shape}, not ({config.width},)")
    return HubertTeacher(model, str(values.get("name", directory.name)), embedding, projection)


def _write_folder(directory: Path, values: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    with atomic_directory(directory, (_CONFIG, _WEIGHTS)) as aside:
        write_tensors(aside / _WEIGHTS, state)
        write_json(aside / _CONFIG, values)


def _read_config(path: Path, form: str, shape: str) -> dict[str, Any]:
    """The config.json of a model whose format is `form` and whose shape is in the section `shape`."""
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != form or not isinstance(values.get(shape), dict):
        kind = "student" if form == STUDENT_FORMAT else "teacher"
        raise UserError(f"{path}: not a {kind} of this project (format {form!r} expected)")
    return values


_INITIAL_WEIGHTS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_"}


class _NoInitialWeights(TorchFunctionMode):
    """Skips the functions that draw weights: on the meta device they change nothing and take most of the time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _INITIAL_WEIGHTS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Build the modules inside on the meta device, without memory and without initial weights."""
    with torch.device("meta"), _NoInitialWeights():
        yield


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of a model by use.

    `trunk`: everything but heads. `readout`: the heads that `config.readout` needs, and those that are kept.
    `training_only`: the other heads, the unit head and the mask embedding. `unused_in_reference`: an upsampler of the
    whole model that the authors' code builds and counts but never uses; it is in neither total here.
    """

    trunk: int
    readout: int = 0
    training_only: int = 0
    unused_in_reference: int = 0

    @property
    def total(self) -> int:
        """The parameters that downstream use loads and runs: trunk and read-out."""
        return self.trunk + self.readout

    @property
    def trained(self) -> int:
        """All parameters that training changes."""
        return self.total + self.training_only

    @property
    def published(self) -> int:
        """`total` as the authors count it; 22,492,064 for FitHuBERT, the paper's 22.49M."""
        return self.total + self.unused_in_reference


@lru_cache(maxsize=4096)
def released_counts(config: StudentConfig) -> ParameterCounts:
    """`parameter_counts` of `config` once released: a quarter of the work, since no training heads are built."""
    with without_memory():
        released = Student(config.released())
    readout = count_parameters(released.heads)
    return ParameterCounts(count_parameters(released) - readout, readout)


@lru_cache(maxsize=4096)
def parameter_counts(config: StudentConfig) -> ParameterCounts:
    """The parameters of a student of `config`'s shape, counted on the meta device, without weights."""
    with without_memory():
        full = Student(config)
    used = released_counts(config)
    reduced = config.time_reduction.kind != "none" and config.heads.upsampling == "transposed_conv"
    unused = config.width**2 * config.time_reduction.factor + config.width
    per_layer = reduced and config.heads.kind == "per_layer"
    return ParameterCounts(used.trunk, used.readout, count_parameters(full) - used.total, unused if per_layer else 0)


def count_parameters(module: nn.Module) -> int:
    """All parameters of `module`."""
    return sum(p.numel() for p in module.parameters())
