"""The file format of the feature store, so that any Parquet reader can read it without this project.

A store is a directory:

    _index.parquet        one row per utterance, in the order of the manifest: id, num_samples, num_frames, and its
                          place: shard, row_group, row (counted inside its row group)
    _basis-*.parquet      for codec pca_int8 only, one row per layer: layer, width, components, step, stored_share,
                          mean and axes (binary), as below; * is the start of StoreInfo's fingerprint
    shard-00000.parquet   the utterances, one row each, longest first
    ...

Columns of a shard:

    id            string
    num_samples   int64, at 16 kHz
    num_frames    int32, the same for all layers
    waveform      binary, int16 little-endian; float sample = value / 32768 (absent in stores without waveform)
    layer_0, ...  binary, the hidden states of one utterance, coded as below; layer 0 is the input of the first
                  transformer layer, layer i the output of the i-th

Codecs (little-endian, C order, T = num_frames, W = the layer's width):

    float32   T x W float32, exact.
    float16   T x W float16.
    int8      W float32 `scale`, then W float32 `offset`, then T x W int8 `code`. Value = code * scale + offset, with
              one scale and one offset per channel of this utterance.
    pca_int8  K float32 `scale`, then K x T int8 `code`, K = the layer's `components`. Value = (code * scale)
              transposed @ axes + mean, with `axes` (K x W float32, orthonormal) and `mean` (W float32) from the
              layer's row of the basis. Squared distances between codes are those between values.

To decode one layer of one utterance with pyarrow and numpy alone:

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
`fithubert.recipe` says how to decode. A shard adds `fithubert.shard` (the digest of its rows) and, in the footer,
`fithubert.statistics` (per layer: measured error, saturation). The index adds the digests of all shards,
`fithubert.rebuild` and `fithubert.repair` (the commands that write the store again and repair it),
`fithubert.shard_minutes` and, for pca_int8, `fithubert.basis` (the digest of the basis). Data pages are uncompressed,
except that the layers of pca_int8 use Zstandard; all have CRC-32 checksums, which every read verifies.
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
    """The content of a store and its origin; two stores with the same `fingerprint` hold the same values.

    `model` is the name for people, `model_fingerprint` and `corpus_fingerprint` are digests. `widths[i]` is the
    feature size of layer `layers[i]`. `convolutions` (kernel, stride) turn samples into frames. `variance_share`: the
    share of the variance that a codec with a basis keeps; None for others.
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
        """The metadata of this store, as JSON in UTF-8."""
        return json.dumps(asdict(self), sort_keys=True).encode()


@dataclass(frozen=True)
class Expected:
    """The properties of a store that its reader requires; None accepts anything.

    `model` and `corpus` are fingerprints. `layers`: the layers that the store must hold; it may hold more.
    """

    model: str | None = None
    corpus: str | None = None
    codec: str | None = None
    layers: tuple[int, ...] | None = None
    variance_share: float | None = None


#: Field of StoreInfo -> its name in messages.
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
    """The StoreInfo in a schema's metadata; raises ValueError with the reason if there is none."""
    if not metadata or STORE_KEY not in metadata:
        raise ValueError("it is not part of a feature store")
    values = json.loads(metadata[STORE_KEY])
    version = values.get("version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{_PARTS['version']} is {version}, this program reads {FORMAT_VERSION}")
    if set(values) != {field.name for field in fields(StoreInfo)}:
        raise ValueError("its description of the store is broken")
    values["layers"], values["widths"] = tuple(values["layers"]), tuple(values["widths"])
    values["convolutions"] = tuple((kernel, stride) for kernel, stride in values["convolutions"])
    return StoreInfo(**values)


@dataclass(frozen=True)
class IndexInfo:
    """The metadata of the index besides StoreInfo.

    `shard_keys`: the digest of each shard's rows. `rebuild` and `repair`: the commands that write the store again and
    repair it. `basis_digest`: None if the codec needs no basis. `shard_minutes`: audio in a shard.
    """

    shard_keys: tuple[str, ...]
    rebuild: str
    repair: str
    basis_digest: str | None
    shard_minutes: float


def parse_index(metadata: dict[bytes, bytes]) -> IndexInfo:
    """The IndexInfo in an index's metadata; raises KeyError or ValueError if it is broken."""
    basis = metadata.get(BASIS_KEY)
    return IndexInfo(
        tuple(json.loads(metadata[SHARD_KEY])),
        metadata[REBUILD_KEY].decode(),
        metadata[REPAIR_KEY].decode(),
        None if basis is None else basis.decode(),
        float(metadata[SHARD_MINUTES_KEY]),
    )


def describe_difference(found: StoreInfo, wanted: StoreInfo) -> str | None:
    """The first difference of two stores, for a message; None if they hold the same values."""
    for name, words in _PARTS.items():
        have, want = getattr(found, name), getattr(wanted, name)
        if have != want:
            return f"{words} differs: {_short(have)} here, {_short(want)} wanted"
    return None


def describe_mismatch(found: StoreInfo, expected: Expected) -> str | None:
    """The first difference of a store from what its reader expects; None if there is none."""
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
    """The file name of a store's basis; that of another store has another name."""
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
    """The metadata that every file of a store has."""
    return {STORE_KEY: info.to_json(), RECIPE_KEY: find_codec(info.codec).recipe.encode()}


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value).replace("(", "[").replace(")", "]")
