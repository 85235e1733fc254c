"""Trained heads on disk: `probe.json`, which names their model and task, and `model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import atomic_directory
from fithubert.frames import SAMPLE_RATE_HZ, count_samples, receptive_field
from fithubert.records import PROBE_FILE, ProbeRecord
from fithubert.store.read import FeatureStore
from fithubert.superb.heads import LayerSum, LinearHead
from fithubert.superb.learners import TrainedHead
from fithubert.superb.learners.verification import SpeakerHead
from fithubert.tensors import digest_tensors, read_tensors, write_tensors

_WEIGHTS = "model.safetensors"
#: Parts of a head that only training needs.
_TRAINING_ONLY = ("prototypes",)


def describe_head(
    task: str, trained: TrainedHead, store: FeatureStore, manifest: Manifest, identity: str
) -> ProbeRecord:
    """The record of a head that was trained on `store`, whose folder has the name of the model, and `manifest`."""
    info, state = store.info, _state(trained)
    field, stride = receptive_field(info.convolutions)
    shares = next(part.shares() for part in trained.head.modules() if isinstance(part, LayerSum))
    return ProbeRecord(
        format="fithubert-probe-1",
        task=task,
        model=store.path.name,
        fingerprint=info.model_fingerprint,
        features=info.fingerprint,
        corpus=manifest.fingerprint,
        codec=info.codec,
        identity=identity,
        layers=tuple(store.layers),
        layer_weights=tuple(shares.tolist()),
        pooling=trained.pooling,
        labels=trained.labels,
        dev=trained.dev,
        test=trained.test,
        seed=trained.seed,
        weights=digest_tensors(state),
        sampling_rate=SAMPLE_RATE_HZ,
        shortest_samples=count_samples(info.frame_multiple, info.convolutions),
        field_samples=field,
        stride_samples=stride,
    )


def write_head(folder: Path, trained: TrainedHead, record: ProbeRecord) -> None:
    """Write `folder` with the head and its record, both or neither."""
    with atomic_directory(folder, (PROBE_FILE, _WEIGHTS)) as aside:
        write_tensors(aside / _WEIGHTS, _state(trained))
        record.write(aside / PROBE_FILE)


def holds_head(folder: Path, identity: str) -> bool:
    """Whether `folder` has a readable head under `identity`."""
    try:
        return read_head(folder)[0].identity == identity
    except UserError:
        return False


def read_head(folder: Path) -> tuple[ProbeRecord, LinearHead | SpeakerHead]:
    """The record and the head in `folder`, in evaluation mode.

    Raises UserError in one line if a file is missing, damaged, or does not fit the other.
    """
    record, path = ProbeRecord.read(folder / PROBE_FILE), folder / _WEIGHTS
    state = read_tensors(path)
    if digest_tensors(state) != record.weights:
        raise UserError(f"{path}: not the weights that {PROBE_FILE} next to it describes; copy both again")
    layers, outputs = len(record.layers), sum(map(len, record.labels))
    try:
        if not layers or len(record.layer_weights) != layers or min(record.layers) < 0 or record.stride_samples < 1:
            raise ValueError("its layers do not fit their weights")
        width, features = state["projector.weight"].shape
        head: LinearHead | SpeakerHead
        if record.pooling == "statistics":
            pooled = state[f"convolutions.{len(SpeakerHead.CONTEXTS) - 1}.weight"].shape[0]
            head = SpeakerHead(layers, features, width, pooled, 1)
            state |= {name: getattr(head, name).detach() for name in _TRAINING_ONLY}
        else:
            head = LinearHead(layers, features, width, outputs)
        head.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: the head does not fit its record ({' '.join(str(error).split())[:200]})") from None
    return record, head.eval().requires_grad_(False)


def _state(trained: TrainedHead) -> Mapping[str, Tensor]:
    state = trained.head.state_dict()
    return {name: tensor.detach().cpu() for name, tensor in state.items() if name not in _TRAINING_ONLY}
