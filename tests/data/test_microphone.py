"""The microphone of a recording: seeded, smooth, within its bounds, and without delay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.data.synthetic.recording import colour, draw_microphone, record
from fithubert.frames import SAMPLE_RATE_HZ


def response_db(gains_db: np.ndarray) -> np.ndarray:
    """(4000,) the response in dB at 1, 2 ... Hz below half the sample rate, from an impulse."""
    impulse = np.zeros(2 * SAMPLE_RATE_HZ)
    impulse[SAMPLE_RATE_HZ] = 1.0
    spectrum = np.abs(np.fft.rfft(colour(impulse, gains_db)))
    return 20 * np.log10(spectrum[2::2])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_response_is_within_eight_decibels_smooth_and_not_flat(seed: int) -> None:
    found = response_db(draw_microphone(np.random.default_rng(seed)))
    # An impulse of two seconds holds all but the faintest tail of the response.
    assert np.abs(found).max() < 8.1
    # The knots are 0.29 octaves apart, so that a 24th of an octave holds no more than a part of the 16 dB between two.
    edges = (400 * 2 ** (np.arange(97) / 24)).astype(int)
    assert np.abs(np.diff(found[edges])).max() < 4
    assert np.ptp(found) > 0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), at=st.integers(2_000, 30_000))
def test_a_click_stays_where_it_was(seed: int, at: int) -> None:
    click = np.zeros(32_000)
    click[at] = 1.0
    assert int(np.argmax(np.abs(colour(click, draw_microphone(np.random.default_rng(seed)))))) == at


def test_level_gains_change_nothing_but_the_level() -> None:
    noise = np.random.default_rng(0).standard_normal(20_000)
    np.testing.assert_allclose(colour(noise, np.full(24, 6.0)), noise * 10 ** (6 / 20), atol=1e-9)


def test_recordings_of_one_speech_differ_by_their_seed_alone() -> None:
    speech = np.random.default_rng(0).standard_normal(16_000)
    first, again, other = (record(np.random.default_rng(seed), speech, -20.0, 40.0) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    ratio = np.abs(np.fft.rfft(first)) / np.abs(np.fft.rfft(other)).clip(1e-9)
    bands_db = 20 * np.log10([np.median(ratio[low : low * 2]) for low in (100, 400, 1600)])
    assert np.ptp(bands_db) > 1.0
    assert np.sqrt(np.mean((first / 32767.0) ** 2)) == pytest.approx(10 ** (-20 / 20), rel=0.02)
