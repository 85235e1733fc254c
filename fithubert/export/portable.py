"""A student with its own source in one folder: what runs where this package is not installed."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fithubert.export.record import describe_export
from fithubert.export.source import describe_shape, write_source
from fithubert.files import write_json
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field
from fithubert.student.readout import ReadOut


def write_portable(readout: ReadOut, folder: Path) -> dict[str, Any]:
    """Write `folder` with source/ (a Python package), model.safetensors and config.json; what config.json records.

    `sampling_rate` in Hz and `shortest`, the fewest samples that give a frame, are what a waveform has to keep to.
    """
    write_source(folder / "source")
    (folder / "source" / "__init__.py").touch()
    save_file(readout.student.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    shortest = receptive_field(readout.convolutions)[0]
    record = describe_export(readout) | {"sampling_rate": SAMPLE_RATE_HZ, "shortest": shortest}
    write_json(folder / "config.json", {**record, "student": describe_shape(readout.student)})
    return record
