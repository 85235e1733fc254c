"""Columns of encoded hidden states in memory, up to a limit."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor


@dataclass(frozen=True)
class BinaryColumn:
    """One binary column of one row group: row i is `data[offsets[i] : offsets[i + 1]]`, (bytes,) uint8."""

    data: Tensor
    offsets: tuple[int, ...]

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> "BinaryColumn":
        """A copy of `column`, so that Arrow's own memory can be freed."""
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        _, offset_buffer, values = array.buffers()
        places = torch.frombuffer(bytearray(offset_buffer), dtype=torch.int32)
        offsets = places[array.offset : array.offset + len(array) + 1]
        begin, end = int(offsets[0]), int(offsets[-1])
        # Arrow's buffers may be longer than their content.
        data = torch.frombuffer(bytearray(memoryview(values)[begin:end]), dtype=torch.uint8)
        return cls(data, tuple((offsets - begin).tolist()))

    def row(self, index: int) -> Tensor:
        """(bytes,) uint8, a view."""
        return self.data[self.offsets[index] : self.offsets[index + 1]]


class ColumnCache:
    """Columns of row groups, the least recently used dropped first.

    `limit_bytes` bounds their size, unless a single column is larger.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.num_bytes = 0
        self._columns: OrderedDict[tuple[int, int, str], BinaryColumn] = OrderedDict()

    def find(self, shard: int, row_group: int, names: Sequence[str]) -> dict[str, BinaryColumn]:
        """The named columns of a row group, as far as they are in memory."""
        found = {}
        for name in names:
            column = self._columns.get((shard, row_group, name))
            if column is not None:
                self._columns.move_to_end((shard, row_group, name))
                found[name] = column
        return found

    def add(self, shard: int, row_group: int, columns: dict[str, BinaryColumn]) -> None:
        """Keep these columns instead of those used longest ago."""
        for name, column in columns.items():
            self._columns[shard, row_group, name] = column
            self.num_bytes += column.data.numel()
            while self.num_bytes > self.limit_bytes and len(self._columns) > 1:
                self.num_bytes -= self._columns.popitem(last=False)[1].data.numel()
