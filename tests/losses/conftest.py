"""Settings of the loss tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("losses", deadline=None, derandomize=True)
settings.load_profile("losses")


@pytest.fixture(autouse=True, scope="module")
def _loss_tests(unset_memory_is_nan: None) -> None:
    """Every test of a loss runs with it."""
