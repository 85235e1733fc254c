"""The exception for mistakes that a user can fix, and how a command ends when it is raised."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake in the input, with a message of one line: the file or parameter, and the fix.

    The command line prints the message and exits with 1; every other exception is a bug and keeps its traceback.
    """


@contextmanager
def exit_on_user_error(debug: bool = False) -> Iterator[None]:
    """Turn a UserError or a refusal of the system into one line on standard error and exit status 1.

    `debug` lets it through.
    """
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted; run the same command again to resume", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        refused = error if isinstance(error, UserError) else as_user_error(error)
        if debug or refused is None:
            raise
        print(f"error: {printable(str(refused))}", file=sys.stderr)
        raise SystemExit(1) from None


#: What to do about the commonest refusals.
_WAYS_OUT = {
    "ENOSPC": "the disk is full; free some space and run the command again",
    "EDQUOT": "the disk quota is used up; free some space and run the command again",
}


def as_user_error(error: BaseException, path: Path | None = None) -> UserError | None:
    """A refusal of the operating system (disk full, read-only, no permission ...) as a UserError; None for any other.

    `path` is named unless the error names its own file. torch and safetensors hide such errors in exceptions of their
    own.
    """
    number, named = _find_refusal(error)
    if number is None:
        return None
    name = errno.errorcode.get(number, "")
    reason = _WAYS_OUT.get(name) or f"{os.strerror(number)} ({name or number})"
    place = path or named
    return UserError(f"{place}: {reason}" if place else reason)


def _find_refusal(error: BaseException) -> tuple[int | None, object]:
    """The errno and the file that `error` is about, or None and None."""
    text = str(error)
    if isinstance(error, OSError):
        # A reader that closed a pipe early, as `head` does, is no mistake; Typer ends in silence.
        return (None, None) if isinstance(error, BrokenPipeError) else (error.errno, error.filename)
    if type(error).__name__ == "SafetensorError":
        # The words of Rust's standard library.
        written = re.search(r"\(os error (\d+)\)", text)
        return (int(written[1]), None) if written else (None, None)
    if isinstance(error, RuntimeError) and "inline_container" in text and isinstance(error.__context__, OSError):
        # torch.save to an open file.
        return error.__context__.errno, error.__context__.filename
    return None, None


def printable(text: str) -> str:
    """`text` in one line, with control characters as escapes: the name of a file may hold any of them."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def without_password(text: str) -> str:
    """`text` with the passwords and tokens in its addresses of servers and databases replaced by ***."""
    text = re.sub(r"(?<=://)([^\s/?#:@]*):[^\s/?#]*@", r"\1:***@", text)
    return _SECRETS.sub(r"\1***", text)


_SECRETS = re.compile(r"([?&;](?:\w*(?:password|passwd|pwd|token|secret|api_?key))=)[^\s&;#]*", re.IGNORECASE)
