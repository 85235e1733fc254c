"""params.yaml as typed models: one section per stage, named like the stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from fithubert.config.base import StrictModel, read_yaml, validate
from fithubert.config.corpora import PublishedCorpus
from fithubert.config.distill import DistillParams, StudentParams
from fithubert.config.quirks import OfficialQuirks
from fithubert.config.sweep import SweepParams
from fithubert.config.trials import TaskBudget, TrialBudget, mini_budgets
from fithubert.errors import UserError

#: Where and how a teacher is run; weights stay float32 whatever it computes in.
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "float16", "bfloat16"]
Runtime = Literal["torch", "compile", "onnx"]
#: How hidden states are stored (fithubert.features.codec).
Codec = Literal["float16", "int8", "pca_int8", "float32"]


class SyntheticData(StrictModel):
    """The embedded corpus: formant speech, synthesised on first use, with every label exact."""

    source: Literal["synthetic"] = "synthetic"
    #: `pretraining` has other sentences and other voices than `default`, whatever the seeds, and no labels of tasks.
    world: Literal["default", "pretraining"] = "default"
    hours: float = Field(1.0, gt=0, le=100)
    speakers: int = Field(48, ge=4, le=500)
    #: More speakers, who appear only in the verification split.
    heldout_speakers: int = Field(8, ge=2, le=500)
    seed: int = Field(1, ge=0)


class FolderData(StrictModel):
    """Any directory of recordings. `transcripts`: a file of `path<TAB>text` lines, or none."""

    source: Literal["folder"] = "folder"
    #: `???` is how a Hydra preset says that the value is still to be given.
    path: Path
    transcripts: Path | None = None
    dev_share: float = Field(0.1, gt=0, lt=0.5)
    test_share: float = Field(0.1, gt=0, lt=0.5)
    seed: int = Field(1, ge=0)

    @field_validator("path")
    @classmethod
    def _check_path(cls, path: Path) -> Path:
        if str(path) == "???":
            raise ValueError("name the folder of recordings, for example `dvc exp run -S data=folder -S data.path=DIR`")
        return path


class TeacherParams(StrictModel):
    """`source`: any spec that `load_teacher` understands; `mini` is the embedded teacher. The rest: how it is run."""

    source: str = "mini"
    #: auto: a GPU where there is one.
    device: Device = "auto"
    #: Halves are for GPUs; what they say differs a little, and so does the fingerprint of what is cached.
    precision: Precision = "float32"
    #: `compile` is torch.compile; `onnx` is ONNX Runtime, the fastest on a CPU.
    runtime: Runtime = "torch"
    #: Sentences of train (and a third as many of dev) on which every layer is probed for phones; 0 probes nothing.
    probe_utterances: int = Field(240, ge=0)


class CacheParams(StrictModel):
    """The feature store of the teacher's hidden states."""

    codec: Codec = "int8"
    #: What `pca_int8` keeps of every layer's variance: the relative error is the root of the rest, 0.9999 is 1 %.
    variance_share: float = Field(0.9999, gt=0, lt=1)
    layers: Literal["all"] | tuple[int, ...] = "all"
    shard_minutes: float = Field(5.0, gt=0)
    #: Padded audio in one forward pass of the extraction.
    batch_seconds: float = Field(120.0, gt=0)


class FeatureParams(StrictModel):
    """The feature store of each evaluated model: what SUPERB reads instead of running the model."""

    codec: Codec = "int8"
    #: As in `cache`.
    variance_share: float = Field(0.9999, gt=0, lt=1)
    shard_minutes: float = Field(5.0, gt=0)
    batch_seconds: float = Field(120.0, gt=0)


class ProfileParams(StrictModel):
    """Cost measurements: every model is timed in turn, `rounds` times, in one process."""

    #: Lengths of the utterances that are timed. Ratios and the real-time factor are taken at 10 s where it is listed.
    seconds: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0, 5.0, 10.0, 20.0), min_length=1)
    rounds: int = Field(10, gt=0)
    threads: int = Field(2, gt=0)
    #: Also HuBERT Base, FitHuBERT and DistilHuBERT at full size with random weights, in fewer rounds.
    paper_size: bool = True
    paper_rounds: int = Field(3, gt=0)


class SuperbParams(StrictModel):
    """Evaluation with frozen features: which models, by which protocol, and each task's budget."""

    models: tuple[str, ...]
    #: `mini`: official heads and small budgets. `official`: s3prl's recipes with their `quirks`; a result says in what
    #: it departs from them (experiments/presets/superb/official.yaml departs in nothing).
    protocol: Literal["mini", "official"] = "mini"
    quirks: OfficialQuirks = OfficialQuirks()
    tasks: dict[str, TaskBudget] = Field(default_factory=mini_budgets)
    seeds: tuple[int, ...] = Field((1,), min_length=1)
    #: Where heads are trained; auto: a GPU where there is one.
    device: Device = "auto"
    #: Frozen features that a task holds in memory, as float16, the smallest splits first; the others are streamed from
    #: the feature store with a thread that reads ahead. Results are the same.
    memory_gb: float = Field(8.0, ge=0)


class AblationParams(StrictModel):
    """One question asked of a student: `variants` of the student `of`, all trained for the same budget.

    A variant is what differs from `of`: fields of `students.NAME`, sections merged key by key; {} is `of` itself.
    """

    of: str
    variants: dict[str, dict[str, Any]] = Field(min_length=2)
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    budget: TrialBudget = TrialBudget()
    #: Trials at once, each on one thread; what they come to does not depend on it.
    workers: int = Field(2, gt=0)


class ReportParams(StrictModel):
    """The HTML page."""

    title: str = "fithubert"


DataParams = SyntheticData | FolderData | PublishedCorpus


class Params(StrictModel):
    """The whole of params.yaml."""

    data: Annotated[DataParams, Field(discriminator="source")]
    teacher: TeacherParams = TeacherParams()
    cache: CacheParams = CacheParams()
    distill: DistillParams = DistillParams()
    students: dict[str, StudentParams]
    features: FeatureParams = FeatureParams()
    profile: ProfileParams = ProfileParams()
    superb: SuperbParams
    ablations: dict[str, AblationParams] = {}
    sweep: SweepParams = SweepParams()
    report: ReportParams = ReportParams()

    @model_validator(mode="after")
    def _check_ablations(self) -> "Params":
        for name, ablation in self.ablations.items():
            if ablation.of not in self.students:
                raise ValueError(f"ablations.{name}.of: {ablation.of!r} is not one of {', '.join(self.students)}")
            for variant, changes in ablation.variants.items():
                try:
                    self.students[ablation.of].changed(changes)
                except ValueError as error:
                    raise ValueError(f"ablations.{name}.variants.{variant}: {error}") from None
        return self


def load_params(path: Path | str = "params.yaml", changes: Sequence[str] = ()) -> Params:
    """The checked parameters in `path`; raises UserError in one line naming the key and the valid ones.

    `changes` are `section.key=value` with the value as YAML; they replace what the file says before it is checked.
    """
    path = Path(path)
    values = read_yaml(path)
    for change in changes:
        _apply(values, change)
    return validate(Params, values, str(path))


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *sections, last = key.split(".")
    for section in sections:
        values = values.get(section) if isinstance(values, dict) else None  # type: ignore[assignment]
    if not equals or not isinstance(values, dict):
        raise UserError(f"{change!r}: must be KEY=VALUE with a key of the parameters, as distill.updates=500")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{change!r}: the value is not readable as YAML") from None
