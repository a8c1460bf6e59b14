"""The page in headless Chromium: every control used, no request to the network, nothing wrong for a screen reader."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chromium import AXE, WITHOUT_AXE, chromium, faults
from tests.serve.conftest import serving
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def browser(tmp_path: Path) -> Iterator:
    """Chromium with a fresh profile."""
    with chromium(tmp_path / "profile") as page:
        yield page


class Page:
    """The page as a person uses it."""

    def __init__(self, browser, address: str) -> None:
        self.browser, self.address = browser, address
        browser.get(address)

    def __call__(self, name: str):
        return self.browser.find_element("css selector", name)

    def rated(self) -> int:
        return int((self("#count").text or "0").split()[0])

    def until_rated(self, number: int) -> None:
        wait_until(lambda: self.rated() == number)
        time.sleep(0.4)  # a new pair takes no rating at once

    def press(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(key).perform()

    def enter(self, name: str) -> None:
        wait_until(lambda: self("#name").is_displayed() and self("#welcome-title").text == "Which answer is better?")
        self("#name").send_keys(name)
        self("#start").click()
        wait_until(lambda: self("#pair").is_displayed())

    def faults(self) -> list:
        """Serious faults that axe-core finds, in light and in dark."""
        return faults(self.browser)

    def check_quiet(self) -> None:
        """No console message, and every request went to the study."""
        assert self.browser.get_log("browser") == []
        asked = self.browser.execute_script("return performance.getEntries().map((entry) => entry.name)")
        assert [url for url in asked if "://" in url and not url.startswith(self.address)] == []


def test_a_rater_uses_everything_on_the_page(browser, make_store):
    from selenium.webdriver.common.keys import Keys

    store = make_store(sample_size=8)
    with serving(store) as address:
        page = Page(browser, address)
        wait_until(lambda: page("#name").is_displayed())
        faults = page.faults()
        page.enter("Ann")
        page.until_rated(0)
        assert page("#pair-title").text == "Pair 1 of 8"
        assert not page("#undo").is_enabled()
        done = 0
        for how in (Keys.ARROW_LEFT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT, "1", "2", "3"):
            page.press(how)
            done += 1
            page.until_rated(done)
            assert browser.switch_to.active_element.get_attribute("id") == "pair-title"
        assert page("#status").text == "Right is better. Saved."
        faults += page.faults()
        for undo in (lambda: page.press("u"), lambda: page.press(Keys.BACKSPACE), page("#undo").click):
            undo()
            done -= 1
            page.until_rated(done)
        assert page("#status").text == "The last rating is undone."
        for side in ("left", "tie", "right"):
            page(f"[data-side={side}]").click()
            done += 1
            page.until_rated(done)
        browser.refresh()
        wait_until(lambda: page("#pair").is_displayed())
        assert page("#status").text == "Welcome back."
        page.until_rated(6)
        page("#leave").click()
        page.enter("Bob")
        page.until_rated(0)
        page("#leave").click()
        page.enter(" ann ")
        page.until_rated(6)
        for number in (7, 8):
            page.press("3")
            wait_until(lambda: page.rated() == number)  # noqa: B023
            time.sleep(0.4)
        assert page("#finished").is_displayed()
        assert not page("[data-side=left]").is_displayed()
        faults += page.faults()
        page.check_quiet()
    assert faults == []
    sides = [rating.choice == "tie" or (rating.choice == "a") == rating.a_left for rating in store.ratings()]
    assert len(sides) == 8
    # left, down, right, and by button left, tie, right; then right twice.
    assert sorted(r.choice == "tie" for r in store.ratings()) == [False] * 6 + [True] * 2
    assert sum(sides) == 4
    if not AXE.is_file():
        pytest.skip(WITHOUT_AXE)


def test_the_down_key_scrolls_before_it_rates_and_a_double_press_rates_once(browser, room, make_store):
    import json

    for side in "ab":
        rows = json.loads((room / f"{side}.json").read_text())
        (room / f"{side}.json").write_text(
            json.dumps([{**row, "output": row["output"] + " and so on" * 900} for row in rows])
        )
    from selenium.webdriver.common.keys import Keys

    with serving(make_store()) as address:
        page = Page(browser, address)
        page.enter("Ann")
        page.until_rated(0)
        page.press(Keys.ARROW_DOWN)
        wait_until(lambda: browser.execute_script("return scrollY") > 0)
        assert page.rated() == 0
        page.press(Keys.END)
        wait_until(lambda: browser.execute_script("return endInView()"))
        page.press(Keys.ARROW_DOWN)
        page.until_rated(1)
        browser.execute_script(
            "for (let k = 0; k < 3; k++) document.dispatchEvent(new KeyboardEvent('keydown', { key: '1' }))"
        )
        page.until_rated(2)
        page.check_quiet()


def test_a_token_is_asked_for_and_taken_from_the_address(browser, make_store):
    with serving(make_store(), token="very-secret") as address:
        page = Page(browser, address)
        wait_until(lambda: page("#problem").is_displayed() and page("#token").is_displayed())
        page("#name").send_keys("Ann")
        page("#token").send_keys("very-secret")
        page("#start").click()
        wait_until(lambda: page("#pair").is_displayed())
        browser.execute_script("sessionStorage.clear()")
        browser.get("about:blank")
        page = Page(browser, f"{address}/#token=very-secret")
        page.enter("Bob")
        assert not page("#problem").is_displayed()


def test_a_study_that_is_gone_says_that_nothing_was_saved(browser, make_store):
    store = make_store()
    with serving(store) as address:
        page = Page(browser, address)
        page.enter("Ann")
        page.until_rated(0)
        page.check_quiet()
    page.press("1")
    wait_until(lambda: page("#problem").is_displayed())
    assert page("#problem").text.startswith("The study cannot be reached, so nothing was saved.")
    assert page("#pair").is_displayed()
    assert store.ratings() == []
