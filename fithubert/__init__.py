"""Thin, deep, fast students of HuBERT: distillation, time reduction, and honest evaluation."""

from importlib import import_module
from typing import Any

#: Public name -> the module that holds it. Loaded on first use, so that `import fithubert` stays quick.
_PUBLIC = {
    "build_student": "fithubert.models.student",
    "load_features": "fithubert.store.table",
    "load_probe": "fithubert.probes",
    "load_student": "fithubert.models.weights",
    "load_teacher": "fithubert.importers",
    "stream": "fithubert.models.windows",
    "train_student": "fithubert.distill",
}

__all__ = ["build_student", "load_features", "load_probe", "load_student", "load_teacher", "stream", "train_student"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'fithubert' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
