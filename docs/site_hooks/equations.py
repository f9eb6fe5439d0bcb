"""TeX to MathML while the site is built: browsers draw it themselves, without a script and without a network."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from math_core import LatexError, LatexToMathML

ARITHMATEX = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
"""What pymdownx.arithmatex (generic) makes of $...$ and $$...$$."""
TAG = re.compile(r"\\tag\{(\w+)\}")


def mathml(html: str, converter: LatexToMathML) -> str:
    """The page with every equation as MathML; a numbered one, ``\\tag{7}``, has the anchor ``eq-7``.

    Raises:
        ValueError: TeX that cannot be drawn; the message holds it.
    """

    def converted(match: re.Match[str]) -> str:
        tex = unescape(match[3]).strip()
        block = match[2] == "["
        tag = TAG.search(tex)
        source = rf"\begin{{equation}}{tex}\end{{equation}}" if tag else tex
        try:
            drawn = converter.convert_with_local_state(source, displaystyle=block)
        except LatexError as error:
            raise ValueError(f"an equation cannot be drawn ({error}): {tex}") from None
        if not block:
            return drawn
        anchor = f' id="eq-{tag[1]}"' if tag else ""
        return f'<div class="equation"{anchor}>{drawn}</div>'

    return ARITHMATEX.sub(converted, html)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """mkdocs: the page's HTML before the theme goes around it."""
    try:
        return mathml(html, LatexToMathML(fancy_error=False))
    except ValueError as error:
        raise ValueError(f"{page.file.src_uri}: {error}") from None
