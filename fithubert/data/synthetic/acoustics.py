"""From clean speech to a recording: resampling, a room, noise and gain, all seeded. NumPy only."""

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
Samples = NDArray[np.float64]
#: Above this the band-limit rolls off, to nothing at half the sample rate.
_PASS_HZ = 7_600
_UP, _DOWN = 320, 441


def resample_speech(samples: NDArray[np.int16]) -> Samples:
    """(samples,) at 22,050 Hz as (samples,) float64 at 16 kHz in -1..1; times in seconds do not change."""
    wanted = -(-len(samples) * _UP // _DOWN)
    # The padding keeps the end of the utterance from wrapping round to its start.
    blocks = _fast_length(-(-len(samples) // _DOWN) + 2)
    spectrum = np.fft.rfft(samples / 32768.0, blocks * _DOWN)[: blocks * _UP // 2 + 1]
    frequencies = np.fft.rfftfreq(blocks * _UP, 1 / RATE_HZ)
    fall = np.clip((frequencies - _PASS_HZ) / (RATE_HZ / 2 - _PASS_HZ), 0, 1)
    spectrum *= 0.5 + 0.5 * np.cos(np.pi * fall)
    return np.fft.irfft(spectrum, blocks * _UP)[:wanted] * (_UP / _DOWN)


def draw_room(rng: np.random.Generator) -> Samples:
    """The impulse response (samples,) of a small room: direct sound at 0, a few reflections and a decaying tail.

    The direct sound is the first sample, so that a room delays no label. Reverberation times of 0.15 to 0.6 s.
    """
    decay_seconds = rng.uniform(0.15, 0.6)
    length = int(0.7 * decay_seconds * RATE_HZ)
    times = np.arange(length) / RATE_HZ
    tail = rng.standard_normal(length) * 10.0 ** (-3 * times / decay_seconds)
    tail[: int(rng.uniform(0.004, 0.02) * RATE_HZ)] = 0.0
    # Walls absorb high frequencies: a two-tap average damps them in the tail.
    tail[1:] = 0.6 * tail[1:] + 0.4 * tail[:-1]
    taps = rng.integers(int(0.002 * RATE_HZ), int(0.03 * RATE_HZ), 6)
    tail_energy = float(np.sum(tail**2))
    response = tail * np.sqrt(10 ** (-rng.uniform(4, 14) / 10) / max(tail_energy, 1e-12))
    response[taps] += rng.uniform(-0.3, 0.3, 6) * np.exp(-taps / (0.015 * RATE_HZ))
    response[0] = 1.0
    return response


def reverberate(samples: Samples, response: Samples) -> Samples:
    """`samples` with the reverberation of a room, of the same length."""
    size = _fast_length(len(samples) + len(response))
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]


def draw_noise(rng: np.random.Generator, length: int) -> Samples:
    """(length,) noise of unit power whose spectrum falls at a drawn slope, at times with a mains hum."""
    size = _fast_length(length)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / RATE_HZ), 60.0)
    noise = np.fft.irfft(spectrum * frequencies ** -rng.uniform(0.0, 0.9), size)[:length]
    noise /= np.sqrt(np.mean(noise**2))
    if rng.random() < 0.25:
        times = np.arange(length) / RATE_HZ
        hum_hz = rng.choice((50.0, 60.0))
        noise += 0.4 * np.sin(2 * np.pi * hum_hz * times) + 0.2 * np.sin(2 * np.pi * 3 * hum_hz * times)
    return noise


#: Between these frequencies a microphone's response is drawn; below and above it continues level.
_LOWEST_KNOT_HZ, _KNOTS, _RESPONSE_DB = 80.0, 24, 8.0


def draw_microphone(rng: np.random.Generator) -> Samples:
    """(24,) the gains in dB of a microphone and its place, within 8 dB, at frequencies even on a logarithmic scale.

    With 6 gains a mean spectrum still names a synthetic voice better than any model does.
    """
    return rng.uniform(-_RESPONSE_DB, _RESPONSE_DB, _KNOTS)


def colour(samples: Samples, gains_db: Samples) -> Samples:
    """`samples` through a microphone with these gains: a smooth response of zero phase, which delays no label."""
    size = _fast_length(len(samples) + RATE_HZ // 10)
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / RATE_HZ), 1.0)
    knots = np.geomspace(_LOWEST_KNOT_HZ, RATE_HZ / 2, len(gains_db))
    # A raised cosine between neighbouring knots, so that the response has no corners.
    place = np.interp(np.log(frequencies), np.log(knots), np.arange(len(knots)))
    lower = np.minimum(place.astype(int), len(knots) - 2)
    share = 0.5 - 0.5 * np.cos(np.pi * (place - lower))
    response_db = gains_db[lower] * (1 - share) + gains_db[lower + 1] * share
    return np.fft.irfft(np.fft.rfft(samples, size) * 10 ** (response_db / 20), size)[: len(samples)]


def record(
    rng: np.random.Generator, speech: Samples, level_db: float, signal_to_noise_db: float, microphone: bool = False
) -> NDArray[np.int16]:
    """`speech` at an RMS level over full scale with noise under it, in 16 bits; lowered if it would clip.

    With `microphone` it first goes through one that is drawn for this recording.
    Speech of pure silence becomes noise at `level_db` less `signal_to_noise_db`.
    """
    if microphone:
        speech = colour(speech, draw_microphone(rng))
    power = float(np.mean(speech**2))
    scale = 10 ** (level_db / 20) / np.sqrt(power) if power > 0 else 0.0
    mixed = speech * scale + draw_noise(rng, len(speech)) * 10 ** ((level_db - signal_to_noise_db) / 20)
    mixed *= min(1.0, 0.98 / max(float(np.max(np.abs(mixed))), 1e-9))
    return np.round(mixed * 32767).astype(np.int16)


def _fast_length(length: int) -> int:
    """The smallest length from `length` up with no prime factor above 5, for a quick Fourier transform."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1
