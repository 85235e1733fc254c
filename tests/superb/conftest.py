"""Fixtures of all tests of SUPERB: no clock, one thread, a small corpus, and features that carry its labels."""

import pytest
import torch
from hypothesis import settings

from fithubert.data.manifest import Manifest
from tests.superb.fakes import MemoryStore, label_features, make_corpus

# A busy machine fails no test.
settings.register_profile("superb", deadline=None, max_examples=50)
settings.load_profile("superb")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def corpus(request: pytest.FixtureRequest) -> Manifest:
    """A small corpus; of a module's own `CORPUS_SIZES`, where it has them."""
    return make_corpus(*getattr(request.module, "CORPUS_SIZES", ()))


@pytest.fixture(scope="module")
def informed(corpus: Manifest) -> MemoryStore:
    """Features that carry every label of `corpus`."""
    return label_features(corpus)
