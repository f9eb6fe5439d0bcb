"""What the site's hooks do to pages, equations and docstrings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("mkdocs", reason="the site's tools are not installed: pip install -e '.[docs]'")

from docstrings import to_markdown  # noqa: E402
from equations import mathml  # noqa: E402
from math_core import LatexToMathML  # noqa: E402
from repository import for_site, site_target, source_page  # noqa: E402


@pytest.mark.parametrize(
    ("target", "folder", "expected", "shown"),
    [
        ("loss.md", "docs", "loss.md", None),
        ("../losses.md", "docs/api", "../losses.md", None),
        ("images/a.png", "docs", "images/a.png", None),
        ("docs/loss.md", "", "loss.md", None),
        ("../README.md", "docs", "index.md", None),
        ("../../README.md", "docs/api", "../index.md", None),
        ("../pkg/a.py", "docs", "source/pkg/a.py.md", "pkg/a.py"),
        ("../../pkg/a.py", "docs/api", "../source/pkg/a.py.md", "pkg/a.py"),
        ("pkg/a.py", "", "source/pkg/a.py.md", "pkg/a.py"),
        ("https://example.org/docs/a.md", "docs", "https://example.org/docs/a.md", None),
    ],
)
def test_link_leads_to_its_place_on_the_site(target: str, folder: str, expected: str, shown: str | None) -> None:
    assert site_target(target, folder) == (expected, shown)


def test_links_are_rewritten_with_their_anchors_and_not_in_code() -> None:
    text = (
        "[a](docs/x.md#y) ![b](docs/images/b.png) [c](#here) [d](setup.cfg)\n```\n[e](docs/z.md)\n```\n[f](docs/f.md)"
    )
    page, shown = for_site(text, "")
    assert page == (
        "[a](x.md#y) ![b](images/b.png) [c](#here) [d](source/setup.cfg.md)\n```\n[e](docs/z.md)\n```\n[f](f.md)"
    )
    assert shown == {"setup.cfg"}


def test_source_is_shown_as_code_even_if_it_holds_fences() -> None:
    page = source_page("pkg/a.py", '"""\n```\nx\n```\n"""\n')
    assert page.endswith('# pkg/a.py\n\n``````python\n"""\n```\nx\n```\n"""\n``````\n')


def test_equations_become_mathml() -> None:
    html = (
        '<p>a <span class="arithmatex">\\(x &lt; \\tau\\)</span></p><div class="arithmatex">\\[\na \\tag{7}\n\\]</div>'
    )
    page = mathml(html, LatexToMathML())
    assert page.startswith(
        '<p>a <math><mi>x</mi><mo>&lt;</mo><mi>τ</mi></math></p><div class="equation" id="eq-7"><math'
    )
    assert "(7)" in re.sub("<[^>]*>", "", page)
    assert "arithmatex" not in page


def test_equation_that_cannot_be_drawn_stops_the_build() -> None:
    with pytest.raises(ValueError, match=r"an equation cannot be drawn .*\\nonsense.*: x \\nonsense"):
        mathml('<span class="arithmatex">\\(x \\nonsense\\)</span>', LatexToMathML(fancy_error=False))


def test_mathematics_and_roles_of_docstrings_become_markdown() -> None:
    docstring = r"""
    One :math:`a_1
    + b` of :func:`pkg.module.name` and ``code``.

    .. math::
        a &= b \\
        c &= d

    After.

    Example:
        >>> 1
    """
    assert to_markdown(docstring) == (
        "One $a_1 + b$ of `name` and ``code``.\n\n$$\n\\begin{aligned} a &= b \\\\\nc &= d \\end{aligned}\n$$\n\n"
        "After.\n\nExamples:\n    >>> 1"
    )


def test_entries_of_several_names_become_one_each() -> None:
    docstring = "One.\n\nArgs:\n    a, b_1: x, and\n        so on: y.\n    c: z."
    assert to_markdown(docstring) == (
        "One.\n\nArgs:\n    a: x, and\n        so on: y.\n    b_1: x, and\n        so on: y.\n    c: z."
    )


def test_every_docstring_of_the_losses_has_equations_that_can_be_drawn() -> None:
    converter = LatexToMathML(fancy_error=False)
    found = 0
    for path in sorted((ROOT / "influencerformer").rglob("*.py")):
        for docstring in re.findall(r'r"""(.*?)"""', path.read_text(), re.DOTALL):
            for tex in re.findall(r"\$\$(.*?)\$\$", to_markdown(" " * 4 + docstring), re.DOTALL):
                found += 1
                assert "<math" in converter.convert_with_local_state(tex, displaystyle=True), path
    assert found > 5
