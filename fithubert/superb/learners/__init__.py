"""The registry: task -> its learner. A task of one's own is a file in this folder and an entry here."""

from typing import Any

from fithubert.errors import UserError
from fithubert.superb.fit import Learner
from fithubert.superb.learners.diarisation import SD
from fithubert.superb.learners.pooled import ER, IC, KS, SID
from fithubert.superb.learners.recognition import ASR, PR, SF
from fithubert.superb.learners.search import QBE, QueryLearner
from fithubert.superb.learners.verification import ASV

#: Heads differ in type from task to task; within a task, the types are checked.
AnyLearner = Learner[Any] | QueryLearner
_ALL: tuple[AnyLearner, ...] = (PR, ASR, KS, QBE, SID, ASV, SD, ER, IC, SF)
LEARNERS = {learner.name: learner for learner in _ALL}


def find_learner(task: str) -> AnyLearner:
    """The learner of `task`. Raises UserError with the names of all tasks if there is none."""
    if task not in LEARNERS:
        raise UserError(f"superb task {task!r}: not one of {', '.join(LEARNERS)}")
    return LEARNERS[task]


def task_kind(task: str) -> str | None:
    """The kind of utterances that a task reads; None for one that reads several. Raises UserError for no task."""
    return getattr(find_learner(task), "kind", None)
