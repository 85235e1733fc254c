"""params.yaml as typed models: one section per stage, named like the stage."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from fithubert.config.base import Name, StrictModel, describe_error, merge, parse_yaml, read_yaml, validate
from fithubert.config.data import DataParams
from fithubert.config.search import AblationParams, SweepParams
from fithubert.config.students import StudentParams
from fithubert.config.superb import DepthParams, SuperbParams
from fithubert.config.teacher import TeacherParams
from fithubert.errors import UserError

#: The models besides the students.
REFERENCES = ("fbank", "teacher")
#: How hidden states are stored (fithubert.store.codec).
Codec = Literal["float16", "int8", "pca_int8", "float32"]
#: Settings that all students share, and those for which a student has keys of its own.
_NOT_OF_A_STUDENT = frozenset({"targets", "seed", "learning_rate", "updates"})
Beta = Annotated[float, Field(ge=0, lt=1)]


class CacheParams(StrictModel):
    """The feature store of the teacher's hidden states."""

    codec: Codec = "int8"
    #: Share of each layer's variance that `pca_int8` keeps. The relative error is the square root of the rest: 0.9999
    #: gives 1 %.
    variance_share: float = Field(0.9999, gt=0, lt=1)
    layers: Literal["all"] | tuple[int, ...] = "all"
    shard_minutes: float = Field(5.0, gt=0)
    #: Padded audio in one forward pass of the extraction.
    batch_seconds: float = Field(120.0, gt=0)


class AugmentParams(StrictModel):
    """Noise and rooms on the student's input in training, drawn for each utterance and epoch; targets stay clean."""

    noise_share: float = Field(0.5, ge=0, le=1)
    #: Bounds of the signal-to-noise ratios.
    noise_db: tuple[float, float] = (5.0, 20.0)
    room_share: float = Field(0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _check_bounds(self) -> "AugmentParams":
        if self.noise_db[0] > self.noise_db[1]:
            raise ValueError("noise_db: the first bound is above the second")
        return self


class DistillParams(StrictModel):
    """How every student is trained. An update reads at most `batch_seconds` of padded audio.

    A student may have settings of its own (`students.NAME.distill`).
    """

    targets: Literal["cached", "live"] = "cached"
    seed: int = Field(1, ge=0)
    #: 0 keeps the first weights as they are.
    updates: int = Field(2000, ge=0)
    batch_seconds: float = Field(32.0, gt=0)
    #: Longer utterances are cropped at a random frame edge; None keeps them whole.
    crop_seconds: float | None = Field(8.0, gt=0)
    #: `shards` takes the cache's shards one after the other, in a drawn order: for a cache larger than the memory.
    shuffle: Literal["corpus", "shards"] = "corpus"
    learning_rate: float = Field(5e-4, gt=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(1e-6, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    epsilon: float = Field(1e-6, gt=0)
    gradient_clip: float | None = Field(None, gt=0)
    #: Forward passes that one update is cut into on each rank; the update itself stays the same.
    accumulate: int = Field(1, gt=0)
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    #: Decay of a moving average of the weights, which is then evaluated and saved; None keeps no average.
    ema_decay: float | None = Field(None, gt=0, lt=1)
    #: A loss above this many times the first one stops the training.
    explosion_factor: float = Field(100.0, gt=1)
    dev_every_updates: int = Field(200, gt=0)
    #: Dev speech that an evaluation reads, the same sample every time; None reads all of it.
    dev_seconds: float | None = Field(600.0, gt=0)
    #: Dev evaluations without improvement before training stops early.
    patience: int = Field(15, gt=0)
    checkpoint_every_updates: int = Field(200, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    #: Batches read ahead of need.
    prefetch_batches: int = Field(4, gt=0)
    #: None trains on the speech as it is.
    augment: AugmentParams | None = None

    def for_student(self, student: StudentParams) -> "DistillParams":
        """These settings with those that `student` has of its own. Raises ValueError that names a key that is none."""
        for name in student.distill:
            if name not in type(self).model_fields or name in _NOT_OF_A_STUDENT:
                known = ", ".join(sorted(type(self).model_fields.keys() - _NOT_OF_A_STUDENT))
                raise ValueError(
                    f"distill.{name}: not a setting of one student; those are {known}, and the student's keys "
                    "learning_rate and updates"
                )
        own = {"learning_rate": student.learning_rate, "updates": student.updates}
        changes = {**student.distill, **{name: value for name, value in own.items() if value is not None}}
        return type(self).model_validate(merge(self.model_dump(), changes)) if changes else self


class ExtractParams(StrictModel):
    """The feature store of each evaluated model, which SUPERB reads instead of running the model."""

    codec: Codec = "int8"
    #: As in `cache`.
    variance_share: float = Field(0.9999, gt=0, lt=1)
    shard_minutes: float = Field(5.0, gt=0)
    batch_seconds: float = Field(120.0, gt=0)


class ProfileParams(StrictModel):
    """Cost measurements: every model is timed in turn, `rounds` times, in one process."""

    #: Lengths of the timed utterances. Ratios and the real-time factor use 10 s if it is listed.
    seconds: tuple[Annotated[float, Field(ge=0.1, le=3600)], ...] = Field((1.0, 5.0, 10.0, 20.0), min_length=1)
    rounds: int = Field(10, gt=0)
    threads: int = Field(2, gt=0, le=1024)
    #: Also time HuBERT Base, the `fithubert` recipes and `distilhubert` at full size with random weights, in
    #: fewer rounds.
    paper_size: bool = True
    paper_rounds: int = Field(3, gt=0)
    #: Recipes whose ONNX graphs of full size, in float32 and int8, are timed with them.
    paper_exports: tuple[Name, ...] = ()


class ReportParams(StrictModel):
    """The summary and the HTML page."""

    title: str = "fithubert"
    #: The student that the results recommend; the summary names it.
    best_recipe: Name | None = None


class Params(StrictModel):
    """The whole of params.yaml."""

    data: Annotated[DataParams, Field(discriminator="source")]
    teacher: TeacherParams = TeacherParams()
    cache: CacheParams = CacheParams()
    distill: DistillParams = DistillParams()
    students: dict[Name, StudentParams]
    extract: ExtractParams = ExtractParams()
    profile: ProfileParams = ProfileParams()
    superb: SuperbParams
    depth: DepthParams = DepthParams()
    ablation: dict[Name, AblationParams] = {}
    sweep: SweepParams = SweepParams()
    report: ReportParams = ReportParams()

    @model_validator(mode="after")
    def _check_models(self) -> "Params":
        for name in REFERENCES:
            if name in self.students:
                raise ValueError(f"students.{name}: the name of another model; choose a different one")
        for name in self.superb.controls:
            if name in (*REFERENCES, *self.students):
                raise ValueError(f"superb.controls.{name}: the name of another model; choose a different one")
        for name in self.superb.models:
            if name not in (*REFERENCES, *self.students):
                raise ValueError(f"superb.models: {name!r} is not one of {', '.join((*REFERENCES, *self.students))}")
        return self

    @model_validator(mode="after")
    def _check_students(self) -> "Params":
        best = self.report.best_recipe
        if best is not None and best not in self.students:
            raise ValueError(f"report.best_recipe: {best!r} is not one of {', '.join(self.students)}")
        for name in self.students:
            self._check_change(f"students.{name}", name, {})
        for name, entry in self.ablation.items():
            if entry.of not in self.students:
                raise ValueError(f"ablation.{name}.of: {entry.of!r} is not one of {', '.join(self.students)}")
            for variant, changes in entry.variants.items():
                self._check_change(f"ablation.{name}.variants.{variant}", entry.of, changes)
        return self

    def _check_change(self, place: str, of: str, changes: Mapping[str, Any]) -> None:
        """Raise ValueError that names `place` if the student `of` with `changes` is none."""
        try:
            self.distill.for_student(self.students[of].changed(changes))
        except ValidationError as error:
            distill = error.title == DistillParams.__name__
            words = describe_error(error, DistillParams if distill else StudentParams)
            raise ValueError(f"{place}: {'distill.' if distill else ''}{words}") from None
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


#: The sections that have no defaults, for a stage that needs none of them.
_LEAST: dict[str, Any] = {"data": {"source": "synthetic"}, "students": {}, "superb": {"models": REFERENCES}}


def load_params(path: Path | str | None = "params.yaml", changes: Sequence[str] = ()) -> Params:
    """The checked parameters in `path`; None: only defaults, without students.

    `changes` are `section.key=value` with the value as YAML. They replace values of the file before the check. Raises
    UserError in one line that names the key and the valid keys.
    """
    values = deepcopy(_LEAST) if path is None else read_yaml(Path(path))
    for change in changes:
        _apply(values, change)
    return validate(Params, values, "the defaults" if path is None else str(Path(path)))


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *sections, last = key.split(".")
    for section in sections:
        # A section that the file leaves out gets its defaults; the check refuses a name that is none.
        values = values.setdefault(section, {}) if isinstance(values, dict) else None  # type: ignore[assignment]
    if not equals or not isinstance(values, dict):
        raise UserError(f"{change!r}: must be KEY=VALUE with a key of the parameters, for example distill.updates=500")
    values[last] = parse_yaml(text, repr(change))
