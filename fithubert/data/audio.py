"""What libsndfile needs to be told, and what it says, about audio files."""

import os
import re
from pathlib import Path


def name_for_soundfile(path: Path | str) -> str | bytes:
    """`path` as soundfile takes it, also where it is not valid UTF-8."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def why_unreadable(error: Exception) -> str:
    """The reason in a soundfile error, in one line and without the path, which the caller names."""
    return " ".join(re.sub(r"Error opening .*: ", "", str(error)).split())
