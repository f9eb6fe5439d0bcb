"""Docstrings as the site shows them: what is reStructuredText in them becomes Markdown."""

from __future__ import annotations

import re
from inspect import cleandoc
from textwrap import dedent
from typing import Any

from griffe import Extension, Object

MATH_BLOCK = re.compile(r"^( *)\.\. math::\n((?:\1 +\S.*\n?|\s*\n)+)", re.MULTILINE)
INLINE_MATH = re.compile(r":math:`([^`]*)`", re.DOTALL)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
SEVERAL = re.compile(r"^( +)([a-z_]\w*(?:, [a-z_]\w*)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
"""An entry of two names or more, "a, b: text"; the tables of the site have a name, a type and a default a row."""
ROLE = re.compile(r":(?:func|class|meth|mod|attr):`~?([^`]*)`")


def _block(match: re.Match[str]) -> str:
    indent, tex = match[1], dedent(match[2]).strip()
    if r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}} {tex} \end{{aligned}}"
    lines = "\n".join(line.strip() for line in tex.splitlines() if line.strip())
    return "\n".join(indent + line for line in ["$$", *lines.splitlines(), "$$"]) + "\n\n"


def _apart(match: re.Match[str]) -> str:
    indent, names, text = match.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def to_markdown(docstring: str) -> str:
    """``:math:``, ``.. math::`` and roles such as ``:func:`` to Markdown; Example: to griffe's Examples:."""
    text = MATH_BLOCK.sub(_block, cleandoc(docstring))
    text = INLINE_MATH.sub(lambda m: f"${' '.join(m[1].split())}$", text)
    text = SEVERAL.sub(_apart, text)
    text = ROLE.sub(lambda m: f"`{m[1].rsplit('.', 1)[-1]}`", text)
    return EXAMPLE.sub("Examples:", text)


class ReadableDocstrings(Extension):
    """For griffe: rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
