"""The page in a real browser: every button shows its colours, hands turn the cloud, hostile names do nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chromium import Browser
from clouds import CLASSES, planted_cloud

from influencerformer.pictures import Cloud, write_cloud_page
from influencerformer.pictures.cloud_colours import (
    ERROR_COLOURS,
    IGNORED_COLOUR,
    NO_INSTANCE_COLOUR,
    UNMATCHED_COLOUR,
    instance_colours,
)
from influencerformer.pictures.cloud_instances import PointError

HOSTILE = '</script><img src=x onerror="window.taken=1"><b>bold</b>'
# What a browser without WebGL gives, and one whose WebGL runs in software but says it does not.
NO_WEBGL = """const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === "2d" ? real.call(this, kind, ...more) : null;
};"""
ANY_WEBGL = """const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, wishes = {}) {
  return real.call(this, kind, { ...wishes, failIfMajorPerformanceCaveat: false });
};"""
STAGE = "document.getElementById('stage')"
CHAIR, TABLE, FAR_CHAIR = instance_colours(3)
VIEWS = {
    "colour": [(200, 90, 40)],
    "truth": [CHAIR, TABLE, FAR_CHAIR, NO_INSTANCE_COLOUR, IGNORED_COLOUR],
    "prediction-1": [CHAIR, UNMATCHED_COLOUR, NO_INSTANCE_COLOUR],
    "error-1": [ERROR_COLOURS[kind] for kind in (PointError.CORRECT, PointError.SPLIT, PointError.FALSE)],
    "prediction-2": [CHAIR, FAR_CHAIR, UNMATCHED_COLOUR, NO_INSTANCE_COLOUR],
    "error-2": [ERROR_COLOURS[kind] for kind in (PointError.CORRECT, PointError.WRONG_CLASS, PointError.BACKGROUND)],
}


class Viewer:
    """A page that is open, at the size of a telephone: software draws small pictures faster."""

    def __init__(self, browser: Browser, path: Path, address: str = "", script: str = NO_WEBGL) -> None:
        self.browser = browser
        browser.problems.clear()
        made = browser.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        browser.call("Emulation.setDeviceMetricsOverride", width=480, height=800, deviceScaleFactor=1, mobile=False)
        browser.call("Page.navigate", url="about:blank")
        browser.call("Page.navigate", url=f"{path.as_uri()}{address}")
        browser.wait_for(f"document.readyState === 'complete' && Boolean({STAGE}?.dataset.drawn)")
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=made["identifier"])
        box = browser.evaluate(
            f"(() => {{ const b = {STAGE}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})()"
        )
        self.x, self.y, self.width, self.height = box

    def picture(self) -> np.ndarray:
        """The stage's pixels (H, W, 3), its border left out, once it has come to rest."""
        self.browser.wait_for(f"!{STAGE}.classList.contains('moving')")
        self.browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = self.browser.screenshot(x=self.x + 6, y=self.y + 6, width=self.width - 12, height=self.height - 12)
        return np.asarray(shot).astype(int)

    def press(self, view: str) -> None:
        self.browser.evaluate(f"document.querySelector('button[data-view={view}]').click()")

    def text(self, element: str) -> str:
        return self.browser.evaluate(f"document.getElementById('{element}').innerText")


def share(picture: np.ndarray, colour: np.ndarray | tuple[int, ...]) -> float:
    """Share of the pixels that have nearly this colour."""
    return float((np.abs(picture - np.asarray(colour, dtype=int)).max(axis=2) <= 12).mean())


def changed(before: np.ndarray, after: np.ndarray) -> float:
    return float((np.abs(before - after).max(axis=2) > 30).mean())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cloud_page(tmp_path_factory.mktemp("page") / "page.html", [planted_cloud()], CLASSES)


@pytest.mark.parametrize(
    ("script", "renderer", "views"),
    [(NO_WEBGL, "CanvasRenderer", [*VIEWS]), (ANY_WEBGL, "WebGLRenderer", ["colour", "error-1"])],
    ids=["canvas", "webgl"],
)
def test_every_button_shows_its_colours(
    browser: Browser, page: Path, script: str, renderer: str, views: list[str]
) -> None:
    viewer = Viewer(browser, page, script=script)
    if browser.evaluate(f"{STAGE}.dataset.renderer") != renderer:
        pytest.skip("this Chromium has no WebGL 2, not even in software")
    before = None
    for view in views:
        viewer.press(view)
        picture = viewer.picture()
        pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map((button) => button.dataset.view)"
        assert browser.evaluate(pressed) == [view]
        assert browser.evaluate("location.hash") == f"#view={view}"
        for colour in VIEWS[view]:
            assert share(picture, colour) > 0.005, (view, colour)
        assert share(picture, (255, 255, 255)) > 0.2
        assert before is None or changed(before, picture) > 0.02
        before = picture
    assert browser.problems == []


def test_address_names_view_and_room(browser: Browser, tmp_path: Path) -> None:
    first, second = planted_cloud("first"), planted_cloud("second")
    path = write_cloud_page(tmp_path / "page.html", [first, second], CLASSES)
    viewer = Viewer(browser, path, "#view=error-2&room=2")
    assert share(viewer.picture(), ERROR_COLOURS[PointError.WRONG_CLASS]) > 0.01
    assert viewer.text("note") == "second: 3,125 points."
    browser.evaluate("location.hash = '#view=nonsense&room=9'")
    browser.wait_for("document.getElementById('note').innerText.startsWith('first')")
    assert browser.evaluate("document.querySelector('[aria-pressed=true]').dataset.view") == "colour"
    browser.evaluate(
        "const rooms = document.getElementById('rooms'); rooms.value = 1; rooms.dispatchEvent(new Event('change'));"
    )
    assert viewer.text("note") == "second: 3,125 points."
    assert browser.evaluate("location.hash") == "#view=colour&room=2"
    assert browser.problems == []


def test_hands_turn_zoom_and_move_and_reset_puts_back(browser: Browser, page: Path) -> None:
    viewer = Viewer(browser, page, "#view=truth")
    x, y = viewer.x + viewer.width / 2, viewer.y + viewer.height / 2
    start = viewer.picture()

    def drag(button: str, modifiers: int = 0) -> None:
        number = {"left": 1, "right": 2}[button]
        browser.mouse("mousePressed", x, y, button, buttons=number, modifiers=modifiers)
        for step in range(1, 4):
            browser.mouse("mouseMoved", x + 30 * step, y + 10 * step, button, buttons=number, modifiers=modifiers)
        browser.mouse("mouseReleased", x + 90, y + 30, button, modifiers=modifiers)

    def key(name: str, modifiers: int = 0) -> None:
        browser.evaluate(f"{STAGE}.focus()")
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=name, modifiers=modifiers)

    def corner(picture: np.ndarray) -> np.ndarray:
        return np.argwhere((picture < 250).any(axis=2)).min(axis=0)

    actions = {
        "turn": lambda: drag("left"),
        "move with the right button": lambda: drag("right"),
        "move with Shift": lambda: drag("left", modifiers=8),
        "wheel": lambda: browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=300),
        "arrow key": lambda: key("ArrowLeft"),
        "arrow key with Shift": lambda: key("ArrowUp", modifiers=8),
        "plus": lambda: key("+"),
    }
    for name, act in actions.items():
        act()
        after = viewer.picture()
        assert changed(start, after) > 0.02, name
        if name.startswith("move"):
            assert corner(after) - corner(start) == pytest.approx(np.array([30, 90]), rel=0.3), name
        if name == "wheel":
            assert (after < 250).any(axis=2).mean() < 0.6 * (start < 250).any(axis=2).mean()
        browser.evaluate("document.getElementById('reset').click()")
    assert changed(start, viewer.picture()) == 0
    assert browser.problems == []


def test_two_fingers_zoom(browser: Browser, page: Path) -> None:
    viewer = Viewer(browser, page, "#view=truth")
    start = viewer.picture()
    x, y = viewer.x + viewer.width / 2, viewer.y + viewer.height / 2

    def touch(kind: str, *offsets: int) -> None:
        points = [{"x": x + offset, "y": y, "id": number} for number, offset in enumerate(offsets)]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", -150, 150)
    for offset in (120, 90, 60):
        touch("touchMove", -offset, offset)
    touch("touchEnd")
    assert (viewer.picture() < 250).any(axis=2).mean() < 0.5 * (start < 250).any(axis=2).mean()
    assert browser.problems == []


def test_pointing_tells_and_clicking_singles_out(browser: Browser, page: Path) -> None:
    viewer = Viewer(browser, page, "#view=truth")
    start = viewer.picture()
    row, column = np.argwhere(np.abs(start - TABLE.astype(int)).max(axis=2) <= 3).mean(axis=0)
    x, y = viewer.x + 6 + column - 20, viewer.y + 6 + row
    browser.mouse("mouseMoved", x, y)
    browser.wait_for("!document.getElementById('tip').hidden")
    lines = viewer.text("tip").splitlines()
    assert lines[0] == "Truth: table 2"
    assert lines[1] == "First (split): table 2, score 0.80, finds none (highest IoU 0.45)"
    assert lines[2] == "Second (wrong class): chair 2, score 0.95, finds none (highest IoU 1.00)"
    browser.mouse("mousePressed", x, y, "left", buttons=1)
    browser.mouse("mouseReleased", x, y, "left")
    browser.mouse("mouseMoved", viewer.x + 8, viewer.y + 8)
    browser.wait_for("document.getElementById('tip').hidden")
    marked = "document.querySelector('#table [aria-pressed=true]')?.innerText.trim()"
    assert browser.evaluate(marked) == "table 2"
    single = viewer.picture()
    assert share(single, TABLE) == pytest.approx(share(start, TABLE), abs=0.01)
    assert share(single, CHAIR) < 0.001 < share(start, CHAIR)
    browser.evaluate(f"{STAGE}.focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert changed(start, viewer.picture()) == 0
    assert browser.problems == []


def test_table_and_legend(browser: Browser, page: Path) -> None:
    viewer = Viewer(browser, page, "#view=error-1")
    rows = browser.evaluate(
        "[...document.querySelectorAll('#table tr')].map((r) => r.innerText.trim().split(/\\s*\\t\\s*/))"
    )
    assert rows[:5] == [
        ["First", "Second"],
        ["Instance", "Points", "IoU", "Score", "IoU", "Score"],
        ["chair 1", "625", "1.00", "0.90", "1.00", "0.25"],
        ["table 2", "625", "missed", "missed"],
        ["chair 3", "625", "missed", "1.00", "0.50"],
    ]
    assert rows[5] == ["First: finds no instance (3); highest IoU with any"]
    assert rows[6] == ["table 2", "282", "0.45", "0.80"]
    assert rows[9] == ["Second: finds no instance (1); highest IoU with any"]
    legend = viewer.text("legend")
    for title in ("Ignored, 20.0 %", "Correct, 20.0 %", "Missed, 23.0 %", "Split, 17.0 %", "False, 20.0 %"):
        assert title in legend
    assert "Wrong class" not in legend


def test_sliders_hide_and_grow(browser: Browser, tmp_path: Path) -> None:
    low = planted_cloud()
    raised = low.coordinates + np.array([0, 0, 2], np.float32)
    points = np.concatenate((low.coordinates, raised))
    colors = np.repeat(np.array([[30, 60, 200], [210, 30, 30]], np.uint8), len(raised), axis=0)
    path = write_cloud_page(tmp_path / "page.html", [Cloud("two levels", points, colors)], CLASSES)
    viewer = Viewer(browser, path)
    blue, red = colors[0], colors[-1]
    # The upper level covers the plan, as a ceiling does, so it is cut away at first.
    assert share(viewer.picture(), red) == 0
    assert viewer.text("cut_text") == "1.50"

    def slide(name: str, value: float) -> np.ndarray:
        browser.evaluate(
            f"(() => {{ const slider = document.getElementById('{name}'); slider.value = {value}; "
            "slider.dispatchEvent(new Event('input')); })()"
        )
        return viewer.picture()

    uncut = slide("cut", 2)
    assert share(uncut, red) > 0.05
    assert viewer.text("cut_text") == "off"
    cut = slide("cut", 1)
    assert share(cut, red) == 0 < share(cut, blue)
    assert (slide("size", 0.25) < 250).any(axis=2).mean() < 0.9 * (cut < 250).any(axis=2).mean()
    assert browser.evaluate("document.getElementById('instances').hidden")
    assert browser.evaluate("[...document.querySelectorAll('#views button')].map((b) => b.innerText)") == ["Colour"]
    assert browser.problems == []


def test_hostile_names_are_shown_and_do_nothing(browser: Browser, tmp_path: Path) -> None:
    given = planted_cloud()
    cloud = Cloud(HOSTILE, given.coordinates, given.colors, given.truth, {HOSTILE: given.predictions["First"]})
    path = write_cloud_page(tmp_path / "page.html", [cloud, cloud], [HOSTILE] * 3, title=HOSTILE, text=HOSTILE)
    viewer = Viewer(browser, path, "#view=prediction-1")
    viewer.picture()
    assert browser.evaluate("window.taken") is None
    assert browser.evaluate("document.querySelectorAll('img, b:not(#legend b)').length") == 0
    assert browser.evaluate("document.title") == HOSTILE
    assert browser.evaluate("document.querySelector('h1').innerText") == HOSTILE
    assert browser.evaluate("document.querySelector('#rooms option').innerText") == HOSTILE
    for part in ("views", "table", "note"):
        assert HOSTILE in viewer.text(part)
    browser.mouse("mouseMoved", viewer.x + viewer.width / 2, viewer.y + viewer.height / 2)
    browser.wait_for("!document.getElementById('tip').hidden")
    assert HOSTILE in viewer.text("tip")
    assert browser.problems == []


def test_lost_graphics_are_replaced_and_both_renderers_draw_the_same(browser: Browser, page: Path) -> None:
    viewer = Viewer(browser, page, "#view=truth", ANY_WEBGL)
    if browser.evaluate(f"{STAGE}.dataset.renderer") != "WebGLRenderer":
        pytest.skip("this Chromium has no WebGL 2, not even in software")
    before = viewer.picture()
    browser.evaluate(
        f"{STAGE}.querySelector('canvas').getContext('webgl2').getExtension('WEBGL_lose_context').loseContext()"
    )
    browser.wait_for(f"{STAGE}.dataset.renderer === 'CanvasRenderer'")
    assert changed(before, viewer.picture()) < 0.03
