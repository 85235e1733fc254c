"""The canonical names of a model's weights: one state whatever made the model, and one strict way to fill it."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from fithubert.errors import UserError
from fithubert.files import digest
from fithubert.models.encoder import WeightNormConv

Model = TypeVar("Model", bound=nn.Module)
_FOLDED = "positional.conv.weight"
#: Weight (feature out, feature in) and bias (feature out,) of a linear map behind the states of a teacher.
Projection = tuple[Tensor, Tensor]
#: Their names in every form of checkpoint.
_PROJECTION = ("final_proj.weight", "final_proj.bias")


def prepare_for_inference(model: Model) -> Model:
    """`model` itself in evaluation mode with its weight norm folded; its output stays the same."""
    model.positional.fold_weight_norm()  # type: ignore[union-attr, operator]
    return model.eval()


def canonical_state(model: nn.Module) -> dict[str, Tensor]:
    """float32 CPU weights of a teacher or student by canonical name, the positional weight norm folded."""
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in _find_tensors(model).items()}


def projection_state(projection: Projection | None) -> dict[str, Tensor]:
    """The tensors of `projection` by name, none if it is None."""
    return {} if projection is None else dict(zip(_PROJECTION, projection, strict=True))


def take_projection(state: dict[str, Tensor], width: int, source: str) -> Projection | None:
    """The projection of states of `width` features that `state` holds, removed from it; None if it holds none.

    Raises UserError naming `source` and the tensor that is missing or misshapen.
    """
    found = {name: state.pop(name).float() for name in _PROJECTION if name in state}
    if not found:
        return None
    for name in _PROJECTION:
        if name not in found:
            raise UserError(f"{source}: tensor {name} is missing")
    weight, bias = found.values()
    if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in (weight, bias))
        raise UserError(f"{source}: final_proj has the shapes {shapes}, not (n, {width}) and (n,)")
    return weight, bias


def digest_model(config: str, state: Mapping[str, Tensor]) -> str:
    """A digest of the shape, as JSON, and of every weight of a canonical state."""
    parts: list[bytes | str] = [config]
    for name in sorted(state):
        parts += [name, state[name].numpy().tobytes()]
    return digest(*parts)


def fill_model(
    model: nn.Module, state: Mapping[str, Tensor], source: str, name_there: Callable[[str], str] = str
) -> None:
    """Fill a teacher or student with canonical weights: none missing, none too many, every shape right.

    Raises UserError naming `source` and the first wrong tensor, by the name that `name_there` gives it.
    """
    wanted = _find_tensors(model)
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        wrong, fault = (missing[0], "is missing") if missing else (extra[0], "does not belong to this model")
        raise UserError(f"{source}: tensor {name_there(wrong)} {fault} ({len(missing)} missing, {len(extra)} extra)")
    for name, tensor in state.items():
        shape = tuple(wanted[name].shape)
        if tensor.shape != shape:
            raise UserError(f"{source}: tensor {name_there(name)} has shape {tuple(tensor.shape)}, not {shape}")
    with torch.no_grad():
        state = {name: tensor.float() for name, tensor in state.items()}
        if _has_weight_norm(model):
            model.positional.conv.weight = state.pop(_FOLDED)  # type: ignore[union-attr]
        model.load_state_dict(state, strict=False)


def _find_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    if _has_weight_norm(model):
        tensors[_FOLDED] = model.positional.conv.weight  # type: ignore[union-attr, assignment]
    return tensors


def _has_weight_norm(model: nn.Module) -> bool:
    return isinstance(getattr(model.positional, "conv", None), WeightNormConv)
