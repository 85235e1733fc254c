"""One name for every teacher: `load_teacher(spec)`."""

from collections.abc import Callable
from pathlib import Path

from fithubert.errors import UserError
from fithubert.speech_model import SpeechModel
from fithubert.teachers.checkpoint import read_teacher
from fithubert.teachers.fbank import FbankModel

#: Weights of the embedded teacher, committed with the package (see MODEL_CARD.md beside them).
MINI_DIRECTORY = Path(__file__).parent / "mini"

#: Teachers that have a name of their own.
NAMED: dict[str, Callable[[], SpeechModel]] = {
    "mini": lambda: read_teacher(MINI_DIRECTORY),
    "fbank": FbankModel,
}


def load_teacher(spec: str | Path) -> SpeechModel:
    """The frozen teacher that `spec` names: `mini`, `fbank`, or a directory written by `save_teacher`.

    Raises UserError with the list of names where there is none such.
    """
    if str(spec) in NAMED:
        return NAMED[str(spec)]()
    directory = Path(spec)
    if not directory.is_dir():
        raise UserError(f"teacher {str(spec)!r}: neither a directory nor one of {', '.join(sorted(NAMED))}")
    return read_teacher(directory)
