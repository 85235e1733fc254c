"""The principal axes of a store's layers, along which `pca_int8` codes."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fithubert.files import digest


@dataclass(frozen=True, eq=False)
class LayerBasis:
    """One layer's origin `mean` (feature,) and leading axes `axes` (component, feature), orthonormal, float32.

    `step`: the finest quantiser step of any component. `stored_share`: how much of a value is left on disk once its
    page is compressed, as measured on the sample that the axes were fitted on.
    """

    mean: Tensor
    axes: Tensor
    step: float
    stored_share: float

    @property
    def components(self) -> int:
        """How many axes are kept."""
        return len(self.axes)


@dataclass(frozen=True, eq=False)
class Basis:
    """The LayerBasis of every layer of a store."""

    layers: dict[int, LayerBasis]

    @cached_property
    def digest(self) -> str:
        """A hex digest of all that decoding depends on."""
        parts: list[bytes | str] = []
        for layer, basis in sorted(self.layers.items()):
            parts += [str(layer), str(basis.step), to_bytes(basis.mean), to_bytes(basis.axes)]
        return digest(*parts)


def to_bytes(tensor: Tensor) -> bytes:
    """The numbers of `tensor`, on the CPU, as little-endian float32."""
    return tensor.numpy().astype("<f4").tobytes()
