"""The file of a store's principal axes, beside its index: written once, by whichever worker is first."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.features.aside import locked_aside
from fithubert.features.axes import Basis, LayerBasis, to_bytes
from fithubert.features.schema import StoreInfo, basis_name, describe_difference, parse_info, store_metadata

_SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("width", pa.int32()),
        ("components", pa.int32()),
        ("step", pa.float32()),
        ("stored_share", pa.float64()),
        ("mean", pa.binary()),
        ("axes", pa.binary()),
    ]
)


def publish_basis(directory: Path, basis: Basis, info: StoreInfo) -> None:
    """Write the basis of a store unless there is one: of many workers, the first to finish decides for all.

    Two machines may fit axes that differ in the last bit, so whoever publishes reads back what is there and uses that.
    """
    rows = [
        {
            "layer": layer,
            "width": part.axes.shape[1],
            "components": part.components,
            "step": part.step,
            "stored_share": part.stored_share,
            "mean": to_bytes(part.mean),
            "axes": to_bytes(part.axes),
        }
        for layer, part in sorted(basis.layers.items())
    ]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata(store_metadata(info)))
    with locked_aside(directory / basis_name(info), replace=False) as file:
        pq.write_table(table, file, compression="none", write_page_checksum=True)


def read_basis(directory: Path, info: StoreInfo) -> Basis:
    """The basis of a store; raises OSError, ArrowException or ValueError where it is missing, damaged or another's."""
    table = pq.read_table(directory / basis_name(info), page_checksum_verification=True)
    difference = describe_difference(parse_info(table.schema.metadata), info)
    if difference is not None:
        raise ValueError(difference)
    layers = {}
    for row in table.to_pylist():
        shape = (row["components"], row["width"])
        mean, axes = _to_tensor(row["mean"]), _to_tensor(row["axes"])
        if len(mean) != shape[1] or len(axes) != shape[0] * shape[1]:
            raise ValueError(f"the axes of layer {row['layer']} are broken")
        layers[row["layer"]] = LayerBasis(mean, axes.view(shape), row["step"], row["stored_share"])
    if tuple((layer, part.axes.shape[1]) for layer, part in layers.items()) != tuple(
        zip(info.layers, info.widths, strict=True)
    ):
        raise ValueError("it is of other layers")
    return Basis(layers)


def _to_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32)
