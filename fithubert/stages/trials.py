"""The data that all trials share."""

from fithubert.config.params import Params
from fithubert.search.trial import TrialData
from fithubert.stages.distill import open_targets
from fithubert.workspace import Workspace


def open_trial_data(params: Params, workspace: Workspace) -> TrialData:
    """The corpus, the teacher and its targets. Raises UserError if one of them has not been made."""
    data = open_targets(params, workspace)
    assert data.teacher is not None  # open_targets reads one
    return TrialData(workspace.load_manifest(), data.teacher, data.train, data.dev)
