"""The shapes and settings that a sweep searches, and their costs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from fithubert.config.base import describe_error, read_yaml, validate
from fithubert.config.params import DistillParams
from fithubert.config.search import SpaceParams, as_choice, from_choice
from fithubert.config.students import StudentConfig, StudentParams
from fithubert.config.teacher import HubertConfig
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ, count_stacked_frames
from fithubert.models.hubert import HubertTeacher
from fithubert.models.macs import PARTS, REFERENCE_SECONDS, count_macs
from fithubert.models.recipes import resolve
from fithubert.models.runtime import ReadOut
from fithubert.models.student import build_student
from fithubert.models.weights import count_parameters, released_counts
from fithubert.profile.costs import time_parts
from fithubert.profile.timing import paired_ratio, time_in_turn
from fithubert.workers import torch_threads

#: The value of every choice, by the name of its list in `SpaceParams`.
Choices = Mapping[str, Any]
#: Channels of the front end are multiples of this.
_CHANNELS = 4
#: Keys that `TrialBudget` decides, and those of a shape that the lists of `SpaceParams` decide.
_OF_THE_BUDGET = frozenset(f"distill.{name}" for name in ("updates", "dev_every_updates", "checkpoint_every_updates"))
_OF_THE_SHAPES = tuple(
    f"shape.{name}"
    for name in ("depth", "width", "ffn_width", "attention_heads", "conv_layers", "time_reduction", "readout")
)
#: Keys of `distill` that a student has of its own.
_OWN_KEYS = ("distill.learning_rate",)


def read_space(path: Path) -> SpaceParams:
    """The space in a YAML file with the keys of `sweep.space`. Raises UserError that names the wrong key."""
    return validate(SpaceParams, read_yaml(path), str(path))


def check_space(space: SpaceParams, of: StudentParams, teacher_depth: int, teacher_width: int) -> None:
    """Raise UserError if a choice of `space` cannot be built, or cannot start as the student `of` does.

    Values of other keys than shapes are checked one by one; trials leave out combinations that cannot be built.
    """
    for name, values in space.keys.items():
        if name in _OF_THE_BUDGET or (not space.own_shape and name.startswith(_OF_THE_SHAPES)):
            raise UserError(f"space.{name}: sweep.budget or a list of shapes decides it; leave it out")
        for value in values:
            try:
                build_choices(of, {name: value})
            except ValidationError as error:
                model = DistillParams if error.title == DistillParams.__name__ else StudentParams
                raise UserError(f"space.{name}: {describe_error(error, model)}") from None
            except (UserError, ValueError) as error:
                raise UserError(f"space.{name}: {error}") from None
    if space.own_shape:
        return
    groups = resolve(of.recipe, of.shape).pos_conv_groups
    for width in space.width:
        if width % groups:
            raise UserError(
                f"space.width: {width} is not a multiple of {groups}, the groups of the positional convolution; set "
                "shape.pos_conv_groups of the student that sweep.of names, or other widths"
            )
    if of.init in ("teacher_layers", "prune"):
        shape = "has its teacher's shape" if of.init == "teacher_layers" else "learns its shape"
        raise UserError(f"sweep: a student with init {of.init} {shape}; set sweep.of to another")
    if max(space.depth) > teacher_depth:
        raise UserError(f"space.depth: {max(space.depth)} is deeper than the teacher, {teacher_depth}")
    if of.init == "cut_teacher" and max(space.width) > teacher_width:
        raise UserError(f"space.width: {max(space.width)} is wider than the teacher, {teacher_width}; use init: random")


def build_choices(of: StudentParams, keys: Mapping[str, Any]) -> StudentParams:
    """The student `of` with values for dotted `keys`. Raises UserError or ValueError if there is no such student."""
    changes: dict[str, Any] = {}
    for name, value in keys.items():
        # The student's own rate and updates are keys of the student and would win.
        *sections, last = name.removeprefix("distill.").split(".") if name in _OWN_KEYS else name.split(".")
        section = changes
        for each in sections:
            section = section.setdefault(each, {})
            if not isinstance(section, dict):
                raise UserError(f"space.{name}: {each} is the value of another key")
        section[last] = from_choice(value)
    student = of.changed(changes)
    DistillParams().for_student(student)
    resolve(student.recipe, student.shape)
    return student


def make_student(of: StudentParams, choices: Choices, teacher_depth: int) -> StudentParams:
    """The student `of` with `choices` applied. If they have shapes, its heads predict evenly spaced teacher layers.

    Raises UserError or ValueError if keys of `choices` do not go together.
    """
    keys = {name: value for name, value in choices.items() if name not in SpaceParams.model_fields}
    if "depth" in choices:
        of = _make_shape(of, choices, teacher_depth)
    return build_choices(of, keys) if keys else of


def _make_shape(of: StudentParams, choices: Choices, teacher_depth: int) -> StudentParams:
    base, depth = resolve(of.recipe, of.shape), choices["depth"]
    kind = choices["time_reduction"]
    reduction: dict[str, Any] = {"kind": kind}
    positions = base.pos_conv_kernel * count_stacked_frames(base.time_reduction)
    if kind == "stack":
        # As much time as the kernel of `of`.
        reduction |= {"factor": choices["factor"]}
        positions = -(-positions // choices["factor"])
    elif kind != "none":
        reduction |= {"factor": choices["factor"], "before_layer": int(choices["position"] * depth)}
    shape = {
        **_front_end(base, choices["front_end"]),
        "pos_conv_kernel": positions,
        "depth": depth,
        "width": choices["width"],
        "ffn_width": choices["ffn_width"],
        "attention_heads": choices["attention_heads"],
        "head_width": None,
        "time_reduction": reduction,
        "readout": choices["readout"],
        "heads": {"layer_map": [[layer, round(layer * teacher_depth / depth)] for layer in range(1, depth + 1)]},
    }
    # A factor of `of` must not stay if the frame rate is not reduced.
    merged = of.model_copy(update={"shape": {k: v for k, v in of.shape.items() if k != "time_reduction"}})
    return merged.changed({"shape": shape})


def _front_end(base: StudentConfig, choice: float | str) -> dict[str, Any]:
    if choice == "mel":
        return {"frontend": "mel", "conv_layers": [], "feature_norm": base.frontend == "mel" and base.feature_norm}
    return {
        "conv_layers": [
            [max(_CHANNELS, round(channels * float(choice) / _CHANNELS) * _CHANNELS), kernel, stride]
            for channels, kernel, stride in base.conv_layers
        ]
    }


def find_choices(of: StudentParams, space: SpaceParams, distill: DistillParams | None = None) -> dict[str, Any] | None:
    """The choices that give the student `of` itself, or None if `space` does not contain it.

    `distill`: the settings that all students share; None: the defaults.
    """
    config = resolve(of.recipe, of.shape)
    own = {**of.model_dump(mode="json"), "shape": config.model_dump(mode="json")}
    own["distill"] = (distill or DistillParams()).for_student(of).model_dump(mode="json")
    keys = {name: as_choice(_look_up(own, name)) for name in space.keys}
    if any(value not in space.choices[name] for name, value in keys.items()):
        return None
    if space.own_shape:
        return keys
    reduction = config.time_reduction
    wanted: dict[str, Any] = {
        "depth": config.depth,
        "width": config.width,
        "ffn_width": config.ffn_width,
        "attention_heads": config.attention_heads,
        "front_end": "mel" if config.frontend == "mel" else 1.0,
        "time_reduction": reduction.kind,
        "factor": reduction.factor if reduction.kind != "none" else space.factor[0],
        "readout": config.readout,
    }
    # Without a place of its own, every position is the same shape.
    placed = reduction.kind not in ("none", "stack")
    layer = reduction.before_layer if placed else int(space.position[0] * config.depth)
    positions = [share for share in space.position if int(share * config.depth) == layer]
    if not positions or any(value not in getattr(space, name) for name, value in wanted.items()):
        return None
    return {**wanted, "position": positions[0], **keys}


def _look_up(values: Any, name: str) -> Any:
    """The value at a dotted name; an optional loss that is not named weighs nothing."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return 0.0 if values is None and name.startswith("hints.losses.") else values


@dataclass(frozen=True)
class Costs:
    """The costs of a student.

    `params`: trunk and read-out. `macs_per_second`: multiply-accumulates per second of audio, on 10 s.
    `latency_ratio`: the estimated latency, divided by the teacher's.
    """

    params: int
    macs_per_second: float
    latency_ratio: float


@dataclass(frozen=True)
class Speed:
    """The speed of this machine, measured on one utterance of 10 s.

    `macs_per_second`: part of a student -> multiply-accumulates per second of computation. `rest_seconds`: the time of
    a student outside all parts. `teacher_seconds`: the latency of the teacher.
    """

    macs_per_second: Mapping[str, float]
    rest_seconds: float
    teacher_seconds: float


@dataclass(frozen=True)
class Limits:
    """The highest permitted costs of a trial; None sets no limit."""

    params: int | None = None
    latency_ratio: float | None = None

    def exceeded_by(self, costs: Costs) -> bool:
        """Whether `costs` are above a limit."""
        limits = {name: limit for name, limit in asdict(self).items() if limit is not None}
        return any(getattr(costs, name) > limit for name, limit in limits.items())


def measure_speed(of: StudentParams, teacher: HubertTeacher, threads: int, rounds: int = 7) -> Speed:
    """The speed of this machine, from the student `of` (with random weights) and the teacher, timed in turn.

    A latency estimated from it assumes that every part of another shape runs as fast as the same part of `of`.
    """
    config = resolve(of.recipe, of.shape)
    student = ReadOut(build_student(config.released()), "reference")
    with torch_threads(threads):
        timings = time_in_turn({"student": student, "teacher": teacher}, (REFERENCE_SECONDS,), rounds)
        shares = time_parts(student, REFERENCE_SECONDS, rounds)
    ours, theirs = (timings[name][REFERENCE_SECONDS] for name in ("student", "teacher"))
    teacher_seconds = median(theirs)
    # Compared round by round, so that both had the same load on the machine.
    seconds = teacher_seconds * paired_ratio(ours, theirs).median
    macs = count_reference_macs(config)
    spent = {part: share * seconds for part, share in shares.items()}
    overall = sum(macs.values()) / seconds
    speeds = {p: macs[p] / spent[p] if macs[p] and spent[p] else overall for p in PARTS}
    rest = sum(spent[part] for part in PARTS if not macs[part])
    return Speed(speeds, rest, teacher_seconds)


def count_costs(student: StudentParams, speed: Speed) -> Costs:
    """The costs of `student`, counted from its shape; no model is built in memory."""
    config = resolve(student.recipe, student.shape)
    macs = count_reference_macs(config)
    seconds = speed.rest_seconds + sum(count / speed.macs_per_second[part] for part, count in macs.items())
    per_second = sum(macs.values()) / REFERENCE_SECONDS
    return Costs(released_counts(config).total, per_second, seconds / speed.teacher_seconds)


def describe_reference(name: str, choices: Choices | None, teacher: HubertTeacher) -> dict[str, Any]:
    """The student `name` with its own choices, and the costs of the teacher, as a study stores them."""
    params = count_parameters(teacher.model)
    macs = sum(count_reference_macs(teacher.model.config).values()) / REFERENCE_SECONDS
    return {"student": name, "choices": choices, "params": params, "macs_per_second": macs}


def count_reference_macs(config: HubertConfig | StudentConfig) -> dict[str, int]:
    """Part -> multiply-accumulates on one utterance of `REFERENCE_SECONDS`."""
    return count_macs(config, int(REFERENCE_SECONDS * SAMPLE_RATE_HZ))


def describe_student(student: StudentParams) -> dict[str, Any]:
    """A student as an entry of `params.students`, without default values."""
    return student.model_dump(mode="json", exclude_defaults=True)
