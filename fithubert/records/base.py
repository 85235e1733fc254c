"""The base of all records: frozen dataclasses that are read from JSON with checks and written back unchanged."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter, ValidationError, model_serializer

from fithubert.errors import UserError
from fithubert.files import read_json, write_json

#: A parsed JSON object. Only `to_json` and `from_json` handle one; all other code uses records.
JsonObject = dict[str, Any]


class Record:
    """A frozen dataclass with a JSON form. Subclasses are decorated with `@dataclass(frozen=True)`.

    Unknown keys of a file are ignored. A field that is None is written as null, or left out if `omit_none`.
    """

    omit_none: ClassVar[bool] = False

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: Callable[[Any], JsonObject]) -> JsonObject:
        values = serialize(self)
        return {name: value for name, value in values.items() if value is not None or not self.omit_none}

    def to_json(self) -> JsonObject:
        """The record as values that `json.dumps` accepts."""
        values: JsonObject = _adapter(type(self)).dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, values: object) -> Self:
        """The record in `values`. Raises UserError that names the first field that is missing or of a wrong type."""
        if not isinstance(values, dict):
            raise UserError("must hold one JSON object")
        try:
            record: Self = _adapter(cls).validate_python(values)
            return record
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{place}: {first['msg'].lower()}") from None

    def write(self, path: Path) -> None:
        """Write the record to `path` as indented JSON, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in the file `path`. Raises UserError if the file is missing, broken or of another kind."""
        values = read_json(path)
        try:
            return cls.from_json(values)
        except UserError as error:
            raise UserError(f"{path}: {error}; run the stage that writes it again") from None


class Head(NamedTuple):
    """A head: the student layer that it reads and the teacher layer that it predicts."""

    student_layer: int
    teacher_layer: int

    def __str__(self) -> str:
        """The key of the head in JSON: `6-12`."""
        return f"{self.student_layer}-{self.teacher_layer}"


def parse_head(key: object) -> Head:
    """The head of a JSON key `STUDENT-TEACHER`.

    A plain `6` of an old file names the teacher layer alone. Such a file never has two heads with a plain key on one
    teacher layer, so 6-6 stands for it. Raises ValueError for anything else.
    """
    if isinstance(key, tuple):
        return Head(*key)
    student, _, teacher = str(key).rpartition("-")
    return Head(int(student or teacher), int(teacher))


def label_heads(heads: Iterable[Head]) -> dict[Head, str]:
    """Head -> its label for people: `layer 6`, or `layer 6 from student layer 3` if heads share a teacher layer."""
    unique = dict.fromkeys(heads)
    layers = [head.teacher_layer for head in unique]
    shared = {head for head in unique if layers.count(head.teacher_layer) > 1}
    return {h: f"layer {h.teacher_layer}" + f" from student layer {h.student_layer}" * (h in shared) for h in unique}


#: A head as a key of a JSON object.
HeadKey = Annotated[Head, BeforeValidator(parse_head), PlainSerializer(str)]
#: Seconds as a key of a JSON object: `10`, not `10.0`.
SecondsKey = Annotated[float, PlainSerializer(lambda seconds: f"{seconds:g}")]


_adapters: dict[type[Record], TypeAdapter[Any]] = {}


def _adapter(kind: type[Record]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
