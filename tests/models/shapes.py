"""Tiny students of every kind."""

from typing import Any

import torch

from fithubert.config.students import StudentConfig
from fithubert.models.recipes import resolve
from fithubert.models.student import Student, build_student

TINY: dict[str, Any] = {
    "conv_layers": [[8, 10, 5], [12, 1, 1], [12, 3, 2], [12, 3, 2], [12, 3, 2], [12, 3, 2], [16, 2, 2], [16, 2, 2]],
    "width": 32,
    "depth": 3,
    "ffn_width": 40,
    "attention_heads": 4,
    "pos_conv_kernel": 16,
    "pos_conv_groups": 4,
    "heads": {"teacher_width": 24},
}
#: Two layers of different sizes, as pruning leaves them, in a width that no number of heads divides.
PRUNED: dict[str, Any] = {
    "width": 28,
    "depth": 2,
    "ffn_width": [30, 7],
    "attention_heads": [3, 1],
    "head_width": 5,
}


def tiny(recipe: str = "fithubert", **changes: Any) -> StudentConfig:
    """A recipe's shape, very small; `changes` replace fields, `heads` is merged."""
    heads = {**TINY["heads"], **changes.pop("heads", {})}
    sizes = TINY if resolve(recipe).conv_layers else {**TINY, "conv_layers": []}
    return resolve(recipe, {**sizes, **changes, "heads": heads})


def strong(config: StudentConfig, seed: int = 0) -> Student:
    """A student in evaluation mode with weights large enough that a missed term shows."""
    torch.manual_seed(seed)
    student = build_student(config)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return student.eval()
