"""Recipes: their published parameter counts, and what `resolve` makes of changes."""

import json

import pytest

from fithubert.config.teacher import hubert_base
from fithubert.errors import UserError
from fithubert.frames import receptive_field
from fithubert.models.macs import count_macs
from fithubert.models.recipes import RECIPES, resolve
from fithubert.models.weights import parameter_counts
from tests.models.reference import folder, needs_reference

#: Recipe -> (what is counted, the exact number, the published number in millions).
PUBLISHED = {
    "fithubert": ("published", 22_492_064, 22.49),
    "distilhubert": ("total", 23_491_200, 23.49),
    "half_width": ("total", 26_872_960, 26.87),
    "armhubert": ("total", 26_447_968, 26.45),
    "armhubert_s": ("total", 22_393_648, 22.39),
    "maskhubert": ("total", 26_635_360, 26.64),
    "starhubert": ("total", 22_308_592, 22.31),
    "starhubert_l": ("total", 26_626_672, 26.63),
}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_parameters_are_the_published_ones(recipe: str) -> None:
    what, exact, published = PUBLISHED[recipe]
    assert getattr(parameter_counts(RECIPES[recipe]()), what) == exact
    assert round(exact / 1e6, 2) == published


def test_fithubert_in_parts() -> None:
    counts = parameter_counts(resolve("fithubert"))
    assert (counts.trunk, counts.total, counts.trained) == (21_200_096, 22_030_784, 31_168_352)
    assert counts.trained + counts.unused_in_reference == 31_629_632  # FitW2V2's published 31.63M
    assert round(counts.published / 94_371_712 * 100, 1) == 23.8  # of HuBERT Base with its mask embedding


def test_the_lite_front_end_costs_less_than_half_at_the_same_frame_rate() -> None:
    lite, published = resolve("fithubert_lite"), resolve("fithubert")
    second = [count_macs(config, 16_000)["front_end"] for config in (lite, published)]
    assert second[0] < 0.3 * second[1]
    assert receptive_field([layer[1:] for layer in lite.conv_layers]) == (400, 320)
    assert parameter_counts(lite).total == 21_063_360
    assert lite.model_copy(update={"conv_layers": published.conv_layers}) == published


def test_only_the_public_armhubert_applies_softmax_twice() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe().second_softmax} == {"armhubert", "armhubert_s"}
    assert not resolve("armhubert", {"second_softmax": False}).second_softmax


def test_filter_banks_leave_two_fifths_of_the_multiplications() -> None:
    mel, published, base = resolve("fithubert_mel"), resolve("fithubert"), hubert_base()
    ours, theirs, teachers = (sum(count_macs(config, 160_000).values()) for config in (mel, published, base))
    assert ours / 10 == pytest.approx(566.0e6, rel=1e-4)
    assert (round(ours / theirs, 2), round(ours / teachers, 3)) == (0.39, 0.076)
    assert parameter_counts(mel).total == 18_554_432


def test_every_recipe_is_published_or_ours() -> None:
    assert RECIPES.keys() - PUBLISHED.keys() == {"fithubert_lite", "fithubert_mel", "fithubert_late"}


@needs_reference
def test_counts_without_time_reduction_are_the_recorded_ones() -> None:
    recorded = json.loads(folder("paper_counts.json").read_text())["fithubert_published_tr_off"]
    counts = parameter_counts(resolve("fithubert", {"time_reduction": {"kind": "none"}}))
    assert counts.trunk == recorded["total_inference_no_head_no_upsampler"]
    assert counts.total == recorded["total_inference_one_head"]
    assert counts.trained == recorded["total_training_all_heads"]


def test_a_scaled_student_keeps_the_rest_of_its_recipe() -> None:
    shape = {"width": 96, "ffn_width": 96, "heads": {"teacher_width": 192}, "time_reduction": {"factor": 3}}
    config = resolve("fithubert", shape)
    assert (config.width, config.depth, config.heads.teacher_width) == (96, 12, 192)
    assert config.time_reduction.kind == "conv1d"
    assert config.time_reduction.factor == 3
    assert config.heads.layer_map == tuple((layer, layer) for layer in range(1, 13))


def test_the_layer_map_follows_the_depth() -> None:
    assert resolve("fithubert", {"depth": 4}).heads.layer_map == ((1, 1), (2, 2), (3, 3), (4, 4))
    assert resolve("distilhubert", {"depth": 3}).heads.layer_map == ((3, 4), (3, 8), (3, 12))
    assert resolve("starhubert", {"depth": 2}).heads.layer_map == ((0, 0), (1, 1), (2, 2))
    assert resolve("armhubert", {"depth": 4}).reuse_attention == (1, 3)
    mapped = resolve("fithubert", {"depth": 2, "heads": {"layer_map": [[1, 6], [2, 12]]}})
    assert mapped.heads.layer_map == ((1, 6), (2, 12))


@pytest.mark.parametrize(
    ("recipe", "shape", "words"),
    [
        ("fithuberto", {}, "not one of armhubert, armhubert_s, distilhubert, fithubert, fithubert_late, "),
        ("fithubert", {"widht": 96}, "widht: unknown key; valid keys: conv_layers"),
        ("fithubert", {"width": 100}, "attention_heads 12 does not divide width 100"),
        ("fithubert", {"heads": {"kid": "none"}}, "unknown key; valid keys: kind, layer_map"),
        ("fithubert", {"time_reduction": {"before_layer": 12}}, r"before_layer must be 0\.\.11"),
        ("fithubert", {"heads": {"layer_map": [[13, 1]]}}, r"student layer 13 is not in 1\.\.12"),
        ("fithubert", {"heads": {"layer_map": [[1, 1], [1, 1]]}}, "the same pair is listed twice"),
        ("fithubert", {"heads": {"layer_map": []}}, "readout 'last' needs an entry"),
        ("distilhubert", {"heads": {"layer_map": [[1, 4]]}}, "shared heads read the last layer, 2, only"),
        ("fithubert", {"frontend": "mel"}, r"frontend mel needs \[\]"),
        ("fithubert", {"context_frames": 8}, "context_frames: needs conv_norm: layer, since group norm"),
        ("fithubert", {"context_frames": 0, "conv_norm": "layer"}, "context_frames: .*greater than 0"),
        ("fithubert", {"conv_layers": []}, "conv_layers: frontend conv needs at least one convolution"),
        ("fithubert_mel", {"mel_bands": 113}, "mel_bands: .*less than or equal to 112"),
        ("fithubert_mel", {"time_reduction": {"before_layer": 1}}, "kind stack: before_layer must be 0"),
        ("fithubert", {"time_reduction": {"kind": "stack", "drop_last_frame": True}}, "drop_last_frame false"),
        ("armhubert", {"time_reduction": {"kind": "stack"}}, "kind stack: .*masking null"),
        ("fithubert", {"reuse_attention": [0]}, "layer 0 has no layer before it"),
        ("armhubert", {"time_reduction": {"kind": "mean", "before_layer": 3}}, "layer 3 has no layer before it"),
    ],
)
def test_mistakes_are_named(recipe: str, shape: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        resolve(recipe, shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("depth", "read"), [(12, (5, 11, 12)), (11, (5, 11)), (4, (4,))])
def test_of_the_heads_that_a_recipe_reads_those_are_left_that_the_depth_has(depth: int, read: tuple[int, ...]) -> None:
    shape = {"depth": depth}
    assert resolve("fithubert_late", shape).heads.read == read
    assert resolve("fithubert_late", shape).time_reduction.before_layer == min(5, depth - 1)
    with pytest.raises(UserError, match=r"read: no head predicts teacher layer 13"):
        resolve("fithubert_late", {**shape, "heads": {"read": [13]}})
