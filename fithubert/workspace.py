"""Where everything lies in a workspace: the one place that knows the folders that stages hand on to each other."""

from dataclasses import dataclass
from pathlib import Path

from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.errors import UserError


@dataclass(frozen=True)
class Workspace:
    """The folders of one experiment below `root`, laid out as dvc.yaml says."""

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
        """The page, the summary, and below `metrics` one file per stage."""
        return self.root / "reports"

    def cache(self, split: str) -> Path:
        """The feature store of the teacher's hidden states of a split."""
        return self.data / "cache" / split

    def extracted(self, model: str) -> Path:
        """The feature store of what SUPERB reads from a model."""
        return self.data / "extract" / model

    def student(self, name: str) -> Path:
        """A finished student."""
        return self.root / "artifacts" / "students" / name

    def list_students(self) -> list[str]:
        """The names of the finished students."""
        return sorted(path.parent.name for path in self.student("").glob("*/config.json"))

    def checkpoints(self, student: str) -> Path:
        """A student in training: no output of any stage, so that it outlives a killed one."""
        return self.root / "artifacts" / "checkpoints" / student

    def ablation(self, name: str) -> Path:
        """The trials of an ablation, one folder per variant and seed."""
        return self.root / "artifacts" / "ablation" / name

    def sweep(self, study: str) -> Path:
        """The journal of a study and its trials, one folder each."""
        return self.root / "artifacts" / "sweeps" / study

    def metrics(self, stage: str) -> Path:
        """The metrics file of a stage, named as in dvc.yaml (`distill@fithubert`)."""
        return self.root / metrics_file(stage)

    def load_manifest(self) -> Manifest:
        """The corpus; raises UserError where it has not been prepared."""
        return load_manifest(manifest_path(self.data), self.data)


def metrics_file(stage: str) -> Path:
    """The metrics file of a stage relative to the workspace: `distill@x` -> reports/metrics/distill/x.json."""
    room, _, item = stage.partition("@")
    return Path("reports/metrics") / (f"{room}/{item}.json" if item else f"{room}.json")


def check_name(name: str, known: tuple[str, ...] | list[str], what: str) -> None:
    """Raise UserError with the list of names where `name` is not one of them."""
    if name not in known:
        raise UserError(f"{what} {name!r}: not one of {', '.join(known)}")
