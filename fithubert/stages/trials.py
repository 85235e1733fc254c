"""What trials share, opened from a workspace."""

from fithubert.config.params import Params
from fithubert.stages.distill import open_targets
from fithubert.stages.workspace import Workspace
from fithubert.teachers.checkpoint import read_teacher
from fithubert.teachers.execution import set_precision
from fithubert.trials.trial import TrialData


def open_trial_data(params: Params, workspace: Workspace) -> TrialData:
    """Corpus, teacher and its targets as `params` says; raises UserError where one has not been made."""
    teacher = set_precision(read_teacher(workspace.teacher), params.teacher.precision)
    train, dev = (open_targets(params, workspace, teacher, split) for split in ("train", "dev"))
    return TrialData(workspace.load_manifest(), teacher, train, dev)
