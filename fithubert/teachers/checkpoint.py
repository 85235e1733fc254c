"""Teachers on disk: config.json + model.safetensors, read strictly and without running anything."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fithubert.config.base import validate
from fithubert.config.teacher import HubertConfig
from fithubert.errors import UserError
from fithubert.files import atomic_directory, read_json, write_json
from fithubert.teachers.hubert import HubertModel, HubertTeacher, canonical_state, remove_weight_norm

FORMAT = "fithubert-teacher-1"
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
    with atomic_directory(directory) as aside:
        save_file(state, aside / "model.safetensors", metadata={"format": "pt"})
        values = {
            "format": FORMAT,
            "name": teacher.name,
            "model": teacher.model.config.model_dump(mode="json"),
            "record": record or {},
        }
        write_json(aside / "config.json", values)


def read_teacher(directory: Path) -> HubertTeacher:
    """The teacher saved in `directory`; raises UserError naming the file, and the tensor where one is wrong."""
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory / 'config.json'}: no such file; `fithubert teacher` writes a teacher's folder")
    values = read_json(directory / "config.json")
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{directory / 'config.json'}: not a teacher of this project (format {FORMAT!r} expected)")
    config = validate(HubertConfig, values["model"], str(directory / "config.json"))
    model = remove_weight_norm(HubertModel(config))
    return HubertTeacher(model, str(values["name"]), load_weights(model, directory / "model.safetensors"))


def load_weights(model: HubertModel, path: Path) -> torch.Tensor | None:
    """Fill `model` from a safetensors file, strictly; gives the mask embedding, where the file has one."""
    state = read_safetensors(path)
    embedding = state.pop(_MASK_EMBEDDING, None)
    fill_model(model, state, str(path))
    if embedding is not None and embedding.shape != (model.config.width,):
        raise UserError(
            f"{path}: tensor {_MASK_EMBEDDING} has shape {tuple(embedding.shape)}, not ({model.config.width},)"
        )
    return embedding


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors in a safetensors file by name; raises UserError where it is missing or broken."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None


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
