"""The corpus that these tests store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq

from tests.fakes import FakeManifest, FakeModel, FakeUtterance, draw_utterances

__all__ = ["FakeManifest", "FakeModel", "FakeUtterance", "contents", "fake_manifest", "flip_byte", "run_together"]


def fake_manifest(count: int = 12, seed: int = 0) -> FakeManifest:
    """`count` utterances of 0.1 to 1.5 s, the first of exactly one frame."""
    first, *others = draw_utterances(count, 1_600, 24_000, seed)
    return FakeManifest((FakeUtterance(first.id, 400, first.seed), *others))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the files in `folder`, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip_byte(parquet: Path) -> None:
    """Change a byte in the largest data page of the last row group."""
    data, metadata = bytearray(parquet.read_bytes()), pq.read_metadata(parquet)
    group = metadata.row_group(metadata.num_row_groups - 1)
    columns = [group.column(index) for index in range(group.num_columns)]
    largest = max(columns, key=lambda column: column.total_compressed_size)
    data[largest.data_page_offset + largest.total_compressed_size // 2] ^= 0xFF
    parquet.write_bytes(data)


def run_together(*works: Callable[[], object]) -> None:
    """Run all of `works` at once; the first error is raised."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()
