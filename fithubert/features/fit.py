"""Fitting the basis of a store on a sample of its corpus, so that a stated share of the variance survives."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from fithubert.data.manifest import Manifest
from fithubert.features.axes import Basis, LayerBasis
from fithubert.features.basis import publish_basis, read_basis
from fithubert.features.codec import component_scales, find_codec, layer_codecs, quantise
from fithubert.features.plan import PlannedRow
from fithubert.features.schema import StoreInfo, basis_name
from fithubert.features.states import compute_states
from fithubert.features.writer import describe_error
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.speech_model import SpeechModel

#: Speech that the axes are fitted on: 20 frames for each of 768 features, 0.6 GB of hidden states of HuBERT Base.
SAMPLE_SECONDS = 300.0
#: Steps are sought down to this share of the coarsest one, which is where 8 bits decide the error instead.
_FINEST, _BISECTIONS = 1e-5, 12


def provide_basis(
    model: SpeechModel,
    manifest: Manifest,
    rows: Sequence[PlannedRow],
    directory: Path,
    info: StoreInfo,
    batch_seconds: float,
) -> tuple[Basis | None, dict[str, str]]:
    """The basis of the store in `directory`, fitted and published there unless there is one; None for codecs without.

    With it, by its file name, what was wrong with a damaged one that was replaced.

    The sample is the first `SAMPLE_SECONDS` of `rows`, whose order is a digest's: every worker draws the same without
    asking another. Workers that start together all fit; the first to finish decides, and the others take its file.
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
    sample = sorted(_take_seconds(rows), key=lambda row: (-row.num_samples, row.id))
    states = [
        tuple(layer.float().cpu() for layer in utterance.layers)
        for utterance in compute_states(model, manifest, sample, info.layers, batch_seconds, info.with_waveform)
    ]
    publish_basis(directory, fit_basis(states, info), info)
    return read_basis(directory, info), problems


def fit_basis(states: Sequence[Sequence[Tensor]], info: StoreInfo) -> Basis:
    """The basis that keeps `info.variance_share` of `states`: utterances, each its layers (time, feature) float32."""
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
    """Axes, and the coarsest step with which the coding error of `parts` stays within 1 - `share` of their spread.

    One step for all components is what costs fewest bits for an error (reverse water-filling, Cover and Thomas,
    section 10.3.3): a component whose variance is below the noise of that step is not worth keeping.
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
    """How many components vary more than the noise of a quantiser of this step."""
    return max(1, int((variances > step**2 / 12).sum()))


def _coding_error(rotated: Sequence[Tensor], peaks: Tensor, step: float, kept: int) -> float:
    """The squared error of dropping all but `kept` components and coding those."""
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
