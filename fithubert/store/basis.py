"""The basis of a store with the codec pca_int8: fitted on a sample of the corpus, written, and read."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.files import open_atomically, require_regular
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.store import BASIS_PATTERN, StoreInfo, describe_difference, describe_error, parse_info
from fithubert.store.codec import CODECS, Basis, LayerBasis, component_scales, pca_codec, quantise, to_bytes
from fithubert.store.shards import Compute, PlannedRow, sort_by_length

#: Speech that axes are fitted on: 20 frames for each of 768 features, 0.6 GB of hidden states of HuBERT Base.
SAMPLE_SECONDS = 300.0
#: The smallest step tried, as a share of the coarsest; below it, the 8 bits decide the error.
_FINEST, _BISECTIONS = 1e-5, 12


def fit_basis(states: Sequence[Sequence[Tensor]], layers: Sequence[int], variance_share: float) -> Basis:
    """The basis that keeps `variance_share` of the variance. `states`: (time, feature) by utterance and layer."""
    parts = zip(*states, strict=True)
    return Basis({layer: _fit_layer(own, variance_share) for layer, own in zip(layers, parts, strict=True)})


def _fit_layer(parts: Sequence[Tensor], share: float) -> LayerBasis:
    """Axes, and the coarsest step with which the coding error of `parts` is at most 1 - `share` of their spread.

    One step for all components needs the fewest bits for an error: a component whose variance is below the noise of
    that step is dropped. Source: reverse water-filling, Cover and Thomas, section 10.3.3.
    """
    frames = torch.cat(list(parts)).double()
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
    encode, compression = pca_codec(basis).encode, CODECS["pca_int8"].page_compression
    values = b"".join(encode(part)[0].numpy().tobytes() for part in parts)
    return replace(basis, stored_share=len(pa.compress(values, codec=compression, asbytes=True)) / len(values))


def _count_kept(variances: Tensor, step: float) -> int:
    """Components whose variance is above the noise of a quantiser with this step."""
    return max(1, int((variances > step**2 / 12).sum()))


def _coding_error(rotated: Sequence[Tensor], peaks: Tensor, step: float, kept: int) -> float:
    """The squared error of dropping all but `kept` components and coding those."""
    total = 0.0
    for part, peak in zip(rotated, peaks, strict=True):
        scale = component_scales(peak[:kept], step)
        lost = part[:, :kept] - quantise(part[:, :kept], scale) * scale
        total += float(lost.square().sum(dtype=torch.float64) + part[:, kept:].square().sum(dtype=torch.float64))
    return total


def basis_name(info: StoreInfo) -> str:
    """The file name of a store's basis; that of another store has another name."""
    return BASIS_PATTERN.replace("*", info.fingerprint[:12])


def read_basis(directory: Path, info: StoreInfo) -> Basis:
    """The basis of a store.

    Raises OSError, ArrowException or ValueError if it is missing, damaged or of another store.
    """
    table = pq.read_table(require_regular(directory / basis_name(info)), page_checksum_verification=True)
    difference = describe_difference(parse_info(table.schema.metadata), info)
    if difference is not None:
        raise ValueError(difference)
    rows = table.to_pylist()
    if [(row["layer"], row["width"]) for row in rows] != list(zip(info.layers, info.widths, strict=True)):
        raise ValueError("it has other layers")
    return Basis(
        {
            row["layer"]: LayerBasis(
                _to_tensor(row["mean"], row["width"]),
                _to_tensor(row["axes"], row["components"], row["width"]),
                row["step"],
                row["stored_share"],
            )
            for row in rows
        }
    )


def _to_tensor(data: bytes, *shape: int) -> torch.Tensor:
    tensor = torch.frombuffer(bytearray(data), dtype=torch.float32)
    if tensor.numel() != torch.Size(shape).numel():
        raise ValueError("its axes are broken")
    return tensor.view(shape)


def provide_basis(
    directory: Path, info: StoreInfo, rows: Sequence[PlannedRow], compute: Compute
) -> tuple[Basis | None, dict[str, str]]:
    """The basis of the store in `directory`, fitted and written if there is none; None if the codec needs none.

    The second result has the name of an unusable basis that was replaced, and the reason.

    The sample is the first `SAMPLE_SECONDS` of `rows`, whose order is that of digests: all workers draw the same one
    without coordination. Two machines may fit axes that differ in the last bit: the first to finish decides, and all
    use its file.
    """
    if info.variance_share is None:
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
    limit = SAMPLE_SECONDS * SAMPLE_RATE_HZ
    sample: list[PlannedRow] = []
    for row in rows:
        if limit <= 0:
            break
        sample.append(row)
        limit -= row.num_samples
    states = [[layer.float().cpu() for layer in row.hidden_states] for row in compute(sort_by_length(sample))]
    _write_basis(directory, fit_basis(states, info.layers, info.variance_share), info)
    return read_basis(directory, info), problems


def _write_basis(directory: Path, basis: Basis, info: StoreInfo) -> None:
    """Write the basis of a store unless there is one: the first of several workers decides for all."""
    integers = [(name, pa.int32()) for name in ("layer", "width", "components")]
    others = [("step", pa.float32()), ("stored_share", pa.float64()), ("mean", pa.binary()), ("axes", pa.binary())]
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
    table = pa.Table.from_pylist(rows, schema=pa.schema(integers + others, info.metadata()))
    with open_atomically(directory / basis_name(info), replace=False) as file:
        pq.write_table(table, file, compression="none", write_page_checksum=True)
