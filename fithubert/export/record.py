"""What every export has in common: where it may be written, and what it says of itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fithubert import __version__
from fithubert.errors import UserError
from fithubert.files import atomic_directory
from fithubert.frames import receptive_field
from fithubert.student.readout import ReadOut


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory beside `path` that takes its place at the end; raises UserError where `path` holds something."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: is there already and is not an empty folder; name another one with --out")
    with atomic_directory(path) as aside:
        yield aside


def describe_export(readout: ReadOut) -> dict[str, Any]:
    """Which student this is, of which version, and what is read from it."""
    return {
        "name": readout.name,
        "fingerprint": readout.fingerprint,
        "fithubert": __version__,
        "readout": readout.student.config.readout,
        "layers": len(readout.widths),
        "width": readout.widths[-1],
        "downsample_rate": receptive_field(readout.convolutions)[1],
    }


def describe_states(readout: ReadOut) -> str:
    """What is read from the student, in words."""
    count, width = len(readout.widths), readout.widths[-1]
    return {
        "last": f"one state, the projection of the last head, {width} wide",
        "layers": f"{count} states, layers 0 to {count - 1} of the student, {width} wide",
        "projections": f"{count} states, the projections of all heads, {width} wide",
    }[readout.student.config.readout]
