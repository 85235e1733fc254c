"""What the tests of SUPERB share: no clock, one thread, and a small corpus with features that tell its labels."""

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
def telling(corpus: Manifest) -> MemoryStore:
    """Features that say every label of `corpus`."""
    return label_features(corpus)
