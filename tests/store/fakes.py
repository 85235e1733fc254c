"""The corpus and the description of the stores that these tests write."""

from fithubert.frames import HUBERT_CONVOLUTIONS
from fithubert.store.format import StoreInfo
from tests.fakes import FakeManifest, FakeModel, FakeUtterance, draw_utterances

__all__ = ["FakeManifest", "FakeModel", "FakeUtterance", "fake_info", "fake_manifest"]


def fake_manifest(count: int = 12, seed: int = 0) -> FakeManifest:
    """`count` utterances of 0.1 to 1.5 s, the first of exactly one frame."""
    first, *others = draw_utterances(count, 1_600, 24_000, seed)
    return FakeManifest((FakeUtterance(first.id, 400, first.seed), *others))


def fake_info(codec: str, widths: tuple[int, ...], variance_share: float | None = None) -> StoreInfo:
    """A store of as many layers as there are widths."""
    layers = tuple(range(len(widths)))
    return StoreInfo("fake", "f" * 32, "c" * 32, codec, layers, widths, HUBERT_CONVOLUTIONS, True, variance_share)
