"""`python -m tests.pretrain.tiny_run CORPUS OUT [--kill PLACE:COUNT] [--set NAME=VALUE ...]`: it may kill itself."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fithubert import pretrain
from fithubert.config.pretrain import IterationParams, PretrainParams, SpeakerParams, UnitParams
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.pretrain import corpus
from fithubert.training import open_fabric
from tests import kills
from tests.kills import killed_run
from tests.models.test_hubert import tiny_config

#: More places of a pre-training.
PLACES = kills.PLACES | {
    "waveforms": (corpus.Manifest, "read"),
    "fitting": (corpus, "fit_units"),
    "assigning": (corpus.UnitModel, "assign"),
    "units": (corpus, "save_units"),
    "teacher": (pretrain, "save_teacher"),
    "record": (pretrain, "write_json"),
}
# Some batches for every rank.
corpus.BATCH_FRAMES = 500


def tiny_params(**changes: Any) -> PretrainParams:
    """Two iterations of a few updates, in which everything is dropped that can be."""
    params = PretrainParams(
        data={"source": "synthetic"},
        model=tiny_config(),
        iterations=(
            IterationParams(units=UnitParams(clusters=8, sample_frames=2000), updates=12),
            IterationParams(
                units=UnitParams(features=2, clusters=12, sample_frames=2000),
                speakers=SpeakerParams(layer=1, weight=0.5),
                updates=6,
            ),
        ),
        batch_seconds=8.0,
        passes=4,
        crop_seconds=2.0,
        dropout=0.1,
        input_dropout=0.1,
        layer_dropout=0.2,
        frontend_gradient=0.5,
        feature_penalty=1.0,
        checkpoint_every_updates=4,
    )
    return params.model_copy(update=changes)


def run(params: PretrainParams, manifest: Manifest, work: Path, lines: list[str] | None = None) -> Path:
    """A run on one rank, or on this one of many; the folder of the teacher."""
    fabric = open_fabric("cpu", "32-true", params.layer_dropout > 0)
    return pretrain.pretrain(params, manifest, work, fabric, (lines if lines is not None else []).append)


def last_weights(work: Path, iteration: int = 2) -> dict[str, Tensor]:
    """The weights of an iteration, as trained: the teacher's are rounded."""
    state = torch.load(work / f"iteration-{iteration}" / "checkpoint.pt", weights_only=True)
    return dict(state["model"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    with killed_run(parser, PLACES) as arguments:
        manifest = load_manifest(manifest_path(arguments.corpus), arguments.corpus)
        run(tiny_params(**arguments.changes), manifest, arguments.out)


if __name__ == "__main__":
    main()
