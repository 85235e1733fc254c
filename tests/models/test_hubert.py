"""The canonical model against torchaudio's, and its independence of padding."""

import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.teacher import HubertConfig, hubert_base
from fithubert.frames import count_frames, pad_waveforms
from fithubert.importers.names import build_teacher
from fithubert.importers.torchaudio import LAYOUT
from fithubert.models.hubert import HubertModel, HubertTeacher

CONV = ((8, 10, 5), (12, 3, 2), (12, 3, 2), (12, 3, 2), (16, 3, 2), (16, 2, 2), (16, 2, 2))


def tiny_config(norm_first: bool = False, conv_norm: str = "group", normalise: bool = False) -> HubertConfig:
    return HubertConfig(
        conv_layers=CONV,
        conv_norm=conv_norm,
        conv_bias=conv_norm == "layer",
        width=24,
        depth=3,
        ffn_width=48,
        attention_heads=4,
        norm_first=norm_first,
        pos_conv_kernel=16,
        pos_conv_groups=4,
        normalise_waveform=normalise,
    )


@pytest.mark.parametrize("norm_first", [False, True])
def test_hidden_states_equal_torchaudio(norm_first: bool) -> None:
    torch.manual_seed(3)
    conv_norm = "layer" if norm_first else "group"
    config = tiny_config(norm_first, conv_norm)
    reference = torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm" if norm_first else "group_norm",
        extractor_conv_layer_config=[list(layer) for layer in CONV],
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=24,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=3,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=48,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=norm_first,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    teacher = build_teacher(config, reference.state_dict(), LAYOUT, "tiny", "torchaudio")
    waveform = torch.randn(1, 6000)
    ours = teacher(waveform, torch.tensor([6000])).hidden_states[1:]
    with torch.inference_mode():
        theirs, _ = reference.extract_features(waveform)
        if norm_first:  # torchaudio leaves the final layer norm to forward()
            theirs[-1] = reference(waveform)[0]
    for ours_layer, theirs_layer in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_layer, theirs_layer, atol=2e-5, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(400, 9000), min_size=2, max_size=4),
    shape=st.sampled_from([(False, "group", False), (True, "layer", True), (False, "group", True)]),
)
def test_batched_equals_one_by_one(lengths: list[int], shape: tuple[bool, str, bool]) -> None:
    torch.manual_seed(5)
    teacher = HubertTeacher(HubertModel(tiny_config(*shape)), "tiny")
    waveforms = [torch.randn(n) * 0.1 for n in lengths]
    batched = teacher(*pad_waveforms(waveforms))
    assert batched.lengths.tolist() == [count_frames(n) for n in lengths]
    for row, waveform in enumerate(waveforms):
        alone = teacher(waveform[None], torch.tensor([len(waveform)]))
        for one, many in zip(alone.hidden_states, batched.hidden_states, strict=True):
            torch.testing.assert_close(one[0], many[row, : one.shape[1]], atol=1e-4, rtol=1e-4)


def test_a_wide_model_runs_one_by_one_on_a_cpu_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = HubertTeacher(HubertModel(tiny_config()), "tiny", mask_embedding=torch.randn(24))
    batch = pad_waveforms([torch.randn(4000), torch.randn(3000), torch.randn(400)])
    masked = torch.rand(3, count_frames(4000)) < 0.5
    together = teacher(*batch), teacher(*batch, last_layer=2, masked=masked)
    monkeypatch.setattr("fithubert.models.hubert._WIDE", 24)
    alone = teacher(*batch), teacher(*batch, last_layer=2, masked=masked)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.lengths, other.lengths)
        assert len(one.hidden_states) == len(other.hidden_states)
        for ours, theirs in zip(one.hidden_states, other.hidden_states, strict=True):
            for row, frames in enumerate(one.lengths.tolist()):
                torch.testing.assert_close(ours[row, :frames], theirs[row, :frames], atol=1e-4, rtol=1e-4)


def test_last_layer_stops_early_with_the_same_states() -> None:
    teacher = HubertTeacher(HubertModel(tiny_config()), "tiny")
    batch = pad_waveforms([torch.randn(4000), torch.randn(3000)])
    short, full = teacher(*batch, last_layer=1), teacher(*batch)
    assert len(short.hidden_states) == 2
    torch.testing.assert_close(short.hidden_states[1], full.hidden_states[1])


def test_base_has_the_published_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in HubertModel(hubert_base()).parameters()) == 94_370_944


def test_fingerprint_follows_the_weights() -> None:
    model = HubertModel(tiny_config())
    first = HubertTeacher(model, "a").fingerprint
    assert HubertTeacher(model, "b").fingerprint == first
    with torch.no_grad():
        model.projection.bias[0] += 1e-3
    assert HubertTeacher(model, "a").fingerprint != first
