import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fithubert.config.params import CacheParams, ExtractParams
from fithubert.errors import UserError
from fithubert.store.basis import fit_basis
from fithubert.store.codec import CODECS, Codec, encode_layer, find_codec, layer_codecs

shapes = st.tuples(st.integers(1, 20), st.integers(1, 9))
#: Whatever float32 can hold, subnormal numbers and neighbours of the largest included.
any_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
matrices = st.one_of(
    hnp.arrays(np.float32, shapes, elements=any_floats),
    hnp.arrays(np.float32, shapes, elements=st.sampled_from([0.0, 1.0, -1.0, 1e6, -3e38, 3e38, 1e-40])),
    hnp.arrays(np.float32, shapes, elements=st.floats(-10, 10, width=32)),
)


def build(name: str, *parts: torch.Tensor, share: float = 0.9999) -> Codec:
    """The codec for one layer; where it has a basis, fitted on `parts`."""
    if not find_codec(name).fitted:
        return layer_codecs(name, (0,), None)[0]
    basis = fit_basis([[part] for part in parts], (0,), share)
    return layer_codecs(name, (0,), basis)[0]


def decode(value: torch.Tensor, codec: Codec, shape: tuple[int, ...], start: int = 0) -> np.ndarray:
    out = torch.full(shape, torch.nan)
    codec.decode(value, start, out)
    return out.numpy()


def coloured(frames: int, width: int, seed: int = 0) -> torch.Tensor:
    """Frames whose variances along random axes fall by a thousand, around a mean."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(99)))[0]
    return torch.randn(frames, width, generator=generator) * torch.logspace(0, -1.5, width) @ axes + 5


@settings(max_examples=200, deadline=None)
@given(matrices)
@example(np.array([[3.4028235e38], [3.5477991e35]], np.float32))
def test_int8_is_off_by_half_a_step_at_most(x: np.ndarray) -> None:
    codec = build("int8")
    value, saturated = codec.encode(torch.from_numpy(x))
    decoded = decode(value, codec, x.shape).astype(np.float64)
    exact = x.clip(-3e38, 3e38).astype(np.float64)
    span = exact.max(0) - exact.min(0)
    # Half a step of 254, and the rounding of float32 itself.
    bound = span / 508 + 4 * np.abs(exact).max(0) * np.finfo(np.float32).eps + 127 * np.finfo(np.float32).tiny
    assert saturated == int((np.abs(x) > 3e38).sum())
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - exact) <= bound).all()


@settings(max_examples=200, deadline=None)
@given(matrices)
def test_float32_is_exact(x: np.ndarray) -> None:
    codec = build("float32")
    value, saturated = codec.encode(torch.from_numpy(x))
    assert saturated == 0
    np.testing.assert_array_equal(decode(value, codec, x.shape), x)


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_float16_is_the_nearest_half_or_counted_as_clipped(x: np.ndarray) -> None:
    codec = build("float16")
    value, saturated = codec.encode(torch.from_numpy(x))
    decoded = decode(value, codec, x.shape)
    assert saturated == int((np.abs(x) > 65504).sum())
    np.testing.assert_array_equal(decoded, np.clip(x, -65504, 65504).astype(np.float16).astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(matrices)
def test_pca_int8_survives_whatever_float32_holds(x: np.ndarray) -> None:
    codec = build("pca_int8", coloured(50, x.shape[1]), share=0.9999999)
    value, saturated = codec.encode(torch.from_numpy(x))
    assert saturated == int((np.abs(x) > 1e30).sum())
    decoded = decode(value, codec, x.shape).astype(np.float64)
    exact = np.clip(x, -1e30, 1e30).astype(np.float64)
    # All axes are kept: half a step of each, whose largest code is at most the longest frame's distance from the mean.
    longest = np.sqrt(((exact - 5) ** 2).sum(1).max())
    assert (np.abs(decoded - exact) <= (longest / 254 + 1e-5 * longest) * np.sqrt(x.shape[1]) + 0.02).all()


@settings(max_examples=60, deadline=None)
@given(matrices, st.sampled_from(sorted(CODECS)), st.data())
def test_decoding_a_crop_is_cropping_the_decoded(x: np.ndarray, name: str, data: st.DataObject) -> None:
    codec = build(name, coloured(50, x.shape[1]))
    value, _ = codec.encode(torch.from_numpy(x))
    start = data.draw(st.integers(0, len(x) - 1))
    count = data.draw(st.integers(1, len(x) - start))
    assert value.numel() == codec.count_bytes(*x.shape)
    # Values start at any byte of their column.
    shifted = torch.cat([torch.zeros(2, dtype=torch.uint8), value])[2:]
    crop = decode(shifted, codec, (count, x.shape[1]), start)
    whole = decode(value, codec, x.shape)
    # The sums of a rotation, here of numbers up to 20, are taken in an order that depends on the number of frames.
    tolerance = 1e-5 * (np.abs(whole).max() + 20) if find_codec(name).fitted else 0
    np.testing.assert_allclose(crop, whole[start : start + count], rtol=0, atol=tolerance)


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999, 0.9999])
def test_pca_int8_keeps_the_stated_share(share: float) -> None:
    fitted = [coloured(200, 24, seed) for seed in range(20)]
    codec = build("pca_int8", *fitted, share=share)
    for parts, slack in ((fitted, 1.001), ([coloured(200, 24, seed) for seed in range(100, 120)], 1.1)):
        layers = [encode_layer(part, codec) for part in parts]
        lost = sum(float(layer.error.sum()) for layer in layers) / sum(float(layer.spread.sum()) for layer in layers)
        assert 0.8 * (1 - share) <= lost <= slack * (1 - share)


def test_pca_int8_drops_what_does_not_vary_and_costs_less_for_less() -> None:
    low_rank = coloured(300, 24) @ torch.nn.functional.pad(torch.eye(24)[:, :6], (0, 18))
    assert build("pca_int8", low_rank).count_bytes(10, 24) == 6 * (4 + 10)
    full = coloured(2000, 24)
    costs = [
        codec.count_bytes(1000, 24) * codec.stored_share
        for codec in (build("pca_int8", full, share=share) for share in (0.9, 0.99, 0.9999))
    ]
    assert costs[0] < 0.4 * costs[2]
    assert costs == sorted(costs)
    assert costs[2] < 0.85 * build("int8").count_bytes(1000, 24)


def test_axes_are_those_of_the_covariance_and_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=generator) * torch.tensor([1.0, 30.0, 5.0]) + torch.tensor([0.0, 7.0, -3.0])
    basis = fit_basis([[x]], (0,), 0.9999).layers[0]
    torch.testing.assert_close(basis.mean, x.mean(0))
    assert basis.axes.abs().argmax(1).tolist() == [1, 2, 0][: basis.components]


def test_distances_between_codes_are_distances_between_values() -> None:
    x, y = coloured(40, 12, 1), coloured(40, 12, 2)
    basis = fit_basis([[x], [y]], (0,), 0.999).layers[0]
    torch.testing.assert_close(basis.axes @ basis.axes.T, torch.eye(basis.components), rtol=0, atol=1e-5)
    codec = build("pca_int8", x, y, share=0.999)
    decoded = [torch.from_numpy(decode(codec.encode(part)[0], codec, (40, 12))) for part in (x, y)]
    rotated = [(part - basis.mean) @ basis.axes.T for part in decoded]
    torch.testing.assert_close((rotated[0] - rotated[1]).square().sum(), (decoded[0] - decoded[1]).square().sum())


@pytest.mark.parametrize("constant", [0.0, 7.25])
def test_pca_int8_of_a_constant_layer(constant: float) -> None:
    x = torch.full((30, 5), constant)
    codec = build("pca_int8", x)
    np.testing.assert_array_equal(decode(codec.encode(x)[0], codec, (30, 5)), x.numpy())


def test_constant_channels_cost_nothing_and_outliers_stay_in_their_channel() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 7.25
    x[3, 2] = 1e6
    layer = encode_layer(x, build("int8"))
    errors = (layer.error / layer.spread.clamp(min=1e-30)).sqrt()
    assert errors[1] == 0
    assert errors[0] < 0.01
    assert layer.saturated == 0


def test_statistics_are_the_error_of_the_decoded() -> None:
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(1)) + 3
    for name in CODECS:
        codec = build(name, x)
        layer = encode_layer(x, codec)
        decoded = torch.from_numpy(decode(torch.frombuffer(bytearray(layer.value), dtype=torch.uint8), codec, x.shape))
        torch.testing.assert_close(layer.error, (x.double() - decoded.double()).square().sum(0))
        torch.testing.assert_close(layer.spread, (x.double() - x.double().mean(0)).square().sum(0))


def test_unknown_codec_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="'int4'; known: float16, int8, pca_int8"):
        find_codec("int4")


def test_params_offer_every_codec() -> None:
    for section in (CacheParams, ExtractParams):
        assert set(section.model_fields["codec"].annotation.__args__) == set(CODECS)  # type: ignore[union-attr]
