"""Headless Chromium under selenium, and axe-core in its pages.

Chromium and chromedriver are found on the PATH. axe-core's ``axe.min.js`` (npm package ``axe-core``) is read from
``AXE_CORE`` or ``node_modules/axe-core``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
AXE = Path(os.environ.get("AXE_CORE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,800"
)
WITHOUT_AXE = "everything but axe-core passed; set AXE_CORE to axe.min.js of the npm package axe-core"


@contextmanager
def chromium(profile: Path) -> Iterator:
    """A browser with a fresh profile; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options=options, service=Service(driver))
    page.set_script_timeout(120)
    try:
        yield page
    finally:
        page.quit()


def colour_scheme(browser, scheme: str) -> None:
    """Show the page as readers with this preference see it: ``light`` or ``dark``."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    time.sleep(0.4)  # colours fade over
    browser.execute_script("document.getAnimations().forEach((one) => one.finish())")


def faults(browser) -> list:
    """What axe-core finds, in light and in dark; nothing where there is no axe-core."""
    if not AXE.is_file():
        return []
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = []
    for scheme in ("light", "dark"):
        colour_scheme(browser, scheme)
        violations = browser.execute_async_script(
            "const done = arguments[0];"
            "axe.run({ resultTypes: ['violations'] }).then((result) => done(result.violations))"
        )
        found += [(scheme, v["id"], [node["html"] for node in v["nodes"]]) for v in violations]
    return found
