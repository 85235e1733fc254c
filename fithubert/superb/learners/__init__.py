"""One learner per kind of task."""
