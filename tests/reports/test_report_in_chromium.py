"""The report in headless Chromium: every control used by mouse or key, light and dark, paper, no console message."""

from __future__ import annotations

import base64
import operator
from collections.abc import Iterator
from pathlib import Path

import pytest

from odin_rm.workflows.report.run import ReportConfig, run_report
from tests.chromium import AXE, WITHOUT_AXE, chromium, colour_scheme, faults
from tests.reports import run_folders as made
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

LONG = "a long answer " * 120


@pytest.fixture
def browser(tmp_path: Path) -> Iterator:
    """Chromium with a fresh profile."""
    with chromium(tmp_path / "profile") as page:
        yield page


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with everything on it, hostile names and texts among it."""
    tmp_path = tmp_path_factory.mktemp("report")
    runs = [made.rl_run(tmp_path / name, texts=(*made.HOSTILE, LONG), kl_coef=k) for k, name in enumerate(("a", "b"))]
    paths = [*runs, made.reward_run(tmp_path / "rm"), made.audit_file(tmp_path / "audited").parent,
             made.judged_folder(tmp_path / "judged"), made.pareto_file(tmp_path / "pareto.json"),
             made.sweep_folder(tmp_path / "swept"), made.win_rates_file(tmp_path / "rates.json")]  # fmt: skip
    names = [made.HOSTILE[1], *(path.stem for path in paths[1:])]
    config = ReportConfig([str(path) for path in paths], str(tmp_path / "page.html"), names=names)
    return run_report(config).page.as_uri()


class Reader:
    """The page and one of its figures, as a person uses them."""

    def __init__(self, browser, figure: str) -> None:
        self.browser, self.figure = browser, figure

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", f"#chart-{self.figure} {selector}")

    @property
    def reading(self) -> str:
        return self.all(".reading")[0].text

    def range(self, axis: str = "xaxis") -> list[float]:
        code = f"return document.querySelector('#chart-{self.figure} .canvas')._fullLayout.{axis}.range"
        return self.browser.execute_script(code)

    def width(self, axis: str = "xaxis") -> float:
        low, high = self.range(axis)
        return high - low

    def shown(self) -> list[bool]:
        code = f"return document.querySelector('#chart-{self.figure} .canvas')._fullData.map((t) => t.visible)"
        return self.browser.execute_script(code)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def centre(self) -> None:
        code = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
        self.browser.execute_script(code, self.all(".canvas")[0])

    def focus(self) -> None:
        self.browser.execute_script(f"document.querySelector('#chart-{self.figure} div.live').focus()")


def open_page(browser, address: str) -> Reader:
    browser.get(address)
    wait_until(lambda: "drawn" in browser.find_element("css selector", "html").get_attribute("class"))
    return Reader(browser, "rl_quality")


def check_quiet(browser, address: str) -> None:
    """No console message, nothing asked of anybody, the title as it was written."""
    assert browser.get_log("browser") == []
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in asked if not name.startswith("data:")] == []
    assert browser.title.startswith("Comparison of ")


def test_everything_on_the_page_can_be_used(browser, address):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    figure = open_page(browser, address)
    assert len(browser.find_elements("css selector", "figure .main-svg")) > 0
    assert not any(image.is_displayed() for image in browser.find_elements("css selector", ".still img"))

    # Zoom by button, in every figure; and by key and mouse in one.
    for root in browser.find_elements("css selector", "figure.chart"):
        one = Reader(browser, root.get_attribute("id").removeprefix("chart-"))
        whole = one.width("yaxis")
        for name, compare in (("in", operator.lt), ("out", operator.eq), ("reset", operator.eq)):
            browser.execute_script("arguments[0].click()", one.all(f"[data-do={name}]")[0])
            wait_until(lambda: compare(round(one.width("yaxis"), 6), round(whole, 6)))  # noqa: B023
    whole = figure.width()
    figure.focus()
    figure.press("+")
    wait_until(lambda: figure.width() < whole)
    assert figure.reading == "Zoomed in."
    figure.press("-", "-")
    wait_until(lambda: figure.width() > whole)
    figure.press("0")
    wait_until(lambda: round(figure.width(), 6) == round(whole, 6))
    canvas = figure.all(".canvas")[0]
    figure.centre()
    ActionChains(browser).move_to_element_with_offset(canvas, -60, -60).click_and_hold().move_by_offset(
        120, 90
    ).release().perform()
    wait_until(lambda: figure.width() < whole)
    ActionChains(browser).move_to_element(figure.all("h3")[0]).perform()  # a resting mouse reads points, too
    figure.focus()
    figure.press("0")
    wait_until(lambda: figure.reading == "The whole figure is shown.")

    # Points are read by key and by hovering.
    figure.press(Keys.ARROW_RIGHT)
    wait_until(lambda: figure.reading.startswith(f"{made.HOSTILE[1]}: 0.500 at 1 (optimiser steps)"))
    figure.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    wait_until(lambda: "1.000 at 2" in figure.reading)
    figure.press(Keys.ARROW_DOWN)
    wait_until(lambda: "watch" in figure.reading)
    figure.press(Keys.ARROW_UP)
    assert browser.find_elements("css selector", "#chart-rl_quality .hoverlayer .hovertext")
    figure.centre()
    point = figure.all(".scatterlayer .points path")[0]
    ActionChains(browser).move_to_element(point).perform()
    wait_until(lambda: "at 1 (optimiser steps)" in figure.reading)

    # Series are hidden and shown.
    for number, button in enumerate(figure.all(".legend button")):
        for pressed in ("false", "true"):
            browser.execute_script("arguments[0].click()", button)
            assert button.get_attribute("aria-pressed") == pressed
            wait_until(lambda: figure.shown()[number] is (pressed == "true"))  # noqa: B023

    # What is folded opens, links lead to their part.
    for part in browser.find_elements("css selector", "details > summary"):
        browser.execute_script("arguments[0].focus()", part)
        figure.press(Keys.ENTER)
        assert part.find_element("xpath", "..").get_attribute("open") is not None
    assert LONG.strip()[-40:] in browser.find_element("css selector", "main").text
    for link in browser.find_elements("css selector", "nav a, a.skip"):
        browser.execute_script("arguments[0].click()", link)
        assert browser.current_url.endswith(link.get_attribute("href").partition("#")[2])
    found = faults(browser)  # with everything unfolded
    check_quiet(browser, address)
    assert found == []
    if not AXE.is_file():
        pytest.skip(WITHOUT_AXE)


def test_light_dark_narrow_paper_and_no_script(browser, address):
    open_page(browser, address)
    colours = []
    for scheme in ("light", "dark"):
        colour_scheme(browser, scheme)
        code = "return getComputedStyle(document.querySelector('#chart-rl_quality .xtick text')).fill"
        colours.append(browser.execute_script(code))
    assert colours == ["rgb(89, 98, 109)", "rgb(163, 172, 183)"]
    browser.set_window_size(500, 900)
    wait_until(lambda: browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"))

    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert all(image.is_displayed() for image in browser.find_elements("css selector", ".still img"))
    assert not any(live.is_displayed() for live in browser.find_elements("css selector", "div.live, .zoom, .legend"))
    paper = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert paper.startswith(b"%PDF")
    check_quiet(browser, address)

    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(address)
    assert all(image.is_displayed() for image in browser.find_elements("css selector", ".still img"))
    assert not any(live.is_displayed() for live in browser.find_elements("css selector", "div.live, .zoom, .keys"))
