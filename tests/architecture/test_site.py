"""The docs site builds without a warning, its links lead somewhere, and no page asks another machine for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from odin_rm.cli.commands import COMMANDS
from tests.chromium import AXE, WITHOUT_AXE, chromium, colour_scheme, faults
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
DESK = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed; use make test")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.strip() == ""
    return folder


def test_every_page_is_in_the_navigation(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    pages = {path.name for path in site.glob("*.html")} - {"404.html"}
    assert len(pages) > 25
    assert {page for page in pages if f'href="{page}"' not in start} == set()


def test_the_page_of_commands_has_every_command_and_no_flag_that_does_nothing(site: Path) -> None:
    text = (site / "settings.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f">odin-rm {name}<" not in text] == []
    assert "--batch_pairs" in text
    assert "--output_dir" not in text


def test_no_page_asks_another_machine(site: Path) -> None:
    asked = {
        (path.name, found)
        for path in site.glob("*.html")
        for found in re.findall(
            r'(?:src=|<link [^>]*rel="stylesheet"[^>]*href=)"?(https?://[^" >]+)', path.read_text(encoding="utf-8")
        )
    }
    assert asked == set()


def test_empty_headings_are_cells_and_roles_are_gone(site: Path) -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert "<th></th>" not in "".join(pages.values())
    assert re.search(r"<td[^>]*></td>", pages["ablation.html"])
    assert [name for name, text in pages.items() if re.search(r":(class|func|mod|meth):<code", text)] == []


@pytest.mark.slow
def test_the_search_finds_on_pages_opened_as_files_by_day_and_by_night(site: Path, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", DESK)  # where the field of the search is in view
        browser.get((site / "index.html").as_uri())
        browser.find_element("css selector", ".md-search__input").send_keys("hypervolume")
        wait_until(lambda: browser.find_elements("css selector", ".md-search-result__link"))
        found = [one.get_attribute("href") for one in browser.find_elements("css selector", ".md-search-result__link")]
        assert any("pareto.html" in address for address in found)
        asked = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert [one for one in asked if not one.startswith(("file:", "data:"))] == []
        assert browser.get_log("browser") == []
        browser.get((site / "data_formats.html").as_uri())
        shades = []
        for scheme in ("light", "dark"):
            colour_scheme(browser, scheme)
            shades.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert shades[0] != shades[1]  # also on the second page that a reader opens
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        code = "const c = [...document.querySelectorAll('pre > code')].filter((e) => e.scrollWidth > e.clientWidth);"
        wait_until(lambda: browser.execute_script(f"{code} return c.length > 0 && c.every((e) => e.tabIndex == 0)"))
        assert faults(browser) == []
    if not AXE.is_file():
        pytest.skip(WITHOUT_AXE)
