"""The form of the feature store, so that anything that reads Parquet can read it without this project.

A store is a directory:

    _index.parquet        one row per utterance, in the order of the manifest: id, num_samples, num_frames, and where
                          it is: shard, row_group, row (counted inside its row group)
    _basis-*.parquet      for codec pca_int8 alone, one row per layer: layer, width, components, step, stored_share,
                          mean and axes (binary), as below; * is the start of StoreInfo's fingerprint
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

    float32   T x W float32. Value = the number, exactly.
    float16   T x W float16. Value = the number.
    int8      W float32 `scale`, then W float32 `offset`, then T x W int8 `code`. Value = code * scale + offset, with
              one scale and one offset per channel of this utterance.
    pca_int8  K float32 `scale`, then K x T int8 `code`, K = the layer's `components`. Value = (code * scale)
              transposed @ axes + mean, with `axes` (K x W float32, orthonormal) and `mean` (W float32) from the
              layer's row of the basis. Squared distances between codes are those between values.

So one layer of one utterance is, with nothing but pyarrow and numpy:

    table = pyarrow.parquet.read_table("shard-00000.parquet", columns=["num_frames", "layer_3"])
    row = table.slice(0, 1).to_pylist()[0]
    head = numpy.frombuffer(row["layer_3"], "<f4", count=2 * W).reshape(2, W)
    code = numpy.frombuffer(row["layer_3"], "i1", offset=8 * W).reshape(row["num_frames"], W)
    value = code * head[0] + head[1]

and for pca_int8, with `basis` the layer's row of the basis as a dict:

    K, W = basis["components"], basis["width"]
    scale = numpy.frombuffer(row["layer_3"], "<f4", count=K)
    code = numpy.frombuffer(row["layer_3"], "i1", offset=4 * K).reshape(K, row["num_frames"])
    axes = numpy.frombuffer(basis["axes"], "<f4").reshape(K, W)
    value = (code * scale[:, None]).T @ axes + numpy.frombuffer(basis["mean"], "<f4")

Schema metadata (JSON, UTF-8): `fithubert.store` is StoreInfo (codec, layers, widths, fingerprints, version),
`fithubert.recipe` the codec's line above. A shard adds `fithubert.shard` (the digest of the rows that belong in it)
and, in the footer, `fithubert.statistics` (per layer: measured error, saturation). The index adds the digests of all
shards, `fithubert.rebuild` and `fithubert.repair` (the commands that write the store anew and mend it),
`fithubert.shard_minutes` and, for pca_int8, `fithubert.basis` (the digest of the basis). Data pages are uncompressed
but for the layers of pca_int8, which are Zstandard; all carry CRC-32 checksums, which every read verifies.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from fithubert.files import digest_json
from fithubert.store.codec import find_codec

FORMAT_VERSION = 2
INDEX_NAME = "_index.parquet"
SHARD_PATTERN = "shard-*.parquet"
STORE_KEY, SHARD_KEY, RECIPE_KEY = b"fithubert.store", b"fithubert.shard", b"fithubert.recipe"
STATISTICS_KEY, REBUILD_KEY, REPAIR_KEY = b"fithubert.statistics", b"fithubert.rebuild", b"fithubert.repair"
BASIS_KEY, SHARD_MINUTES_KEY = b"fithubert.basis", b"fithubert.shard_minutes"
BASIS_PATTERN = "_basis-*.parquet"
WAVEFORM_SCALE = 32768


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds and where it came from; two stores with one `fingerprint` hold the same values.

    `model` is the name for people, `model_fingerprint` and `corpus_fingerprint` are digests. `widths[i]` is the
    feature size of layer `layers[i]`. `convolutions` (kernel, stride) turn samples into frames. `variance_share`: what
    a codec with a basis keeps of the variance; None for others.
    """

    model: str
    model_fingerprint: str
    corpus_fingerprint: str
    codec: str
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    convolutions: tuple[tuple[int, int], ...]
    with_waveform: bool
    variance_share: float | None = None
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
    variance_share: float | None = None


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
    "variance_share": "the share of the variance that is kept",
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


@dataclass(frozen=True)
class IndexInfo:
    """What the index says beside StoreInfo: the keys of the shards, the commands that write the store anew and mend it,
    the digest of its basis (None where it has none), and how much audio makes a shard."""

    shard_keys: tuple[str, ...]
    rebuild: str
    repair: str
    basis_digest: str | None
    shard_minutes: float


def parse_index(metadata: dict[bytes, bytes]) -> IndexInfo:
    """The IndexInfo in an index's metadata; raises KeyError or ValueError where it is broken."""
    basis = metadata.get(BASIS_KEY)
    return IndexInfo(
        tuple(json.loads(metadata[SHARD_KEY])),
        metadata[REBUILD_KEY].decode(),
        metadata[REPAIR_KEY].decode(),
        None if basis is None else basis.decode(),
        float(metadata[SHARD_MINUTES_KEY]),
    )


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
        (found.variance_share, expected.variance_share, _PARTS["variance_share"]),
    ):
        if want is not None and have != want:
            return f"{words} differs: {_short(have)} here, {_short(want)} wanted"
    missing = sorted(set(expected.layers or ()) - set(found.layers))
    return f"layers {missing} are missing; it holds {list(found.layers)}" if missing else None


def layer_column(layer: int) -> str:
    """The name of a layer's column."""
    return f"layer_{layer}"


def basis_name(info: StoreInfo) -> str:
    """The file name of a store's basis: that of another store is never in its way."""
    return BASIS_PATTERN.replace("*", info.fingerprint[:12])


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
    return pa.schema(columns, {**store_metadata(info), SHARD_KEY: shard_key.encode()})


def index_schema(info: StoreInfo, index: IndexInfo) -> pa.Schema:
    """Columns and metadata of the index."""
    columns = [("id", pa.string()), ("num_samples", pa.int64()), ("num_frames", pa.int32())]
    columns += [(name, pa.int32()) for name in ("shard", "row_group", "row")]
    metadata = {
        **store_metadata(info),
        SHARD_KEY: json.dumps(index.shard_keys).encode(),
        REBUILD_KEY: index.rebuild.encode(),
        REPAIR_KEY: index.repair.encode(),
        SHARD_MINUTES_KEY: repr(index.shard_minutes).encode(),
    }
    if index.basis_digest is not None:
        metadata[BASIS_KEY] = index.basis_digest.encode()
    return pa.schema(columns, metadata)


def store_metadata(info: StoreInfo) -> dict[bytes, bytes]:
    """What every file of a store says of it."""
    return {STORE_KEY: info.to_json(), RECIPE_KEY: find_codec(info.codec).recipe.encode()}


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value).replace("(", "[").replace(")", "]")
