"""A student as a folder that runs without this package: a model of transformers, or an upstream of s3prl."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fithubert.export.folder import (
    describe_export,
    describe_shape,
    new_directory,
    write_readme,
    write_source,
    write_templates,
)
from fithubert.files import write_json
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.runtime import ReadOut

_NO_SCORES = "None are known of these weights."


def export_huggingface(
    readout: ReadOut, out: Path, scores: Sequence[Mapping[str, Any]] = (), training: str = "", place: str = "DIR"
) -> dict[str, Any]:
    """Write `out` for `AutoModel.from_pretrained(out, trust_remote_code=True)` and return what is recorded.

    transformers takes code from the folder of a model, so the student's own source goes along and this package is not
    needed there. `scores` are rows for the model card, all with the same keys; `training` is a paragraph before
    them, and `place` the name by which its examples load the model. Raises UserError if `out` is not new or empty.
    """
    with new_directory(out) as aside:
        write_source(aside)
        write_templates("huggingface", aside)
        record = describe_export(readout)
        write_json(aside / "config.json", _config(readout, record))
        write_json(aside / "preprocessor_config.json", _preprocessor())
        weights = {f"student.{name}": tensor for name, tensor in readout.student.state_dict().items()}
        save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
        words = {
            **record,
            "place": place,
            "depth": readout.student.config.depth,
            "parameters": f"{sum(tensor.numel() for tensor in weights.values()):,}",
            "scores": training + (_score_table(scores) if scores else _NO_SCORES),
        }
        write_readme("huggingface", aside, readout, words)
    return record


def _config(readout: ReadOut, record: Mapping[str, Any]) -> dict[str, Any]:
    code = {
        "AutoConfig": "configuration_fithubert.FithubertConfig",
        "AutoModel": "modeling_fithubert.FithubertModel",
    }
    return {
        "architectures": ["FithubertModel"],
        "auto_map": code,
        "model_type": "fithubert_student",
        "readout": record["readout"],
        "student": describe_shape(readout.student),
        "torch_dtype": "float32",
        "fithubert": {key: record[key] for key in ("name", "fingerprint", "fithubert")},
    }


def _preprocessor() -> dict[str, Any]:
    """Padding and an attention mask, and nothing else: a student reads waveforms as they are."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE_HZ,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": False,
        "return_attention_mask": True,
    }


def _score_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(str(row[key]) for key in head)} |" for row in rows])


def export_s3prl(readout: ReadOut, out: Path) -> dict[str, Any]:
    """Write `out` with expert.py, hubconf.py, launch.py, weights, configuration and README; what is recorded.

    s3prl users are often bound to an old torch, so nothing of this package is needed there: the student's source goes
    along. `hidden_states` is what the read-out reads. Raises UserError if `out` is not new or empty.
    """
    upstream = "student_" + re.sub(r"\W", "_", readout.name)
    with new_directory(out) as aside:
        write_source(aside / "fithubert_student")
        write_templates("s3prl", aside, {"student_upstream": upstream})
        record = describe_export(readout)
        write_json(aside / "config.json", {**record, "upstream": upstream, "student": describe_shape(readout.student)})
        # Into an open file, so that a full disk is an error with a number.
        with (aside / "model.pt").open("wb") as file:
            torch.save(readout.student.state_dict(), file)
        (aside / "requirements.txt").write_text("torch>=2.3\n", encoding="utf-8")
        words = {
            **record,
            "version": record["fithubert"],
            "upstream": upstream,
            "folder": out.resolve(),
            "launch": out.resolve() / "launch.py",
        }
        write_readme("s3prl", aside, readout, words)
    return record
