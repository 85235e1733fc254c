"""The strict base of every configuration model, and errors that name the valid keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fithubert.errors import UserError
from fithubert.files import read_text


class StrictModel(BaseModel):
    """An immutable model that refuses unknown keys, values of the wrong type, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


Model = TypeVar("Model")


def validate(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """`values` as a `model`; raises UserError with one line that names `source`, the key and what is allowed."""
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_describe(error, model)}") from None


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes`, section by section."""
    merged = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], change) if both else change
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises UserError if the file is missing, broken or not a mapping."""
    values = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold a mapping of keys to values")
    return values


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text holds; raises UserError that names `source` if it is broken."""
    try:
        return yaml.safe_load(text)
    # Its constructors raise any kind: for an impossible date, thousands of digits or brackets, `!!timestamp x`.
    except Exception as error:
        raise UserError(f"{source}: not readable as YAML ({_shorten(' '.join(str(error).split()))})") from None


def _describe(error: ValidationError, model: Any) -> str:
    """The first problem of a pydantic error in one line; an unknown key is listed with the valid ones."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, first["loc"][:-1])
        names = f"; valid keys: {', '.join(owner.model_fields)}" if owner else ""
        return f"{where}: unknown key{names}"
    if first["type"] == "missing":
        return f"{where}: is required and missing"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f" (given {_shorten(repr(first['input']))})"
    return f"{where}: {message}{given}" if where else f"{message}{given}"


def _shorten(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _model_at(model: Any, location: tuple[int | str, ...]) -> type[StrictModel] | None:
    """The StrictModel that owns the keys at `location`, looked up through dicts, lists and unions."""
    candidates = _strict_models(model)
    for part in location:
        # A discriminated union adds the tag of the chosen member to the location.
        tagged = [c for c in candidates if part in _tags_of(c)]
        if tagged:
            candidates = tagged
            continue
        fields = [
            c.model_fields[part].annotation for c in candidates if isinstance(part, str) and part in c.model_fields
        ]
        candidates = [m for f in fields for m in _strict_models(f)] if fields else candidates
    return candidates[0] if candidates else None


def _tags_of(model: type[StrictModel]) -> tuple[str, ...]:
    field = model.model_fields.get("source")
    return get_args(field.annotation) if field is not None else ()


def _strict_models(annotation: Any) -> list[type[StrictModel]]:
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [m for argument in getattr(annotation, "__args__", ()) for m in _strict_models(argument)]
