"""Students and teachers on disk: config.json and model.safetensors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from fithubert.config.base import validate
from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig
from fithubert.errors import UserError
from fithubert.files import atomic_directory, digest, read_json, write_json
from fithubert.models.heads import SharedHeads
from fithubert.models.hubert import HubertModel, HubertTeacher, canonical_state, remove_weight_norm
from fithubert.models.student import Student
from fithubert.tensors import read_tensors, write_tensors

STUDENT_FORMAT = "fithubert-student-1"
#: The student that comes with the package.
SHIPPED_STUDENT = "fithubert"
#: All that the folder of a model holds.
_FILES = ("config.json", "model.safetensors")
_FOLDED = "positional.conv.weight"


def save_student(
    student: Student, directory: Path, *, release: bool = True, record: dict[str, Any] | None = None
) -> str:
    """Write `student` to `directory` as config.json + model.safetensors, both or neither; a digest of what was written.

    `release` leaves out the parts that only training needs: unread heads and the mask embedding. `record`
    is kept in config.json as it is (how the weights came about).
    """
    state = released_state(student) if release else student_state(student)
    config = student.config.released() if release else student.config
    with atomic_directory(Path(directory), _FILES) as aside:
        write_tensors(aside / "model.safetensors", state)
        values = {"format": STUDENT_FORMAT, "student": config.model_dump(mode="json"), "record": record or {}}
        write_json(aside / "config.json", values)
    return _fingerprint(config, state)


def load_student(directory: Path | str, *, for_training: bool = False) -> Student:
    """The student saved in `directory`, ready for use: evaluation mode, weight norm folded.

    "fithubert" is the student that comes with the package, unless a folder of that name holds a student.
    `for_training` gives it in training mode with its weight norm. Raises UserError naming the file, and the tensor
    where one is wrong.
    """
    directory = _find_student(Path(directory))
    config = validate(StudentConfig, _read(directory)["student"], str(directory / "config.json"))
    path = directory / "model.safetensors"
    state = read_tensors(path)
    # folded before, not after, so that the weight is the saved one bit by bit
    student = Student(config) if for_training else prepare_for_inference(Student(config))
    load_canonical_state(student, state, str(path))
    return student


def _find_student(directory: Path) -> Path:
    if directory == Path(SHIPPED_STUDENT) and not (directory / "config.json").exists():
        return Path(__file__).resolve().parents[1] / "pretrained" / SHIPPED_STUDENT
    return directory


def read_record(directory: Path | str) -> dict[str, Any]:
    """The training record that `save_student` stored with the student in `directory`."""
    return dict(_read(Path(directory)).get("record", {}))


def prepare_for_inference(student: Student) -> Student:
    """`student` itself in evaluation mode with its weight norm folded; its output stays the same."""
    student.positional.fold_weight_norm()
    return student.eval()


def student_state(student: Student) -> dict[str, Tensor]:
    """float32 CPU weights by canonical name, weight norm folded."""
    state = {name: tensor for name, tensor in student.state_dict().items() if ".parametrizations." not in name}
    state[_FOLDED] = student.positional.conv.weight
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}


def released_state(student: Student) -> dict[str, Tensor]:
    """The canonical state of the student that `config.released()` describes."""
    kept = len(student.config.released().heads.layer_map)
    first = len(student.config.heads.layer_map) - kept
    state = {}
    for name, tensor in student_state(student).items():
        part, _, rest = name.partition(".")
        if part == "mask_embedding" or (part == "heads" and not kept):
            continue
        if part == "heads" and not isinstance(student.heads, SharedHeads):
            index, _, rest = rest.partition(".")
            if int(index) >= first:
                state[f"heads.{int(index) - first}.{rest}"] = tensor
        elif part == "heads" and rest in ("weight", "bias"):
            state[name] = tensor[first:].clone()
        elif part == "heads" and rest.startswith("hidden."):
            state[name] = tensor[tensor.shape[0] // len(student.config.heads.layer_map) * first :].clone()
        else:
            state[name] = tensor
    return state


def release(student: Student) -> Student:
    """A copy of `student` for inference without the parts that only training needs, on the CPU."""
    copy = prepare_for_inference(Student(student.config.released()))
    load_canonical_state(copy, released_state(student), "release")
    return copy


def load_canonical_state(student: Student, state: dict[str, Tensor], source: str) -> None:
    """Fill `student` from canonical weights, strictly; raises UserError naming `source` and the first wrong tensor."""
    wanted = {name: tensor.shape for name, tensor in student.state_dict().items() if ".parametrizations." not in name}
    wanted[_FOLDED] = student.positional.conv.weight.shape
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        what = f"tensor {missing[0]} is missing" if missing else f"tensor {extra[0]} does not belong to this student"
        raise UserError(f"{source}: {what} ({len(missing)} missing, {len(extra)} extra)")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            raise UserError(f"{source}: tensor {name} has shape {tuple(state[name].shape)}, not {tuple(shape)}")
    state = {name: tensor.float() for name, tensor in state.items()}
    if parametrize.is_parametrized(student.positional.conv, "weight"):
        with torch.no_grad():
            student.positional.conv.weight = state.pop(_FOLDED)
    student.load_state_dict(state, strict=False)


def fingerprint(student: Student) -> str:
    """A digest of the released student's shape and weights, the same before and after saving."""
    return _fingerprint(student.config.released(), released_state(student))


def _fingerprint(config: StudentConfig, state: Mapping[str, Tensor]) -> str:
    parts: list[bytes | str] = [config.model_dump_json()]
    for name in sorted(state):
        parts += [name, state[name].numpy().tobytes()]
    return digest(*parts)


def _read(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    values = read_json(path)
    if (
        not isinstance(values, dict)
        or values.get("format") != STUDENT_FORMAT
        or not isinstance(values.get("student"), dict)
    ):
        raise UserError(f"{path}: not a student of this project (format {STUDENT_FORMAT!r} expected)")
    return values


TEACHER_FORMAT = "fithubert-teacher-1"
#: May be there or not: only masking distillation asks for it.
_MASK_EMBEDDING = "mask_embedding"


def save_teacher(
    teacher: HubertTeacher, directory: Path, dtype: torch.dtype = torch.float32, record: dict[str, object] | None = None
) -> None:
    """Write `teacher` to `directory` as config.json + model.safetensors, both or neither.

    `dtype` float16 halves the file; `record` is kept in config.json as it is (how the weights came about).
    """
    state = canonical_state(teacher.model)
    if teacher.mask_embedding is not None:
        state[_MASK_EMBEDDING] = teacher.mask_embedding
    state = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
    with atomic_directory(directory, _FILES) as aside:
        write_tensors(aside / "model.safetensors", state)
        values = {
            "format": TEACHER_FORMAT,
            "name": teacher.name,
            "model": teacher.model.config.model_dump(mode="json"),
            "record": record or {},
        }
        write_json(aside / "config.json", values)


def read_teacher(directory: Path) -> HubertTeacher:
    """The teacher saved in `directory`; raises UserError naming the file, and the tensor if one is wrong."""
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory / 'config.json'}: no such file; `fithubert teacher` writes a teacher's folder")
    values = read_json(directory / "config.json")
    if not isinstance(values, dict) or values.get("format") != TEACHER_FORMAT:
        raise UserError(
            f"{directory / 'config.json'}: not a teacher of this project (format {TEACHER_FORMAT!r} expected)"
        )
    config = validate(HubertConfig, values["model"], str(directory / "config.json"))
    model = remove_weight_norm(HubertModel(config))
    return HubertTeacher(model, str(values["name"]), load_weights(model, directory / "model.safetensors"))


def load_weights(model: HubertModel, path: Path) -> torch.Tensor | None:
    """Fill `model` from a safetensors file, strictly; returns the mask embedding if the file has one."""
    state = read_tensors(path)
    embedding = state.pop(_MASK_EMBEDDING, None)
    fill_model(model, state, str(path))
    if embedding is not None and embedding.shape != (model.config.width,):
        raise UserError(
            f"{path}: tensor {_MASK_EMBEDDING} has shape {tuple(embedding.shape)}, not ({model.config.width},)"
        )
    return embedding


def fill_model(
    model: HubertModel, state: Mapping[str, torch.Tensor], source: str, name_there: Callable[[str], str] = str
) -> None:
    """Fill `model` with canonical weights, strictly: every tensor there, none too many, every shape right.

    Raises UserError naming `source` and the first wrong tensor, by the name that `name_there` gives it.
    """
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        wrong, what = (missing[0], "is missing") if missing else (extra[0], "does not belong to this model")
        raise UserError(f"{source}: tensor {name_there(wrong)} {what} ({len(missing)} missing, {len(extra)} extra)")
    for name, tensor in state.items():
        shape = tuple(wanted[name].shape)
        if tensor.shape != shape:
            raise UserError(f"{source}: tensor {name_there(name)} has shape {tuple(tensor.shape)}, not {shape}")
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
