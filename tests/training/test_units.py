"""Units: clusters as tight as scikit-learn's, drawn by their seed."""

import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from fithubert.errors import UserError
from fithubert.training.units import fit_units


def test_clusters_are_as_tight_as_scikit_learns() -> None:
    """On frames without clear clusters, where a bad start or an early end would show."""
    frames = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)).cumsum(1)
    units = fit_units(frames, 32, seed=1)
    scaled = (frames - units.mean) / units.scale
    ours = (scaled - units.centres[units.assign(frames)]).square().sum()
    theirs = MiniBatchKMeans(32, batch_size=10_000, n_init=5, random_state=1).fit(scaled.numpy()).inertia_
    assert ours <= 1.01 * theirs


def test_the_same_seed_gives_the_same_units() -> None:
    frames = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fit_units(frames, 10, seed=1).centres, fit_units(frames, 10, seed=1).centres)
    assert not torch.equal(fit_units(frames, 10, seed=1).centres, fit_units(frames, 10, seed=2).centres)


def test_identical_frames_and_too_few_of_them() -> None:
    units = fit_units(torch.ones(50, 3), 4, seed=1)
    assert units.assign(torch.ones(2, 3)).unique().numel() == 1
    with pytest.raises(UserError, match="4 clusters need at least as many frames; there are 3"):
        fit_units(torch.randn(3, 3), 4, seed=1)
