"""Variants against the noise of their seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Comparison:
    """One figure over variants, each with one value per seed.

    `half_width`: of the 95 % interval of a variant's mean, from the deviation between seeds pooled over variants
    (Student's t); that of a difference of two variants is the root of 2 times as wide. `seed_deviation`: that pooled
    deviation. `f`, `p`: analysis of variance, one way: how much larger the spread between variants is than seeds alone
    would make it, and how probable one as large would be if all variants were the same. Those without enough seeds are
    None.
    """

    means: dict[str, float]
    half_width: float | None
    seed_deviation: float | None
    f: float | None
    p: float | None


def compare_variants(values: Mapping[str, Sequence[float]]) -> Comparison:
    """`values`: variant -> its value for every seed. Raises ValueError where a variant has none."""
    if not values or not all(values.values()):
        raise ValueError("every variant needs a value")
    means = {name: fmean(row) for name, row in values.items()}
    freedom = sum(len(row) - 1 for row in values.values())
    if freedom == 0:
        return Comparison(means, None, None, None, None)
    within = sum(float(np.square(np.array(row) - means[name]).sum()) for name, row in values.items())
    deviation = (within / freedom) ** 0.5
    # Variants have the same seeds; where they do not, the one with the fewest decides.
    seeds = min(len(row) for row in values.values())
    half_width = float(stats.t.ppf(0.975, freedom)) * deviation / seeds**0.5
    if len(values) == 1 or deviation == 0.0:
        return Comparison(means, half_width, deviation, None, None)
    # Equal means can come out below 0 by rounding, of which there is no probability.
    f = max(float(stats.f_oneway(*values.values()).statistic), 0.0)
    return Comparison(means, half_width, deviation, f, float(stats.f.sf(f, len(values) - 1, freedom)))
