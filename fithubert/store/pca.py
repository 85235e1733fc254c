"""Principal components of hidden states for the codec `pca_int8`."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.files import open_atomically
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.store.codec import Basis, LayerBasis, component_scales, find_codec, layer_codecs, quantise, to_bytes
from fithubert.store.format import StoreInfo, basis_name, describe_difference, parse_info, store_metadata
from fithubert.store.shards import PlannedRow, UtteranceStates, sort_by_length
from fithubert.store.write import describe_error

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
    """Write the basis of a store unless there is one: the first of several workers decides for all.

    Two machines may fit axes that differ in the last bit, so every worker then reads and uses the published basis.
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
    with open_atomically(directory / basis_name(info), replace=False) as file:
        pq.write_table(table, file, compression="none", write_page_checksum=True)


def read_basis(directory: Path, info: StoreInfo) -> Basis:
    """The basis of a store.

    Raises OSError, ArrowException or ValueError if it is missing, damaged or of another store.
    """
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
        raise ValueError("it has other layers")
    return Basis(layers)


def _to_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32)


#: Speech that the axes are fitted on: 20 frames for each of 768 features, 0.6 GB of hidden states of HuBERT Base.
SAMPLE_SECONDS = 300.0
#: The smallest step tried, as a share of the coarsest; below it, the 8 bits decide the error.
_FINEST, _BISECTIONS = 1e-5, 12


def provide_basis(
    directory: Path,
    info: StoreInfo,
    rows: Sequence[PlannedRow],
    compute: Callable[[Sequence[PlannedRow]], Iterable[UtteranceStates]],
) -> tuple[Basis | None, dict[str, str]]:
    """The basis of the store in `directory`, fitted and published if there is none; None if the codec needs none.

    The second result has the name of a damaged basis that was replaced, and the damage.

    The sample is the first `SAMPLE_SECONDS` of `rows`, whose order is that of digests: all workers draw the same one
    without coordination. If several workers fit at once, the first to finish decides and the others use its file.
    """
    if not find_codec(info.codec).fitted:
        return None, {}
    path = directory / basis_name(info)
    problems = {}
    try:
        return read_basis(directory, info), {}
    except FileNotFoundError:
        pass
    except (OSError, pa.ArrowException, ValueError) as error:
        problems[path.name] = describe_error(error)
        path.unlink(missing_ok=True)
    sample = sort_by_length(_take_seconds(rows))
    states = [tuple(layer.float().cpu() for layer in row.hidden_states) for row in compute(sample)]
    publish_basis(directory, fit_basis(states, info), info)
    return read_basis(directory, info), problems


def fit_basis(states: Sequence[Sequence[Tensor]], info: StoreInfo) -> Basis:
    """The basis that keeps `info.variance_share` of the variance. `states`: (time, feature) by utterance, layer."""
    if info.variance_share is None:
        raise ValueError(f"{info.codec} keeps no share of the variance")
    layers = {}
    for place, layer in enumerate(info.layers):
        layers[layer] = _fit_layer([utterance[place] for utterance in states], info.variance_share, info.codec)
    return Basis(layers)


def _take_seconds(rows: Sequence[PlannedRow]) -> list[PlannedRow]:
    taken: list[PlannedRow] = []
    left = SAMPLE_SECONDS * SAMPLE_RATE_HZ
    for row in rows:
        if left <= 0:
            break
        taken.append(row)
        left -= row.num_samples
    return taken


def _fit_layer(parts: list[Tensor], share: float, codec: str) -> LayerBasis:
    """Axes, and the coarsest step with which the coding error of `parts` is at most 1 - `share` of their spread.

    One step for all components needs the fewest bits for an error: a component whose variance is below the noise of
    that step is dropped. Source: reverse water-filling, Cover and Thomas, section 10.3.3.
    """
    frames = torch.cat(parts).double()
    mean = frames.mean(0).float()
    centred = frames - mean
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(frames))
    variances, axes = variances.flip(0), axes.flip(1).T.float().contiguous()
    budget = (1 - share) * sum(float((part.double() - part.double().mean(0)).square().sum()) for part in parts)
    rotated = (centred.float() @ axes.T).split([len(part) for part in parts])
    peaks = torch.stack([part.abs().amax(0) for part in rotated])
    high = float(12 * variances[0].clamp(min=0)) ** 0.5
    low = high * _FINEST
    for _ in range(_BISECTIONS):
        step = (low * high) ** 0.5
        if _coding_error(rotated, peaks, step, _count_kept(variances, step)) > budget:
            high = step
        else:
            low = step
    kept = _count_kept(variances, low)
    basis = LayerBasis(mean, axes[:kept].contiguous(), float(torch.tensor(low)), 1.0)
    return LayerBasis(basis.mean, basis.axes, basis.step, _measure_stored_share(parts, basis, codec))


def _count_kept(variances: Tensor, step: float) -> int:
    """The number of components whose variance is above the noise of a quantiser with this step."""
    return max(1, int((variances > step**2 / 12).sum()))


def _coding_error(rotated: Sequence[Tensor], peaks: Tensor, step: float, kept: int) -> float:
    """The squared error of dropping all but `kept` components and coding the rest."""
    total = 0.0
    for part, peak in zip(rotated, peaks, strict=True):
        scale = component_scales(peak[:kept], step)
        lost = part[:, :kept] - quantise(part[:, :kept], scale) * scale
        total += float(lost.square().sum(dtype=torch.float64) + part[:, kept:].square().sum(dtype=torch.float64))
    return total


def _measure_stored_share(parts: Sequence[Tensor], basis: LayerBasis, codec: str) -> float:
    (coder,) = layer_codecs(codec, (0,), Basis({0: basis}))
    values = b"".join(coder.encode(part)[0].numpy().tobytes() for part in parts)
    return len(pa.compress(values, codec=find_codec(codec).page_compression, asbytes=True)) / len(values)
