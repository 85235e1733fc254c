"""A written model as a repository of the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from fithubert.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REFUSALS = {
    401: "the hub refuses the token; run `hf auth login` again, or set HF_TOKEN to a valid one",
    403: "the token may not write there; use one with write access, or another owner",
}


def open_hub(name: str) -> "HfApi":
    """The hub's client, after a check that `name` can name a repository and that the hub knows the stored token.

    Raises UserError otherwise, so that a long job fails before it begins.
    """
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise UserError("--hub-name: needs pip install 'fithubert[hub]'") from None
    try:
        validate_repo_id(name)
    except ValueError:
        name_is_one = False
    else:
        name_is_one = name.count("/") == 1
    if not name_is_one:
        raise UserError(f"--hub-name {name}: must be OWNER/NAME, of letters, digits, `-`, `_` and `.`")
    if get_token() is None:
        raise UserError(f"--hub-name {name}: no token is stored; run `hf auth login`, or set HF_TOKEN")
    api = HfApi(library_name="fithubert")
    with _one_line(name):
        api.whoami()
    return api


def push_folder(api: "HfApi", name: str, folder: Path) -> str:
    """Upload the files of `folder` in one commit to the repository `name` and return its address.

    A new repository is private; an existing one keeps its visibility and its other files. Unchanged files are not sent
    again. Raises UserError if the hub refuses; `folder` stays as it is.
    """
    with _one_line(name, f"; {folder} is complete, and `hf upload {name} {folder}` sends it later"):
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="A student made with fithubert")
    return str(address)


@contextmanager
def _one_line(name: str, ending: str = "") -> Iterator[None]:
    """A block in which any failure becomes a UserError without the token."""
    try:
        yield
    # The hub's client and its transport raise many kinds.
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        words = shorten(str(error), 120, placeholder=" ...") or type(error).__name__
        if status is None:
            reason = f"the hub cannot be reached ({words})"
        else:
            reason = _REFUSALS.get(status, f"the hub answers {status} ({words})")
        raise UserError(f"--hub-name {name}: {reason}{ending}") from None
