"""Properties are checked without a clock: a busy machine fails no test."""

from hypothesis import settings

settings.register_profile("superb", deadline=None, max_examples=50)
settings.load_profile("superb")
