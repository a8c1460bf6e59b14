"""The page at ``/``: what it says of two answers, that it asks nobody else, and how it is used without a mouse."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

import odin_rm
from odin_rm.model.scoring import Scorer
from odin_rm.serve.reward.app import Service
from tests.chromium import chromium, colour_scheme, faults
from tests.serve.reward_kit import KEY, assert_close, make_model, make_scorer, serving
from tests.waiting import wait_until

ASKED, GOOD, BAD = "What is the best way to cook rice?", "Wash it well, then boil it for ten minutes.", "No."


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return make_scorer(tmp_path_factory.mktemp("model"))


def test_the_page_is_whole_and_may_load_nothing_else(scorer):
    name = '<b>"a"&'
    with serving(Service({name: replace(make_model(scorer), name=name)})) as client:
        reply = client.get("/")
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert re.findall(r"https?://", reply.text) == []
    assert name not in reply.text
    assert "&lt;b&gt;&#34;a&#34;&amp;" in reply.text


def test_what_it_asks_for(scorer):
    quality, length, tokens = odin_rm.score_texts(scorer, [ASKED, ASKED], [GOOD, BAD])
    assert length is not None
    with serving(Service({"rm": make_model(scorer)})) as client:
        found = client.post("/api/score", json={"model": "rm", "prompt": ASKED, "responses": [GOOD, BAD]}).json()
    assert found["model"] == "rm"
    assert_close([one["quality"] for one in found["scores"]], quality)
    assert_close([one["length_reward"] for one in found["scores"]], length)
    assert [one["response_tokens"] for one in found["scores"]] == tokens.tolist()
    assert [one["truncated"] for one in found["scores"]] == [False, False]


@pytest.mark.slow
def test_two_answers_by_keyboard_in_light_and_dark_on_a_phone_and_with_a_key(scorer, tmp_path: Path):
    quality, _, _ = odin_rm.score_texts(scorer, [ASKED, ASKED], [GOOD, BAD])
    service = Service({"rm": make_model(scorer)}, key=KEY)
    with serving(service) as client, chromium(tmp_path / "profile") as browser:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        def text_of(name: str) -> str:
            return browser.find_element(By.ID, name).text

        browser.get(f"{client.base_url}?key={KEY}")
        browser.find_element(By.ID, "prompt").send_keys(ASKED, Keys.TAB, GOOD, Keys.TAB, BAD)
        browser.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
        wait_until(lambda: "preferred with probability" in text_of("verdict"))
        shown = [text_of(f"result-{side}").split()[0].replace("−", "-") for side in "AB"]
        assert [float(one) for one in shown] == pytest.approx(list(quality), abs=6e-4)
        better = "A" if quality[0] > quality[1] else "B"
        assert text_of("verdict").startswith(f"Answer {better} earns {abs(quality[0] - quality[1]):.3f} more")
        browser.find_element(By.ID, "swap").send_keys(Keys.ENTER)
        other = {"A": "B", "B": "A"}[better]
        wait_until(lambda: text_of("verdict").startswith(f"Answer {other}"))
        assert faults(browser) == []
        for width in (390, 1280):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            for scheme in ("light", "dark"):
                colour_scheme(browser, scheme)
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        asked = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert {name.split("?")[0].removeprefix(str(client.base_url)).strip("/") for name in asked} <= {
            "info",
            "api/score",
        }
        browser.find_element(By.ID, "prompt").clear()
        browser.find_element(By.ID, "score").send_keys(Keys.ENTER)
        assert browser.get_log("browser") == []
