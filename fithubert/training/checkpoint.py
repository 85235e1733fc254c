"""Training checkpoints: complete or absent, the last few kept, and those of another configuration refused."""

import re
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from fithubert.errors import UserError
from fithubert.files import check_regular, only_writer, open_atomically, remove_leftovers

#: Raised when the contents or the meaning of a checkpoint change.
FORMAT = 2
_NAME = re.compile(r"update-(\d{8})\.pt")
#: Tensors, numbers and strings by name, as `torch.save` writes them.
Contents = dict[str, Any]


def write_checkpoint(path: Path, contents: Mapping[str, Any]) -> None:
    """Write `contents` to `path`, completely or not at all."""
    # Into an open file, so that a full disk is an error with a number.
    with open_atomically(path) as file:
        torch.save(dict(contents), file)


def read_checkpoint(path: Path) -> Contents:
    """The contents of the checkpoint `path`, on the CPU. Raises UserError if it is not readable or damaged."""
    check_regular(path)
    try:
        # torch does not compare the checksums that its zip files hold.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: not readable as a checkpoint ({reason}); delete it to resume from an earlier one"
        ) from None


class CheckpointFolder:
    """The checkpoints of one training, each named by its update.

    `identity` is a flat mapping of everything that decides the numbers; a checkpoint with another one is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.identity = {"format": FORMAT, **identity}

    def save(self, update: int, contents: Mapping[str, Any]) -> Path:
        """Write the checkpoint of `update`, then delete all but the last `keep`; its path."""
        path = self.folder / f"update-{update:08d}.pt"
        write_checkpoint(path, {**contents, "identity": self.identity})
        for old in self._paths()[: -self.keep]:
            old.unlink()
        return path

    def only_writer(self) -> AbstractContextManager[None]:
        """A block in which no other process trains with this folder; a second one gets a UserError."""
        return only_writer(self.folder, "the same training")

    def holds_one(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(self._paths())

    def find_latest(self) -> Path | None:
        """The path of the newest checkpoint, or None if there is no checkpoint; deletes what a killed writer left."""
        remove_leftovers(self.folder)
        paths = self._paths()
        return paths[-1] if paths else None

    def load(self, path: Path) -> Contents:
        """The contents of the checkpoint at `path`.

        Raises UserError if it cannot be read or belongs to another configuration, naming the differences.
        """
        contents = read_checkpoint(path)
        self._check(contents.pop("identity", {}))
        return contents

    def remove(self) -> None:
        """Delete the folder: the training is finished, and a later run must start from scratch."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("update-*.pt") if _NAME.fullmatch(path.name))

    def _check(self, saved: Mapping[str, Any]) -> None:
        differing = []
        for name in {**self.identity, **saved}:
            there, now = saved.get(name), self.identity.get(name)
            if there != now:
                differing.append(f"{name} {_shorten(there)} there, {_shorten(now)} now")
        if not differing:
            return
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UserError(
            f"{self.folder}: holds an unfinished training with another configuration "
            f"({'; '.join(differing[:3])}{more}); restore it to resume, or delete the folder to start from scratch"
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; tuples become lists, as in JSON."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten({str(k): v for k, v in value.items()}, f"{key}."))
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
