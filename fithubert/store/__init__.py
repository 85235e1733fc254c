"""Hidden states on disk, in a format that any Parquet reader can read without this project.

A store is a directory:

    _index.parquet        one row per utterance, in the order of the manifest: id, num_samples, num_frames, and its
                          place: shard, row_group, row (counted inside its row group)
    _basis-*.parquet      for codec pca_int8 only, one row per layer: layer, width, components, step, stored_share,
                          mean and axes (binary: width, and components x width float32, little-endian); * is the
                          start of StoreInfo's fingerprint
    shard-00000.parquet   the utterances, one row each, longest first
    ...

Columns of a shard:

    id            string
    num_samples   int64, at 16 kHz
    num_frames    int32, the same for all layers
    waveform      binary, int16 little-endian; float sample = value / 32768 (absent in stores without waveform)
    layer_0, ...  binary, the hidden states of one utterance, coded as below; layer 0 is the input of the first
                  transformer layer, layer i the output of the i-th

Codecs: an entry of `fithubert.store.codec.CODECS` has the layout of a value as `recipe`, which is also in the metadata
of every file, and the lines `by_hand` that decode it with numpy alone. For int8, with W the layer's width:

    table = pyarrow.parquet.read_table("shard-00000.parquet", columns=["num_frames", "layer_3"])
    row = table.slice(0, 1).to_pylist()[0]
    data, T = row["layer_3"], row["num_frames"]
    head = numpy.frombuffer(data, "<f4", count=2 * W).reshape(2, W)
    value = numpy.frombuffer(data, "i1", offset=8 * W).reshape(T, W) * head[0] + head[1]

Schema metadata (JSON, UTF-8): `fithubert.store` is StoreInfo (codec, layers, widths, fingerprints, version),
`fithubert.recipe` is how to decode, `fithubert.code_version` the version of the code that made it (absent in stores of
earlier versions). A shard adds `fithubert.shard` (the digest of its rows) and, in the footer,
`fithubert.statistics` (per layer: measured error, saturation). The index adds the digests of all shards,
`fithubert.rebuild` and `fithubert.repair` (the commands that write the store again and repair it),
`fithubert.shard_minutes` and, for pca_int8, `fithubert.basis` (the digest of the basis). Data pages are uncompressed,
except that the layers of pca_int8 use Zstandard; all have CRC-32 checksums, which every read verifies.
"""

import json
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from fithubert.files import digest_json
from fithubert.store.codec import find_codec

FORMAT_VERSION = 2
INDEX_NAME = "_index.parquet"
SHARD_PATTERN = "shard-*.parquet"
STORE_KEY, SHARD_KEY, RECIPE_KEY = b"fithubert.store", b"fithubert.shard", b"fithubert.recipe"
STATISTICS_KEY, REBUILD_KEY, REPAIR_KEY = b"fithubert.statistics", b"fithubert.rebuild", b"fithubert.repair"
BASIS_KEY, SHARD_MINUTES_KEY, CODE_KEY = b"fithubert.basis", b"fithubert.shard_minutes", b"fithubert.code_version"
BASIS_PATTERN = "_basis-*.parquet"
WAVEFORM_SCALE = 32768

_PLACE = [("id", pa.string()), ("num_samples", pa.int64()), ("num_frames", pa.int32())]


@dataclass(frozen=True)
class StoreInfo:
    """The content of a store and its origin; the same code and `fingerprint` give the same values.

    `model` is the name for people, `model_fingerprint` and `corpus_fingerprint` are digests. `widths[i]` is the
    feature size of layer `layers[i]`. `convolutions` (kernel, stride) and `frame_multiple` turn samples into frames, as
    those of a `SpeechModel` do. `variance_share`: the share of the variance that a codec with a basis keeps; None for
    others. `code_version`: of the modules that made the store; None for stores of earlier versions.
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
    code_version: str | None = None
    frame_multiple: int = 1

    @property
    def fingerprint(self) -> str:
        """A digest of everything but the model's name and the code."""
        return digest_json({key: value for key, value in self._stored().items() if key != "model"})

    def metadata(self) -> dict[bytes, bytes]:
        """The metadata that every file of this store has."""
        common = {
            STORE_KEY: json.dumps(self._stored(), sort_keys=True).encode(),
            RECIPE_KEY: find_codec(self.codec).recipe.encode(),
        }
        return common if self.code_version is None else {**common, CODE_KEY: self.code_version.encode()}

    def _stored(self) -> dict[str, object]:
        # Earlier versions of this program know neither: the code version has its own key, the usual multiple none.
        left_out = {"code_version"} | ({"frame_multiple"} if self.frame_multiple == 1 else set())
        return {key: value for key, value in asdict(self).items() if key not in left_out}


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
    "frame_multiple": "the model's rule for the last frame",
    "with_waveform": "whether waveforms are stored",
    "variance_share": "the share of the variance that is kept",
    "code_version": "the version of the code",
}


def parse_info(metadata: dict[bytes, bytes] | None) -> StoreInfo:
    """The StoreInfo in a schema's metadata; raises ValueError with the reason if there is none."""
    if not metadata or STORE_KEY not in metadata:
        raise ValueError("it is not part of a feature store")
    values = json.loads(metadata[STORE_KEY])
    version = values.get("version")
    if version != FORMAT_VERSION:
        raise ValueError(f"{_PARTS['version']} is {version}, this program reads {FORMAT_VERSION}")
    if {*values, "frame_multiple"} != {field.name for field in fields(StoreInfo)} - {"code_version"}:
        raise ValueError("its description of the store is broken")
    for name in ("layers", "widths"):
        values[name] = tuple(values[name])
    values["convolutions"] = tuple((kernel, stride) for kernel, stride in values["convolutions"])
    return StoreInfo(**values, code_version=metadata[CODE_KEY].decode() if CODE_KEY in metadata else None)


@dataclass(frozen=True)
class Commands:
    """The commands that a reader of the store recommends.

    `rebuild` if the store is not the expected one, `repair` if a part of it is missing or damaged.
    """

    rebuild: str
    repair: str


CACHE_COMMANDS = Commands("fithubert cache", "fithubert cache --repair")


@dataclass(frozen=True)
class IndexInfo:
    """The metadata of the index besides StoreInfo.

    `shard_keys`: the digest of each shard's rows. `basis_digest`: None if the codec needs no basis. `shard_minutes`:
    audio in a shard.
    """

    shard_keys: tuple[str, ...]
    commands: Commands
    basis_digest: str | None
    shard_minutes: float


def parse_index(metadata: dict[bytes, bytes]) -> IndexInfo:
    """The IndexInfo in an index's metadata; raises KeyError or ValueError if it is broken."""
    return IndexInfo(
        tuple(json.loads(metadata[SHARD_KEY])),
        Commands(metadata[REBUILD_KEY].decode(), metadata[REPAIR_KEY].decode()),
        metadata[BASIS_KEY].decode() if BASIS_KEY in metadata else None,
        float(metadata[SHARD_MINUTES_KEY]),
    )


def describe_difference(found: StoreInfo, wanted: StoreInfo) -> str | None:
    """The first difference of two stores, for a message; None if the same code made them of the same things."""
    pairs = ((getattr(found, name), getattr(wanted, name), name) for name in _PARTS)
    return next((_describe(have, want, name) for have, want, name in pairs if have != want), None)


def describe_mismatch(found: StoreInfo, expected: Expected) -> str | None:
    """The first difference of a store from what its reader expects; None if there is none."""
    wanted = {
        "model_fingerprint": expected.model,
        "corpus_fingerprint": expected.corpus,
        "codec": expected.codec,
        "variance_share": expected.variance_share,
    }
    for name, want in wanted.items():
        if want is not None and getattr(found, name) != want:
            return _describe(getattr(found, name), want, name)
    missing = sorted(set(expected.layers or ()) - set(found.layers))
    return f"layers {missing} are missing; it holds {list(found.layers)}" if missing else None


def _describe(have: object, want: object, name: str) -> str:
    return f"{_PARTS[name]} differs: {_short(have)} here, {_short(want)} wanted"


def _short(value: object) -> str:
    if value is None:
        return "unknown"
    return value[:12] if isinstance(value, str) else str(value).replace("(", "[").replace(")", "]")


def describe_error(error: Exception) -> str:
    """The reason why a Parquet file could not be read, in a few words."""
    message = " ".join(str(error).split())
    return "a page fails its checksum" if "CRC" in message else message.split(" Is this a 'parquet' file?")[0][:160]


def layer_column(layer: int) -> str:
    """The name of a layer's column."""
    return f"layer_{layer}"


def shard_name(index: int) -> str:
    """The file name of a shard."""
    return f"shard-{index:05d}.parquet"


def shard_schema(info: StoreInfo, shard_key: str) -> pa.Schema:
    """Columns and metadata of one shard."""
    names = ["waveform"] if info.with_waveform else []
    names += [layer_column(layer) for layer in info.layers]
    return pa.schema(
        _PLACE + [(name, pa.binary()) for name in names], info.metadata() | {SHARD_KEY: shard_key.encode()}
    )


def index_schema(info: StoreInfo, index: IndexInfo) -> pa.Schema:
    """Columns and metadata of the index."""
    metadata = {
        **info.metadata(),
        SHARD_KEY: json.dumps(index.shard_keys).encode(),
        REBUILD_KEY: index.commands.rebuild.encode(),
        REPAIR_KEY: index.commands.repair.encode(),
        SHARD_MINUTES_KEY: repr(index.shard_minutes).encode(),
    }
    if index.basis_digest is not None:
        metadata[BASIS_KEY] = index.basis_digest.encode()
    return pa.schema(_PLACE + [(name, pa.int32()) for name in ("shard", "row_group", "row")], metadata)
