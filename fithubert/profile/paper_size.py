"""HuBERT Base and its students at full size with random weights: cost does not depend on training."""

from collections.abc import Callable

import torch

from fithubert.config.params import ProfileParams
from fithubert.config.teacher import hubert_base
from fithubert.profile.run import Parameters, ProfileReport, Subject, profile_models
from fithubert.student.model import build_student
from fithubert.student.readout import ReadOut
from fithubert.student.recipes import RECIPES
from fithubert.teachers.hubert import HubertModel, HubertTeacher, remove_weight_norm

#: The model that the others are compared with.
PAPER_REFERENCE = "hubert_base"
#: Recipes that are measured beside it.
PAPER_STUDENTS = ("fithubert", "fithubert_lite", "distilhubert")


def paper_size_subjects() -> dict[str, Subject]:
    """`hubert_base` and the recipes of `PAPER_STUDENTS` at full size, ready to be measured (about 0.7 GB)."""
    subjects = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subjects[PAPER_REFERENCE] = Subject(
            HubertTeacher(remove_weight_norm(HubertModel(hubert_base())), PAPER_REFERENCE)
        )
        for name in PAPER_STUDENTS:
            student = build_student(RECIPES[name]())
            counts = student.parameter_counts()
            parameters = Parameters(counts.trunk, counts.readout, counts.training_only)
            subjects[name] = Subject(ReadOut(student, name), parameters)
    return subjects


def profile_paper_size(settings: ProfileParams, on_round: Callable[[int, int], None] | None = None) -> ProfileReport:
    """The cost of full-size shapes against HuBERT Base, timed `settings.paper_rounds` times."""
    fewer = settings.model_copy(update={"rounds": settings.paper_rounds})
    return profile_models(paper_size_subjects(), fewer, PAPER_REFERENCE, on_round)
