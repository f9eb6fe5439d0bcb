"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import influencerformer.losses
import influencerformer.models

MODULES = [
    module.name
    for package in (influencerformer.losses, influencerformer.models)
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    torch_only = {"torch": importlib.import_module("torch")}
    found = doctest.testmod(module, extraglobs=torch_only)
    assert found.failed == 0
