"""Progress on standard error: one line that renews itself on a terminal, a line per tenth elsewhere (logs, DVC)."""

import sys
import time
from collections.abc import Callable
from typing import TextIO


def progress_line(label: str, stream: TextIO | None = None) -> Callable[..., None]:
    """A function to call with (done, total, note) as work goes on; ends its line when done reaches total."""
    out = stream or sys.stderr
    begun, shown = time.monotonic(), -1

    def show(done: float, total: float, note: str = "") -> None:
        nonlocal shown
        share = done / total if total else 1.0
        step = int(share * (1000 if out.isatty() else 10))
        if step <= shown:
            return
        shown = step
        spent = time.monotonic() - begun
        left = f", {spent / share * (1 - share):.0f} s left" if 0 < share < 1 else ""
        text = f"{label}: {share:4.0%} ({spent:.0f} s{left}){'  ' + note if note else ''}"
        if out.isatty():
            out.write(f"\r\x1b[K{text}" + ("\n" if share >= 1 else ""))
        else:
            out.write(text + "\n")
        out.flush()

    return show
