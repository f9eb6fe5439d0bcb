"""Profiles of the fuzz tests: HYPOTHESIS_PROFILE=nightly makes many random cases; by default few, always the same."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("nightly", deadline=None, print_blob=True)
if os.environ.get("HYPOTHESIS_PROFILE") == "nightly":
    settings.load_profile("nightly")
