"""Downloads that are whole or absent, and resume."""

import http
import http.client
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from fithubert.errors import UserError
from fithubert.files import digest_file

_CHUNK_BYTES = 2**20
_TIMEOUT_SECONDS = 30.0
_REPORT_SECONDS = 1.0


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Write the file at `url` to `path`; an interrupted download resumes from `path`.partial.

    The file gets its name only when it is as long as the server announced and, if `sha256` is given, has that digest.
    Progress goes to standard error. Raises UserError naming `url`; received bytes are kept for the next call, unless
    the digest is wrong.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, partial, path.name)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url}: cannot be downloaded ({str(error).strip('<>')})") from None
    if sha256 is not None and digest_file(partial) != sha256:
        partial.unlink()
        raise UserError(f"{url}: the downloaded file has the wrong SHA-256 and was deleted; try again")
    partial.replace(path)


def _fetch(url: str, partial: Path, name: str) -> None:
    """Append to `partial` the bytes of `url` that it lacks; raises OSError if the connection ends too early."""
    begun = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if begun and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # The file is already complete.
        raise
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        done = begun if resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        reported = time.monotonic()
        with partial.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - reported > _REPORT_SECONDS:
                    reported = time.monotonic()
                    share = "" if total is None else f" of {total / 1e6:.0f} MB, {done / total:.0%}"
                    print(f"{name}: {done / 1e6:.0f} MB{share}", file=sys.stderr, flush=True)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes; the same command resumes there")
