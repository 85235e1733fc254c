import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fithubert.config.params import CacheParams
from fithubert.errors import UserError
from fithubert.features.codec import CODECS, find_codec
from fithubert.features.writer import encode_layer

shapes = st.tuples(st.integers(1, 20), st.integers(1, 9))
#: Whatever float32 can hold, subnormal numbers and neighbours of the largest included.
any_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
matrices = st.one_of(
    hnp.arrays(np.float32, shapes, elements=any_floats),
    hnp.arrays(np.float32, shapes, elements=st.sampled_from([0.0, 1.0, -1.0, 1e6, -3e38, 3e38, 1e-40])),
    hnp.arrays(np.float32, shapes, elements=st.floats(-10, 10, width=32)),
)


def decode(value: torch.Tensor, name: str, shape: tuple[int, ...], start: int = 0) -> np.ndarray:
    out = torch.full(shape, torch.nan)
    find_codec(name).decode(value, start, out)
    return out.numpy()


@settings(max_examples=200, deadline=None)
@given(matrices)
def test_int8_is_off_by_half_a_step_at_most(x: np.ndarray) -> None:
    value, saturated = CODECS["int8"].encode(torch.from_numpy(x))
    decoded = decode(value, "int8", x.shape).astype(np.float64)
    exact = x.astype(np.float64)
    span = exact.max(0) - exact.min(0)
    # Half a step of 254, and the rounding of float32 itself.
    bound = span / 508 + 4 * np.abs(exact).max(0) * np.finfo(np.float32).eps + 127 * np.finfo(np.float32).tiny
    assert saturated == 0
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - exact) <= bound).all()


@settings(max_examples=200, deadline=None)
@given(matrices)
def test_float16_is_the_nearest_half_or_counted_as_clipped(x: np.ndarray) -> None:
    value, saturated = CODECS["float16"].encode(torch.from_numpy(x))
    decoded = decode(value, "float16", x.shape)
    assert saturated == int((np.abs(x) > 65504).sum())
    np.testing.assert_array_equal(decoded, np.clip(x, -65504, 65504).astype(np.float16).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(matrices, st.sampled_from(sorted(CODECS)), st.data())
def test_decoding_a_crop_is_cropping_the_decoded(x: np.ndarray, name: str, data: st.DataObject) -> None:
    value, _ = CODECS[name].encode(torch.from_numpy(x))
    start = data.draw(st.integers(0, len(x) - 1))
    count = data.draw(st.integers(1, len(x) - start))
    assert value.numel() == CODECS[name].count_bytes(*x.shape)
    # Values start at any byte of their column.
    shifted = torch.cat([torch.zeros(2, dtype=torch.uint8), value])[2:]
    crop = decode(shifted, name, (count, x.shape[1]), start)
    np.testing.assert_array_equal(crop, decode(value, name, x.shape)[start : start + count])


def test_constant_channels_cost_nothing_and_outliers_stay_in_their_channel() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7.25
    x[3, 2] = 1e6
    layer = encode_layer(x, "int8")
    errors = (layer.error / layer.spread.clamp(min=1e-30)).sqrt()
    assert errors[1] == 0
    assert errors[0] < 0.01
    assert layer.saturated == 0


def test_statistics_are_the_error_of_the_decoded() -> None:
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(1)) + 3
    for name in CODECS:
        layer = encode_layer(x, name)
        decoded = torch.from_numpy(decode(torch.frombuffer(bytearray(layer.value), dtype=torch.uint8), name, x.shape))
        torch.testing.assert_close(layer.error, (x.double() - decoded.double()).square().sum(0))
        torch.testing.assert_close(layer.spread, (x.double() - x.double().mean(0)).square().sum(0))


def test_unknown_codec_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="'int4'; known: float16, int8"):
        find_codec("int4")


def test_params_offer_every_codec() -> None:
    assert set(CacheParams.model_fields["codec"].annotation.__args__) == set(CODECS)  # type: ignore[union-attr]
