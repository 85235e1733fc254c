"""Variants compared with the noise of their seeds: scipy's formulas written out, and cases without noise."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from fithubert.search.ablation import compare_variants

ROWS = st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=2, max_size=5)


@example([[0.0, 0.0, -1.0], [1.0, 0.0, -2.0]])
@given(ROWS)
def test_the_interval_and_the_test_are_the_textbook_ones(rows: list[list[float]]) -> None:
    values = {f"v{i}": row for i, row in enumerate(rows)}
    compared = compare_variants(values)
    table = np.array(rows)
    within, freedom = ((table - table.mean(1, keepdims=True)) ** 2).sum(), 2 * len(rows)
    between = 3 * ((table.mean(1) - table.mean()) ** 2).sum()
    assert compared.seed_deviation == pytest.approx(math.sqrt(within / freedom), abs=1e-9)
    wide = stats.t(freedom).ppf(0.975) * math.sqrt(within / freedom / 3)
    assert compared.half_width == pytest.approx(wide, abs=1e-9)
    if within > 1e-6:
        f = between / (len(rows) - 1) / (within / freedom)
        assert compared.f == pytest.approx(f, rel=1e-5, abs=1e-9)
        assert compared.p == pytest.approx(stats.f(len(rows) - 1, freedom).sf(f), rel=1e-4, abs=1e-9)


def test_one_seed_gives_no_noise() -> None:
    compared = compare_variants({"a": [1.0], "b": [2.0]})
    assert compared.means == {"a": 1.0, "b": 2.0}
    assert compared.half_width is compared.seed_deviation is compared.f is compared.p is None


def test_seeds_without_any_noise_have_no_test() -> None:
    compared = compare_variants({"a": [1.0, 1.0], "b": [2.0, 2.0]})
    assert compared.half_width == 0.0
    assert compared.p is None


def test_a_variant_without_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="every variant"):
        compare_variants({"a": [1.0], "b": []})
