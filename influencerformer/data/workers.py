"""What processes that load data do with signals."""

from __future__ import annotations

import signal

GRACE_SECONDS = 30
"""How long a loading process outlives SIGTERM."""


def leave_signals_to_the_trainer(worker: int) -> None:
    """Keeps a loading process alive while its run ends: who stops a run often sends the signal to all its processes.

    Ctrl-C is ignored, and after SIGTERM the process has GRACE_SECONDS left, in which the run saves its state and
    shuts it down. It is not ignored, or an interpreter that exits in disorder would wait for the process for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))
