"""HuBERT Base and its published students at full size with random weights: cost does not depend on training."""

from collections.abc import Callable

import torch

from fithubert.config.params import ProfileParams
from fithubert.config.teacher import hubert_base
from fithubert.profile.run import Parameters, ProfileReport, Subject, profile_models
from fithubert.student.model import build_student
from fithubert.student.readout import ReadOut
from fithubert.student.recipes import distilhubert, fithubert
from fithubert.teachers.hubert import HubertModel, HubertTeacher, remove_weight_norm

#: The model that the others are compared with.
PAPER_REFERENCE = "hubert_base"


def paper_size_subjects() -> dict[str, Subject]:
    """`hubert_base`, `fithubert` and `distilhubert` as published, ready to be measured (about 0.6 GB)."""
    subjects = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        subjects[PAPER_REFERENCE] = Subject(
            HubertTeacher(remove_weight_norm(HubertModel(hubert_base())), PAPER_REFERENCE)
        )
        for name, recipe in (("fithubert", fithubert), ("distilhubert", distilhubert)):
            student = build_student(recipe())
            counts = student.parameter_counts()
            parameters = Parameters(counts.trunk, counts.readout, counts.training_only)
            subjects[name] = Subject(ReadOut(student, name), parameters)
    return subjects


def profile_paper_size(settings: ProfileParams, on_round: Callable[[int, int], None] | None = None) -> ProfileReport:
    """The cost of the published shapes against HuBERT Base, timed `settings.paper_rounds` times."""
    fewer = settings.model_copy(update={"rounds": settings.paper_rounds})
    return profile_models(paper_size_subjects(), fewer, PAPER_REFERENCE, on_round)
