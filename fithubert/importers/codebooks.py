"""Other people's k-means codebooks: the centres alone, read without executing anything in the file.

What is published: joblib files of scikit-learn's KMeans (textlesslib, fairseq's GSLM and HuBERT recipes: `km.bin`),
torch files with `cluster_centers_` (bshall's HuBERT for voice conversion), plain pickles, and arrays (`.npy`).
"""

import pickle
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.files import check_regular
from fithubert.importers.torch_files import Inert, read_torch_file

NumpyArray = np.ndarray[Any, np.dtype[Any]]
_CENTRES = "cluster_centers_"
#: The largest file that is read. 2,000 centres of 1,024 features take 16 MB.
_MAX_BYTES = 2**30
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")


def read_centres(path: Path) -> Tensor:
    """(clusters, feature) float32: the centres of a published codebook.

    Raises UserError in one line if the file is missing, too large, broken or compressed, if it holds objects other than
    arrays and scikit-learn's models, or no centres.
    """
    check_regular(path)
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path}: too large for a codebook (at most {_MAX_BYTES // 2**20} MiB)")
    if path.suffix in _TORCH_SUFFIXES:
        found: Any = read_torch_file(path).get(_CENTRES)
    else:
        try:
            with path.open("rb") as file:
                found = _read_numpy(file) if path.suffix == ".npy" else _read_pickle(file)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except Exception as error:  # a broken pickle or array fails in many ways
            raise UserError(f"{path}: not readable as a codebook ({type(error).__name__})") from None
    array = found.numpy() if isinstance(found, Tensor) else found
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != 2 or not array.size:
        raise UserError(f"{path}: holds no {_CENTRES} (clusters, feature) of floats")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: has centres that are not finite")
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _read_numpy(file: IO[bytes]) -> Any:
    return np.load(file, allow_pickle=False)


def _read_pickle(file: IO[bytes]) -> Any:
    start = file.read(2)
    file.seek(0)
    if not start.startswith(b"\x80"):
        raise UserError("neither a pickle nor an array; decompress a compressed file first")
    found = _Reader(file).load()
    if isinstance(found, Inert) and isinstance(found.state, dict):
        found = found.state
    found = found.get(_CENTRES) if isinstance(found, dict) else found
    return found.array if isinstance(found, _Array) else found


class _Type(Inert):
    """Replaces numpy's dtype."""

    def resolve(self) -> "np.dtype[Any]":
        """The type that it names, if it is one of numbers."""
        name = str(self.name)
        order: Any = self.state[1] if isinstance(self.state, tuple) else "="
        if name[:1] not in ("f", "i", "u", "b"):
            raise UserError(f"refused, nothing was run: it holds an array of objects ({name})")
        return np.dtype(name).newbyteorder(order)

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        # Inert forgets its arguments when it gets a state, and a dtype has both.
        self.name = args[0] if args else ""


class _Array(Inert):
    """Replaces an array that a plain pickle holds."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        self.array = np.frombuffer(data, kind.resolve()).reshape(shape, order="F" if by_columns else "C")


class _ArrayBehind(Inert):
    """Replaces joblib's note that the bytes of an array follow in the file."""

    def read(self, file: IO[bytes]) -> NumpyArray:
        """The array; leaves the file behind its last byte."""
        note = self.state
        if note.get("numpy_array_alignment_bytes") is not None:
            file.read(file.read(1)[0])
        kind, shape = note["dtype"].resolve(), tuple(note["shape"])
        size = kind.itemsize * prod(shape)
        data = file.read(size) if 0 <= size <= _MAX_BYTES else b""
        if len(data) != size:
            raise EOFError("the file ends inside an array")
        return np.frombuffer(data, kind).reshape(shape, order=note["order"])


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _ArrayBehind,
    ("numpy", "dtype"): _Type,
    ("multiarray", "_reconstruct"): _Array,
}
#: Objects of these packages lose their methods. No code of theirs runs.
_INERT = ("sklearn.", "numpy.", "joblib.")


#: Python's own reader in Python, as joblib uses it: the bytes of joblib's arrays lie between the opcodes.
_PythonReader: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_PythonReader):  # type: ignore[misc]
    """A pickle reader that imports nothing: numpy's arrays are rebuilt here, known objects are data, others refused."""

    dispatch = dict(_PythonReader.dispatch)

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._file = file

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """What stands for `module.name`."""
        place = "multiarray" if module.endswith(".multiarray") and module.startswith("numpy.") else module
        if (place, name) in _STAND_INS:
            return _STAND_INS[place, name]
        if f"{module}.".startswith(_INERT):
            return Inert
        raise UserError(f"refused, nothing was run: it holds pickled Python ({module}.{name})")

    def load_build(self) -> None:
        """As the reader's own; then the array behind the note, if it was one."""
        super().load_build()
        if isinstance(self.stack[-1], _ArrayBehind):
            self.stack[-1] = self.stack[-1].read(self._file)

    dispatch[pickle.BUILD[0]] = load_build
