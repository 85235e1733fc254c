"""The parameters and the paths of a workspace: the only place that names the folders of the stages' results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fithubert.config.params import Params, load_params
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.errors import UserError
from fithubert.models.recipes import resolve


@dataclass(frozen=True)
class Workspace:
    """The folders of one experiment below `root`, laid out as in dvc.yaml."""

    root: Path

    @property
    def data(self) -> Path:
        """The corpus: `manifests/corpus.parquet` and `audio/`."""
        return self.root / "data"

    @property
    def teacher(self) -> Path:
        """The teacher in its canonical form."""
        return self.root / "artifacts" / "teacher"

    @property
    def reports(self) -> Path:
        """The page and the summary; its `metrics` folder has one file per stage."""
        return self.root / "reports"

    def cache(self, split: str) -> Path:
        """The feature store of the teacher's hidden states of a split."""
        return self.data / "cache" / split

    def extracted(self, model: str) -> Path:
        """The feature store that SUPERB reads for a model."""
        return self.data / "extract" / model

    def student(self, name: str) -> Path:
        """The folder of a student."""
        return self.root / "artifacts" / "students" / name

    def finished_student(self, name: str) -> Path:
        """The folder of a finished student; raises UserError with the command that makes it if there is none."""
        folder = self.student(name)
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no finished student; run `fithubert distill {name}` first")
        return folder

    def list_students(self) -> list[str]:
        """The names of the finished students."""
        folders = (path.parent.name for path in self.student("").glob("*/config.json"))
        return sorted(name for name in folders if not name.startswith("."))

    def probe(self, model: str, task: str) -> Path:
        """The trained head of a task on a model's states."""
        return self.root / "artifacts" / "probes" / model / task

    def checkpoints(self, student: str) -> Path:
        """The checkpoints of a student in training. DVC does not know this folder, so a killed stage leaves it."""
        return self.root / "artifacts" / "checkpoints" / student

    def ablation(self, name: str) -> Path:
        """The trials of an ablation, one folder per variant and seed."""
        return self.root / "artifacts" / "ablation" / name

    def sweep(self, study: str) -> Path:
        """A study and its trials, one folder each."""
        return self.root / "artifacts" / "sweeps" / study

    def metrics(self, stage: str) -> Path:
        """The metrics file of a stage, named as in dvc.yaml (`distill@fithubert`)."""
        return self.root / metrics_file(stage)

    def resamples(self, model: str) -> Path:
        """The bootstrap values of a model's scores."""
        return self.reports / "resamples" / f"{model}.npz"

    def load_manifest(self) -> Manifest:
        """The corpus; raises UserError if it has not been prepared."""
        return load_manifest(manifest_path(self.data), self.data)


def metrics_file(stage: str) -> Path:
    """The metrics file of a stage relative to the workspace: `distill@x` -> reports/metrics/distill/x.json."""
    name, _, item = stage.partition("@")
    return Path("reports/metrics") / (f"{name}/{item}.json" if item else f"{name}.json")


def load_checked(path: Path | None = Path("params.yaml"), changes: Sequence[str] = ()) -> Params:
    """The parameters of `load_params(path, changes)`, and every shape in them resolved once.

    Raises UserError in one line, so that a wrong shape is found before the corpus is made and not after.
    """
    params = load_params(path, changes)
    shapes = {f"students.{name}": student for name, student in params.students.items()}
    for name, ablation in params.ablation.items():
        for variant, differences in ablation.variants.items():
            shapes[f"ablation.{name}.variants.{variant}"] = params.students[ablation.of].changed(differences)
    for place, student in shapes.items():
        try:
            resolve(student.recipe, student.shape)
        except UserError as error:
            raise UserError(f"{path}: {place}: {error}") from None
    return params


def check_name(name: str, known: tuple[str, ...] | list[str], what: str) -> None:
    """Raise UserError with all names of `known` if `name` is not one of them; `what` says what they name."""
    if not known:
        raise UserError(f"{what} {name!r}: params.yaml has no {what}")
    if name not in known:
        raise UserError(f"{what} {name!r}: not one of {', '.join(known)}")
