"""Weight files: safetensors with a digest of their contents, compared when they are read."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fithubert.errors import UserError
from fithubert.files import check_regular, digest

#: Its place in the header's metadata, which other readers of safetensors pass over.
_DIGEST = "fithubert.digest"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any shape by name."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key only: safetensors writes several in random order, and files of the same tensors must be the same bytes.
    save_file(held, path, metadata={_DIGEST: digest_tensors(held)})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises UserError if it is missing, broken, or damaged since `write_tensors` wrote it. Files of other writers have no
    digest to compare.
    """
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
            wanted = (file.metadata() or {}).get(_DIGEST)
    except (SafetensorError, OSError, ValueError) as error:
        reason = find_saved_instead(path) or f"not a readable safetensors file ({' '.join(str(error).split())})"
        raise UserError(f"{path}: {reason}") from None
    if wanted is not None and wanted != digest_tensors(tensors):
        raise UserError(f"{path}: damaged (its contents do not match its digest); make or copy it again")
    return tensors


def find_saved_instead(path: Path) -> str | None:
    """What a failed download left in place of weights, and the way out; None if it is neither of the usual things."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML), not the file itself; download it again, or by hand"
    return None


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and values; the order does not matter."""
    parts: list[str | bytes] = []
    for name, tensor in sorted(tensors.items()):
        parts += [name, f"{tensor.dtype} {tuple(tensor.shape)}", tensor.flatten().view(torch.uint8).numpy().tobytes()]
    return digest(*parts)
