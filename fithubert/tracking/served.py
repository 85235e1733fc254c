"""A student as an MLflow model: it reads utterances and returns the last state of its read-out.

MLflow copies this file into the model and executes it there (models from code), so it imports nothing of this package:
the student's own source is stored next to its weights (`fithubert.export.folder`). Nothing is pickled.
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.torch import load_file


class ServedStudent(PythonModel):
    """Rows of `waveform` (samples in [-1, 1]) and `sampling_rate` (Hz) to rows of `features` and `frames`.

    `features`: (frames, feature) float32, the last state that the student's read-out names. Each row is run alone, so
    memory is bounded by the longest and no row depends on the others.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Build the student from its own source and fill it with its weights."""
        folder = Path(context.artifacts["student"])
        self.record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        package = f"student_{self.record['fingerprint']}_{self.record['fithubert'].replace('.', '_')}"
        _find_package(folder / "source", package)
        self.student = importlib.import_module(f"{package}.build").build_student(self.record["student"])
        self.student.load_state_dict(load_file(folder / "model.safetensors"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each of `model_input`; raises MlflowException naming the first row that cannot be read."""
        if not len(model_input):
            raise MlflowException.invalid_parameter_value("the input has no rows; give one for each utterance")
        rows = zip(model_input["waveform"], model_input["sampling_rate"], strict=True)
        waveforms = [self._check(place, *row) for place, row in enumerate(rows)]
        with torch.inference_mode():
            features = [self.student.read([waveform])[0][-1][0].numpy() for waveform in waveforms]
        return pd.DataFrame({"features": features, "frames": [len(states) for states in features]})

    def _check(self, place: int, waveform: Any, rate: Any) -> torch.Tensor:
        """The waveform of row `place` as the student takes it."""
        samples, wanted = np.asarray(waveform, dtype=np.float32), self.record["sampling_rate"]
        if rate != wanted:
            wrong = f"has a sampling_rate of {rate} Hz, but this student needs {wanted} Hz; resample it first"
        elif not samples.size:
            wrong = "is empty"
        elif samples.size < self.record["shortest"]:
            wrong = f"has {samples.size} samples; at least {self.record['shortest']} are needed for one frame"
        elif not np.isfinite(samples).all():
            wrong = "holds values that are not finite"
        else:
            return torch.from_numpy(samples)
        raise MlflowException.invalid_parameter_value(f"utterance {place} (the first is 0) {wrong}")


def _find_package(folder: Path, name: str) -> None:
    """Make the modules in `folder` importable as `name`, so that one process can load several models."""
    if name in sys.modules:  # The same student was loaded before.
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)


set_model(ServedStudent())
