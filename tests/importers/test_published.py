"""Published checkpoints give the states of their authors' code, and what is not understood is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.errors import UserError
from fithubert.frames import pad_waveforms
from fithubert.importers.published import import_published
from fithubert.models.runtime import ReadOut
from tests.export.students import draw_waveforms
from tests.importers.authors import Published, publish
from tests.importers.public import relative_error
from tests.models.reference import folder, needs_reference

SHARED = {"layerwise_proj": False, "pred_layer_id": "[1, 3]"}
WHOLE = {"enable_tr_layer": False, "tr_reduce_factor": 1}
PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("fithubert", {}),
    ("fithubert", {"activation_fn": "relu"}),
    ("fithubert", {"tr_layer_index": 2, **SHARED}),
    ("fithubert", {"layer_norm_first": True}),
    ("fithubert", {"layer_norm_first": True, **SHARED}),
    ("fithubert", WHOLE),
    ("fithubert", {**WHOLE, **SHARED}),
    ("distilhubert", {}),
    ("distilhubert", {"activation_fn": "relu", "final_dim": 28}),
    ("distilhubert", {"layer_norm_first": True}),
    ("maskhubert", {}),
    ("maskhubert", {"layer_norm_first": True}),
    ("maskhubert", SHARED),
    ("armhubert", {"activation_fn": "relu"}),
    ("armhubert", {"layer_norm_first": True, "reuse_pattern": "[True, False, False, True]"}),
    ("armhubert", {"extractor_mode": "layer_norm", "conv_bias": True, "required_seq_len_multiple": 2}),
    ("starhubert", {}),
    ("starhubert", {"layer_norm_first": True}),
    # Other shapes: no projection to or from the teacher's width, convolutions of other lengths and rates, other places
    # and factors of the time reduction, one prediction, hidden layers of a width of their own.
    ("fithubert", {"encoder_embed_dim": 16, "pred_head_final_dim": 16, "encoder_ffn_embed_dim": 7}),
    ("fithubert", {"conv_feature_layers": "[(6, 12, 6), (10, 5, 4), (10, 1, 1), (14, 4, 3)]"}),
    ("fithubert", {"conv_feature_layers": "[(8, 400, 320)]", "encoder_layers": 1}),
    ("fithubert", {"conv_pos": 7, "conv_pos_groups": 1, "encoder_attention_heads": 3, "encoder_layers": 3}),
    ("fithubert", {"tr_reduce_factor": 5, "cnn_loss_weight": 0.1, "feature_grad_mult": 0.0}),
    ("fithubert", {"tr_layer_index": 3, "tr_reduce_factor": 3, "encoder_layers": 5, "required_seq_len_multiple": 1}),
    ("fithubert", {"tr_layer_index": 2, "tr_reduce_factor": 4, "layerwise_proj": False, "pred_head_inter_dim": 9}),
    ("fithubert", {"tr_layer_type": "fc1"}),
    ("fithubert", {"tr_layer_type": "fc1", "tr_reduce_factor": 3, "tr_layer_index": 1}),
    ("distilhubert", {"n_tasks": 1, "pred_layer_id": [12], "encoder_layers": 3, "conv_pos": 15, "conv_pos_groups": 3}),
    ("distilhubert", {"encoder_embed_dim": 16, "final_dim": 16, "out_layer_inter_dim": 5, "feature_grad_mult": 0}),
    ("maskhubert", {"layer_norm_first": True, **SHARED}),
    ("maskhubert", {"enable_tr_layer": True, "tr_reduce_factor": 3, "pred_head_final_dim": 24}),
    ("armhubert", {"enable_tr_layer": True, "tr_reduce_factor": 2, "reuse_pattern": "[True, False, False, False]"}),
    ("starhubert", {"encoder_embed_dim": 16, "encoder_layers": 2, "extractor_mode": "layer_norm"}),
]


def load(published: Published, tmp_path: Path, readout: str | None = None) -> ReadOut:
    checkpoint, *config = published.save(tmp_path)
    return ReadOut(import_published(checkpoint, *config, readout=readout), published.family)


@pytest.mark.parametrize(("family", "options"), PUBLISHED)
def test_the_states_are_those_of_the_authors_expert(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    published = publish(family, **options)
    model = load(published, tmp_path, "all" if "final_dim" in options else None)
    shortest = model.student.shortest_samples
    waveforms = draw_waveforms(shortest, shortest + 319, shortest + 321, 16_000, 9_999)
    padded = model(*pad_waveforms(waveforms)).hidden_states
    for row, waveform in enumerate(waveforms):
        alone = model(waveform[None], torch.tensor([len(waveform)])).hidden_states
        wanted = published.states(waveform)
        if options.get("tr_layer_type") == "fc1":  # the authors' code goes on behind the end of the recording
            wanted = [state[: alone[0].shape[1]] for state in wanted]
        assert len(wanted) == len(alone) == len(padded)
        for theirs, one, many in zip(wanted, alone, padded, strict=True):
            assert one[0].shape == theirs.shape
            assert relative_error(one[0], theirs) < 1e-6
            assert relative_error(many[row, : len(theirs)], theirs) < 4e-6


def test_both_readouts_of_s3prls_distilhubert(tmp_path: Path) -> None:
    """`hidden_states` and `paper` of its expert; states of different widths cannot be summed, so layers are read."""
    published, (waveform,) = publish("distilhubert"), draw_waveforms(5000)
    states = load(published, tmp_path)(waveform[None], torch.tensor([5000])).hidden_states
    (paper,) = load(published, tmp_path, "encoder")(waveform[None], torch.tensor([5000])).hidden_states
    assert len(states) == 1 + 2 + 3
    assert relative_error(paper[0], published.states(waveform)[2]) < 1e-6
    assert load(publish("distilhubert", final_dim=28), tmp_path).student.config.readout == "layers"


def test_options_that_are_left_out_have_the_defaults_of_the_public_code(tmp_path: Path) -> None:
    plain, (waveform,) = ("layer_norm_first", "activation_fn", "tr_layer_type"), draw_waveforms(5000)
    for published in (publish("armhubert", plain), publish("distilhubert", plain), publish("starhubert", plain)):
        states = load(published, tmp_path)(waveform[None], torch.tensor([5000])).hidden_states
        assert relative_error(states[-1][0], published.states(waveform)[-1]) < 1e-6
    numbered = publish("distilhubert", without=("pred_layer_id",))
    assert load(numbered, tmp_path, "projections").student.config.heads.layer_map == ((2, 1), (2, 2), (2, 3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation_fn": "tanh"}, "activation_fn 'tanh' is not gelu or relu"),
        ({"required_seq_len_multiple": 4}, "required_seq_len_multiple 4 loses frames with this time reduction"),
        ({"layer_type": "conformer"}, "layer_type 'conformer' is not understood"),
        ({"pos_conv_depth": 3}, "pos_conv_depth 3 is not understood, only 1"),
        ({"tr_layer_index": 4}, "tr_layer_index 4 is no layer of 0 to 3"),
    ],
)
def test_an_option_that_is_not_understood_is_named(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        load(publish("fithubert", **options), tmp_path)


@needs_reference
def test_a_lightning_checkpoint_needs_its_yaml_and_one_that_fits(tmp_path: Path) -> None:
    checkpoint, config = folder("fithubert_tiny", "checkpoint.ckpt"), tmp_path / "config.yaml"
    with pytest.raises(UserError, match=r"name the \.yaml"):
        import_published(checkpoint)
    original = folder("fithubert_tiny", "config.yaml").read_text()
    for change, words in (
        (("encoder_layers: 4", "encoder_layers: 5"), "is missing"),
        (("encoder_embed_dim: 48", "encoder_embed_dim: 64"), "has shape"),
        (("layer_type: transformer", "layer_type: conformer"), "layer_type 'conformer' is not understood"),
        (("encoder_embed_dim: 48", "encoder_embed_dim: wide"), "encoder_embed_dim 'wide' is not a number"),
        (("extractor_mode: default", "extractor_mode: other"), "extractor_mode 'other'"),
        (("distiller:", "student:"), "has no section 'distiller'"),
        (("tr_layer_index: 0", "tr_layer_index: 9"), "tr_layer_index 9 is no layer of 0 to 3"),
    ):
        assert change[0] in original
        config.write_text(original.replace(*change))
        with pytest.raises(UserError, match=words):
            import_published(checkpoint, config)
