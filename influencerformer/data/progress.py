"""A progress bar over items that are read or written one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import track


def progress(items: Sequence[Any], description: str) -> Iterable[Any]:
    """The items with a progress bar on the error stream where that is a terminal."""
    console = Console(stderr=True)
    return track(items, description, console=console, disable=not console.is_terminal)
