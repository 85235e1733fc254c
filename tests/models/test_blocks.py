"""Building blocks: equal to torch's own where nothing is padded, independent of padding where something is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torchaudio.compliance import kaldi

from fithubert.frames import attention_mask, count_frames, pad_waveforms
from fithubert.models.encoder import (
    EncoderLayer,
    EncoderLayerConfig,
    PositionalConv,
    SelfAttention,
)
from fithubert.models.frontend import ConvFrontend, MaskedGroupNorm, MelFrontend

LENGTHS = torch.tensor([12, 7])


def test_group_norm_without_padding_is_torchs() -> None:
    ours, theirs = MaskedGroupNorm(6), nn.GroupNorm(6, 6)
    x = torch.randn(2, 6, 12) * 3 + 1
    torch.testing.assert_close(ours(x, torch.tensor([12, 12])), theirs(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_group_norm_leaves_padding_out() -> None:
    norm, x = MaskedGroupNorm(6), torch.randn(2, 6, 12)
    x[1, :, 7:] = 50.0
    torch.testing.assert_close(norm(x, LENGTHS)[1, :, :7], norm(x[1:, :, :7])[0], atol=1e-5, rtol=1e-5)


def test_group_norm_is_in_full_precision_under_autocast() -> None:
    norm, x = MaskedGroupNorm(6), torch.randn(2, 6, 12) + 3
    with torch.autocast("cpu", torch.bfloat16):
        half = norm(x, LENGTHS)
        unpadded = norm(x.bfloat16())
    torch.testing.assert_close(half, norm(x, LENGTHS))
    torch.testing.assert_close(unpadded, norm(x.bfloat16().float()))


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_equals_torchs(norm_first: bool) -> None:
    ours = EncoderLayer(EncoderLayerConfig(16, 24, 4, norm_first=norm_first)).eval()
    theirs = nn.TransformerEncoderLayer(
        16, 4, 24, activation="gelu", batch_first=True, norm_first=norm_first, dropout=0.0
    )
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
        attention = ours.attention
        projections = (attention.query, attention.key, attention.value)
        theirs.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        theirs.self_attn.out_proj.load_state_dict(attention.out.state_dict())
        theirs.linear1.load_state_dict(ours.ffn_in.state_dict())
        theirs.linear2.load_state_dict(ours.ffn_out.state_dict())
        theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
        theirs.norm2.load_state_dict(ours.ffn_norm.state_dict())
    x = torch.randn(2, 12, 16)
    padding = torch.arange(12)[None] >= LENGTHS[:, None]
    expected = theirs.train()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(ours(x, attention_mask(LENGTHS, 12)), expected, atol=1e-5, rtol=1e-5)


def test_attention_by_its_own_map_is_attention() -> None:
    attention = SelfAttention(EncoderLayerConfig(16, 24, 4))
    nn.init.normal_(attention.query.weight)
    x, mask = torch.randn(2, 12, 16), attention_mask(LENGTHS, 12)
    weights = attention.weights(x, mask)
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 4, 12))
    assert not weights[1, :, :, 7:].any()
    torch.testing.assert_close(attention(x, mask, weights), attention(x, mask), atol=1e-5, rtol=1e-5)


def test_a_limited_context_masks_all_but_the_nearest_keys_and_leaves_padding_one() -> None:
    mask = attention_mask(LENGTHS, 12, 2)
    assert mask is not None
    assert mask.shape == (2, 1, 12, 12)
    for row, length in enumerate(LENGTHS.tolist()):
        for query in range(12):
            wanted = [key for key in range(12) if abs(key - query) <= 2 and (key < length or key == query)]
            assert mask[row, 0, query].nonzero().flatten().tolist() == wanted
    unpadded = attention_mask(torch.tensor([12, 12]), 12, 2)
    assert unpadded is not None
    assert torch.equal(unpadded[0], mask[LENGTHS.argmax()])


def test_a_row_without_frames_is_finite() -> None:
    layer = EncoderLayer(EncoderLayerConfig(16, 24, 4))
    for context in (None, 0, 2):
        assert layer(torch.randn(2, 5, 16), attention_mask(torch.tensor([5, 0]), 5, context)).isfinite().all()
    assert attention_mask(torch.tensor([5, 5]), 5) is None


@pytest.mark.parametrize("kernel", [7, 8])
def test_positional_convolution_keeps_the_frames_and_sees_no_padding(kernel: int) -> None:
    positional = PositionalConv(16, kernel, 4)
    x = torch.randn(2, 12, 16)
    x[1, 7:] = 50.0
    y = positional(x, LENGTHS)
    assert y.shape == x.shape
    torch.testing.assert_close(y[1, :7], positional(x[1:, :7], torch.tensor([7]))[0], atol=1e-5, rtol=1e-5)
    torchs = parametrizations.weight_norm(nn.Conv1d(16, 16, kernel, padding=kernel // 2, groups=4), dim=2)
    torchs.load_state_dict(positional.conv.state_dict())
    assert torch.equal(torchs.weight, positional.conv.weight)
    state = torch.random.get_rng_state()
    positional.fold_weight_norm()
    positional.fold_weight_norm()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(positional.state_dict()) == {"conv.weight", "conv.bias"}
    torch.testing.assert_close(positional(x, LENGTHS), y, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_front_end_keeps_the_scale_of_its_input(norm: str) -> None:
    """From random weights, features are neither vanishing nor exploding behind seven layers."""
    torch.manual_seed(0)
    frontend = ConvFrontend(((64, 10, 5), *[(64, 3, 2)] * 4, *[(64, 2, 2)] * 2), norm, bias=False)
    features, frames = frontend(torch.randn(1, 16_000), torch.tensor([16_000]))
    assert features.shape == (1, 49, 64)
    assert frames.tolist() == [49]
    assert 0.1 < features.std() < 3


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(400, 60_000), bands=st.sampled_from([23, 80]))
def test_filter_banks_are_kaldis_with_a_margin_of_5_ms_and_a_floor(samples: int, bands: int) -> None:
    waveform = torch.randn(1, samples, generator=torch.Generator().manual_seed(samples)) * 0.1
    ours = MelFrontend(bands, "group").log_energies(waveform)[0].T
    theirs = kaldi.fbank(
        nn.functional.pad(waveform, (80, 80)),
        num_mel_bins=bands,
        dither=0.0,
        preemphasis_coefficient=0.0,
        remove_dc_offset=False,
        window_type="hanning",
    )
    assert len(ours) == 2 * count_frames(samples)
    torch.testing.assert_close(ours.exp() - 1e-7, theirs[: len(ours)].exp(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_filter_banks_are_centred_where_the_teachers_frames_are(norm: str) -> None:
    """Backwards speech gives the same windows backwards, since both have frames that are their own mirror image."""
    torch.manual_seed(0)
    frontend = MelFrontend(80, norm).eval()
    waveform, lengths = torch.randn(1, 400 + 20 * 320) * 0.1, torch.tensor([400 + 20 * 320])
    forwards, frames = frontend(waveform, lengths)
    backwards, _ = frontend(waveform.flip(1), lengths)
    assert frames.tolist() == [21]
    windows = forwards.unflatten(2, (-1, 2))
    mirrored = backwards.unflatten(2, (-1, 2)).flip(1, 3)
    torch.testing.assert_close(windows, mirrored, atol=1e-3, rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(400, 60_000), min_size=2, max_size=4), norm=st.sampled_from(["group", "layer"]))
def test_filter_banks_do_not_depend_on_the_batch(lengths: list[int], norm: str) -> None:
    frontend = MelFrontend(40, norm).eval()
    generator = torch.Generator().manual_seed(sum(lengths))
    waveforms = [torch.randn(n, generator=generator) * 0.1 for n in lengths]
    padded, counts = pad_waveforms(waveforms)
    batch, frames = frontend(padded + 5 * (torch.arange(padded.shape[1]) >= counts[:, None]), counts)
    for row, waveform in enumerate(waveforms):
        alone, _ = frontend(waveform[None], counts[row : row + 1])
        assert frames[row] == alone.shape[1] == count_frames(len(waveform))
        torch.testing.assert_close(batch[row, : frames[row]], alone[0], atol=1e-4, rtol=1e-4)


def test_filter_banks_are_in_full_precision_under_autocast() -> None:
    frontend, waveform, lengths = MelFrontend(80, "group").eval(), torch.randn(1, 8000) * 1e-3, torch.tensor([8000])
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = frontend(waveform, lengths)
    torch.testing.assert_close(half, frontend(waveform, lengths)[0])
