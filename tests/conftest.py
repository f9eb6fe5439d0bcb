"""What tests of several folders have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def quiet_trainer() -> Callable[..., str]:
    """quiet_trainer(validate_every, max_steps=None): the trainer's block of a configuration of a few silent steps."""

    def block(validate_every: int, max_steps: int | None = None) -> str:
        steps = "" if max_steps is None else f"  max_steps: {max_steps}\n"
        return f"""\
trainer:
  accelerator: cpu
{steps}  max_epochs: -1
  val_check_interval: {validate_every}
  check_val_every_n_epoch: null
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
"""

    return block


@pytest.fixture(scope="module")
def unset_memory_is_nan() -> Iterator[None]:
    """So that a use of memory that was not filled is seen: ``torch.empty`` fills it under deterministic algorithms."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
