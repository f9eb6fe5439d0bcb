"""Settings of the loss tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("losses", deadline=None, derandomize=True)
settings.load_profile("losses")


@pytest.fixture(autouse=True, scope="module")
def uninitialised_memory_is_nan() -> Iterator[None]:
    """So that a use of memory that was not filled is seen: ``torch.empty`` fills it under deterministic algorithms."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
