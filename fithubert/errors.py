"""The exception for mistakes that a user can fix, and how a command ends when it is raised."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class UserError(Exception):
    """A mistake in the input, with a message of one line: the file or parameter, and the fix.

    The command line prints the message and exits with 1; every other exception is a bug and keeps its traceback.
    """


@contextmanager
def exit_on_user_error(debug: bool = False) -> Iterator[None]:
    """Turn a UserError or a full disk into one line on standard error and exit status 1; `debug` lets it through."""
    try:
        yield
    except (UserError, OSError) as error:
        if debug or not (isinstance(error, UserError) or error.errno == errno.ENOSPC):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted; run the same command again to resume", file=sys.stderr)
        raise SystemExit(130) from None


def without_password(address: str) -> str:
    """The address of a server or a database with its password replaced by ***."""
    parts = urlsplit(address)
    login, at, _ = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    return address.replace(f"{login}{at}", f"{user}:***{at}", 1) if colon else address
