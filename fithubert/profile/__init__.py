"""What a model costs: parameters, multiply-accumulates, latency, real-time factor, peak memory."""

from fithubert.profile.counts import PARTS, PartCost, analytic_macs, count_parts, time_parts
from fithubert.profile.run import ModelCost, Parameters, ProfileReport, Subject, profile_models

__all__ = [
    "PARTS",
    "ModelCost",
    "Parameters",
    "PartCost",
    "ProfileReport",
    "Subject",
    "analytic_macs",
    "count_parts",
    "profile_models",
    "time_parts",
]
