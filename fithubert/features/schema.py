"""The form of the feature store, so that anything that reads Parquet can read it without this project.

A store is a directory:

    _index.parquet        one row per utterance, in the order of the manifest: id, num_samples, num_frames, and where
                          it is: shard, row_group, row (counted inside its row group)
    shard-00000.parquet   the utterances themselves, one row each, longest first
    ...

Columns of a shard:

    id            string
    num_samples   int64, at 16 kHz
    num_frames    int32, the same for all layers
    waveform      binary, int16 little-endian; float sample = value / 32768 (absent in stores without waveform)
    layer_0, ...  binary, one value per utterance, coded as below; layer 0 is the input of the first transformer
                  layer, layer i the output of the i-th

Codecs (little-endian, C order, T = num_frames, W = the layer's width):

    float16   T x W float16. Value = the number.
    int8      W float32 `scale`, then W float32 `offset`, then T x W int8 `code`. Value = code * scale + offset, with
              one scale and one offset per channel of this utterance.

So one layer of one utterance is, with nothing but pyarrow and numpy:

    table = pyarrow.parquet.read_table("shard-00000.parquet", columns=["num_frames", "layer_3"])
    row = table.slice(0, 1).to_pylist()[0]
    head = numpy.frombuffer(row["layer_3"], "<f4", count=2 * W).reshape(2, W)
    code = numpy.frombuffer(row["layer_3"], "i1", offset=8 * W).reshape(row["num_frames"], W)
    value = code * head[0] + head[1]

Schema metadata (JSON, UTF-8): `fithubert.store` is StoreInfo (codec, layers, widths, fingerprints, version),
`fithubert.recipe` the codec's line above. A shard adds `fithubert.shard` (the digest of the rows that belong in it)
and, in the footer, `fithubert.statistics` (per layer: measured error, saturation, bytes). Data pages are uncompressed
and carry CRC-32 checksums, which every read verifies.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from fithubert.features.codec import find_codec
from fithubert.files import digest_json

FORMAT_VERSION = 1
INDEX_NAME = "_index.parquet"
SHARD_PATTERN = "shard-*.parquet"
STORE_KEY, SHARD_KEY, RECIPE_KEY = b"fithubert.store", b"fithubert.shard", b"fithubert.recipe"
STATISTICS_KEY, REBUILD_KEY = b"fithubert.statistics", b"fithubert.rebuild"
WAVEFORM_SCALE = 32768


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds and where it came from; two stores with one `fingerprint` hold the same values.

    `model` is the name for people, `model_fingerprint` and `corpus_fingerprint` are digests. `widths[i]` is the
    feature size of layer `layers[i]`. `convolutions` (kernel, stride) turn samples into frames.
    """

    model: str
    model_fingerprint: str
    corpus_fingerprint: str
    codec: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    convolutions: tuple[tuple[int, int], ...]
    with_waveform: bool
    version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """A digest of everything but the model's name."""
        return digest_json({key: value for key, value in asdict(self).items() if key != "model"})

    def to_json(self) -> bytes:
        """This as it stands in the metadata."""
        return json.dumps(asdict(self), sort_keys=True).encode()


@dataclass(frozen=True)
class Expected:
    """What a store must be for its reader; None accepts anything.

    `model` and `corpus` are fingerprints. `layers` are those that must be there; a store may hold more.
    """

    model: str | None = None
    corpus: str | None = None
    codec: str | None = None
    layers: tuple[int, ...] | None = None


#: Field of StoreInfo -> what a person calls it.
_PARTS = {
    "version": "the store format version",
    "model_fingerprint": "the model's weights",
    "corpus_fingerprint": "the corpus",
    "codec": "the codec",
    "layers": "the layers",
    "widths": "the layer widths",
    "convolutions": "the model's convolutions",
    "with_waveform": "whether waveforms are stored",
}


def parse_info(metadata: dict[bytes, bytes] | None) -> StoreInfo:
    """The StoreInfo in a schema's metadata; raises ValueError saying why there is none."""
    if not metadata or STORE_KEY not in metadata:
        raise ValueError("it is no part of a feature store")
    values = json.loads(metadata[STORE_KEY])
    version = values.get("version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{_PARTS['version']} is {version}, this one reads {FORMAT_VERSION}")
    if set(values) != {field.name for field in fields(StoreInfo)}:
        raise ValueError("its description of the store is broken")
    values["layers"], values["widths"] = tuple(values["layers"]), tuple(values["widths"])
    values["convolutions"] = tuple((kernel, stride) for kernel, stride in values["convolutions"])
    return StoreInfo(**values)


def parse_index(metadata: dict[bytes, bytes]) -> tuple[list[str], str]:
    """The keys of the shards, and the command that mends the store, from the metadata of an index."""
    return json.loads(metadata[SHARD_KEY]), metadata[REBUILD_KEY].decode()


def describe_difference(found: StoreInfo, wanted: StoreInfo) -> str | None:
    """The first part in which two stores differ, for a message; None where they hold the same values."""
    for name, words in _PARTS.items():
        have, want = getattr(found, name), getattr(wanted, name)
        if have != want:
            return f"{words} differs: {_short(have)} here, {_short(want)} wanted"
    return None


def describe_mismatch(found: StoreInfo, expected: Expected) -> str | None:
    """The first part in which a store is not what its reader expects; None where it is."""
    for have, want, words in (
        (found.model_fingerprint, expected.model, _PARTS["model_fingerprint"]),
        (found.corpus_fingerprint, expected.corpus, _PARTS["corpus_fingerprint"]),
        (found.codec, expected.codec, _PARTS["codec"]),
    ):
        if want is not None and have != want:
            return f"{words} differs: {_short(have)} here, {_short(want)} wanted"
    missing = sorted(set(expected.layers or ()) - set(found.layers))
    return f"layers {missing} are missing; it holds {list(found.layers)}" if missing else None


def layer_column(layer: int) -> str:
    """The name of a layer's column."""
    return f"layer_{layer}"


def shard_name(index: int) -> str:
    """The file name of a shard."""
    return f"shard-{index:05d}.parquet"


def shard_schema(info: StoreInfo, shard_key: str) -> pa.Schema:
    """Columns and metadata of one shard."""
    columns: list[tuple[str, pa.DataType]] = [
        ("id", pa.string()),
        ("num_samples", pa.int64()),
        ("num_frames", pa.int32()),
    ]
    if info.with_waveform:
        columns.append(("waveform", pa.binary()))
    columns += [(layer_column(layer), pa.binary()) for layer in info.layers]
    return pa.schema(columns, {**_store_metadata(info), SHARD_KEY: shard_key.encode()})


def index_schema(info: StoreInfo, shard_keys: Sequence[str], rebuild: str) -> pa.Schema:
    """Columns and metadata of the index; `rebuild` is the command that mends the store."""
    columns = [("id", pa.string()), ("num_samples", pa.int64()), ("num_frames", pa.int32())]
    columns += [(name, pa.int32()) for name in ("shard", "row_group", "row")]
    metadata = {
        **_store_metadata(info),
        SHARD_KEY: json.dumps(list(shard_keys)).encode(),
        REBUILD_KEY: rebuild.encode(),
    }
    return pa.schema(columns, metadata)


def _store_metadata(info: StoreInfo) -> dict[bytes, bytes]:
    return {STORE_KEY: info.to_json(), RECIPE_KEY: find_codec(info.codec).recipe.encode()}


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value).replace("(", "[").replace(")", "]")
