"""The strict base of every configuration model, and errors that name the valid keys."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from fithubert.errors import UserError, printable
from fithubert.files import read_text


class StrictModel(BaseModel):
    """An immutable model that refuses unknown keys, values of the wrong type, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_integers(self) -> "StrictModel":
        # Beyond 32 bits torch, numpy and scikit-learn refuse seeds and sizes, each with an error of its own.
        for name in type(self).model_fields:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and abs(number) >= 2**32:
                    raise ValueError(f"{name}: {_shorten(str(number))} is out of range (32 bits)")
        return self


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"{_shorten(repr(name))} is no name: use letters, digits, `_`, `-` and `.`, and begin with a letter "
            "or digit"
        )
    return name


def check_folder_name(name: str, source: str) -> None:
    """Raise UserError, which begins with `source`, unless `name` may become a folder (`Name`)."""
    try:
        _check_name(name)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


#: Names become folders and parts of stage names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
Name = Annotated[str, AfterValidator(_check_name)]
#: Channels, features, heads, kernels, layers: more than any speech model has.
Size = Annotated[int, Field(gt=0, le=2**16)]

#: What torch, numpy and scikit-learn all take.
Seed = Annotated[int, Field(ge=0, lt=2**32)]

Model = TypeVar("Model")


def validate(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """`values` as a `model`; raises UserError with one line that names `source`, the key and what is allowed."""
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        raise UserError(printable(f"{source}: {describe_error(error, model)}")) from None


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


def describe_error(error: ValidationError, model: Any) -> str:
    """The first problem of a pydantic error in one line; an unknown key is listed with the valid ones."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        owner = _model_at(model, first["loc"][:-1])
        names = f"; valid keys: {', '.join(owner.model_fields)}" if owner else ""
        return f"{where}: unknown key{names}"
    if first["type"] == "missing":
        return f"{where}: is required and missing"
    # A message may quote a value of any length.
    message = re.sub(r"\S{200,}", lambda word: _shorten(word[0]), first["msg"].removeprefix("Value error, "))
    message = _shorten(message, 600)
    given = "" if first["type"] == "value_error" else f" (given {_shorten(repr(first['input']))})"
    return f"{where}: {message}{given}" if where else f"{message}{given}"


def _shorten(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


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
