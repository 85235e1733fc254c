"""Shapes of any teacher at a requested size: close to the request, valid, and refused with the possible sizes."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fithubert.config.teacher import HubertConfig, hubert_base
from fithubert.errors import UserError
from fithubert.frames import HUBERT_CONVOLUTIONS
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertModel
from fithubert.models.recipes import resolve
from fithubert.models.scaling import SCALABLE, scaled_shape
from fithubert.models.weights import released_counts, without_memory


def count(teacher: HubertConfig) -> int:
    with without_memory():
        return sum(parameter.numel() for parameter in HubertModel(teacher).parameters())


@st.composite
def teachers(draw: st.DrawFn) -> HubertConfig:
    """Eight to 64 features a head; the front end up to twice as wide as the encoder."""
    heads = draw(st.sampled_from([2, 4, 12, 16]))
    groups = draw(st.sampled_from([2, 16])) if heads != 12 else 12
    width = max(heads, groups) * draw(st.integers(8, 64))
    channels = max(8, int(width * draw(st.floats(0.3, 1.0))))
    return HubertConfig(
        conv_layers=tuple((channels, kernel, stride) for kernel, stride in HUBERT_CONVOLUTIONS),
        width=width,
        depth=draw(st.integers(2, 24)),
        ffn_width=width * draw(st.integers(2, 4)),
        attention_heads=heads,
        norm_first=draw(st.booleans()),
        pos_conv_groups=groups,
    )


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(teacher=teachers(), recipe=st.sampled_from(SCALABLE), size=st.floats(0.02, 0.9))
def test_the_size_is_within_a_fifth_of_the_request(teacher: HubertConfig, recipe: str, size: float) -> None:
    parameters = count(teacher)
    try:
        shape = scaled_shape(recipe, teacher, parameters, size)
    except UserError:
        assume(False)
    config = resolve(recipe, shape)
    assert released_counts(config).total / parameters == pytest.approx(size, rel=0.2)
    assert config.depth == teacher.depth
    assert config.width <= teacher.width
    assert config.heads.teacher_width == teacher.width


def test_a_quarter_of_hubert_base_is_about_the_paper_student() -> None:
    parameters = count(hubert_base())
    shape = scaled_shape("fithubert", hubert_base(), parameters, 0.2335)
    assert (shape["width"], shape["pos_conv_groups"]) == (480, 16)
    assert released_counts(resolve("fithubert", shape)).total == pytest.approx(22_030_784, rel=0.02)


@pytest.mark.parametrize("recipe", ["fithubert", "fithubert_mel", "fithubert_late", "half_width"])
def test_at_the_size_of_the_recipe_a_student_of_hubert_base_is_the_recipe(recipe: str) -> None:
    """But for the sizes of the convolutions and of the feed-forward maps, which are rounded."""
    config, parameters = resolve(recipe), count(hubert_base())
    size = released_counts(config).total / parameters
    scaled = resolve(recipe, scaled_shape(recipe, hubert_base(), parameters, size))
    rounded = {"conv_layers", "ffn_width", "pos_conv_groups"}
    assert scaled.model_dump(exclude=rounded) == config.model_dump(exclude=rounded)
    assert scaled.ffn_width == pytest.approx(config.ffn_width, rel=0.1)


def test_what_a_recipe_says_of_layers_and_heads_follows_the_teacher() -> None:
    """Large has 24 layers and 16 heads of 64; the recipe 12 layers, 4 heads of 48 at a width of 480."""
    large = hubert_base().model_copy(update={"depth": 24, "width": 1024, "ffn_width": 4096, "attention_heads": 16})
    config = resolve("fithubert_late", scaled_shape("fithubert_late", large, count(large), 0.2))
    assert config.time_reduction.before_layer == 10
    assert config.heads.read == (10, 22, 24)
    assert config.attention_heads == 5
    assert config.head_width == pytest.approx(0.4 * config.width / 5, abs=0.5)
    small = load_teacher("mini").model.config
    config = resolve("fithubert_late", scaled_shape("fithubert_late", small, count(small), 0.25))
    assert (config.attention_heads, config.heads.read, config.time_reduction.before_layer) == (4, (5, 11, 12), 5)
    assert config.head_width == pytest.approx(config.width / 10, abs=0.5)


@pytest.mark.parametrize(("size", "recipe"), [(0.001, "fithubert"), (0.95, "fithubert")])
def test_an_impossible_size_is_refused_with_the_possible_ones(size: float, recipe: str) -> None:
    with pytest.raises(UserError, match=rf"--size {size}: a fithubert student of this teacher has 0\.\d+ to 0\.\d+ of"):
        scaled_shape(recipe, hubert_base(), count(hubert_base()), size)


def test_a_recipe_with_losses_of_its_own_is_refused() -> None:
    possible = "fithubert, fithubert_lite, fithubert_mel, fithubert_late, half_width"
    with pytest.raises(UserError, match=f"--recipe starhubert: not one of {possible}"):
        scaled_shape("starhubert", hubert_base(), count(hubert_base()), 0.2)
