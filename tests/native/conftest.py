"""Hypothesis without a deadline: a busy machine is no failing test."""

from hypothesis import settings

settings.register_profile("edgesync", deadline=None)
settings.load_profile("edgesync")
