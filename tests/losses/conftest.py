"""Settings of the loss tests."""

from hypothesis import settings

settings.register_profile("losses", deadline=None, derandomize=True)
settings.load_profile("losses")
