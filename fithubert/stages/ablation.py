"""The stage `ablation`: variants of one student, compared with the noise of their seeds."""

from functools import partial

from fithubert.config.params import Params
from fithubert.distill.targets import open_targets
from fithubert.models.weights import read_teacher
from fithubert.records import AblationMetrics
from fithubert.search.ablation import run_ablation
from fithubert.search.trial import TrialData
from fithubert.stages import tracked_stage
from fithubert.workspace import Workspace, check_name


def ablation(params: Params, workspace: Workspace, name: str) -> AblationMetrics:
    """Run the missing trials of the ablation `name`, compare its variants and write the metrics.

    Raises UserError for an unknown ablation and, after all other trials have run, for a failed trial.
    """
    check_name(name, list(params.ablation), "ablation")
    # A missing input is found before the run begins.
    teacher = read_teacher(workspace.teacher)
    with tracked_stage(params, workspace, "ablation", name):
        open_data = partial(open_trial_data, params, workspace)
        metrics = run_ablation(name, params, teacher, open_data, workspace.ablation(name))
        metrics.write(workspace.metrics(f"ablation@{name}"))
    return metrics


def open_trial_data(params: Params, workspace: Workspace) -> TrialData:
    """The corpus, the teacher and its targets. Raises UserError if one of them has not been made."""
    training = open_targets(workspace, params.distill.targets, params.cache, params.teacher.precision)
    return TrialData(workspace.load_manifest(), training)
