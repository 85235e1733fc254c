"""A student as an upstream that s3prl runs unmodified, in an environment of its own."""

import re
from pathlib import Path
from string import Template
from typing import Any

import torch

from fithubert.export.folder import (
    describe_export,
    describe_shape,
    describe_states,
    new_directory,
    read_template,
    write_source,
    write_templates,
)
from fithubert.files import write_json
from fithubert.models.runtime import ReadOut


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
            "states": describe_states(readout),
            "folder": out.resolve(),
            "launch": out.resolve() / "launch.py",
        }
        (aside / "README.md").write_text(
            Template(read_template("s3prl", "README.md")).substitute(words), encoding="utf-8"
        )
    return record
