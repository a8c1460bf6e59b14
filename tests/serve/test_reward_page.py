"""The page at ``/``: what it says of two answers, that it asks nobody else, and how it is used without a mouse."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import odin_rm
from odin_rm.data.dial import AttributeCurve, Calibration, Dial
from odin_rm.model.calibrated import AppliedDial
from odin_rm.model.scoring import Scorer
from odin_rm.serve.reward.app import Service
from tests.chromium import AXE, WITHOUT_AXE, chromium, colour_scheme, faults
from tests.serve.reward_kit import KEY, assert_close, make_model, make_scorer, rendered, serving
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


def test_prices_of_edits_are_differences_of_scores(scorer):
    from odin_rm.evaluation.edits import EDITS

    applied = {edit.name: edit.apply(GOOD) for edit in EDITS}
    wanted = {
        name: float((odin_rm.score_texts(scorer, [ASKED] * 2, [text, GOOD])[0] * [1, -1]).sum())
        for name, text in applied.items()
        if text is not None and len(scorer.tokenizer(text)["input_ids"]) < 40
    }
    with serving(Service({"rm": make_model(scorer)})) as client:
        body = {"prompt": ASKED, "responses": [GOOD], "edits": True}
        (found,) = client.post("/api/score", json=body).json()["scores"]
    prices = {one["name"]: one["earns"] for one in found["edits"]}
    assert set(wanted) <= set(prices) <= set(applied)
    assert_close([prices[name] for name in wanted], list(wanted.values()))
    assert [one["name"] for one in found["edits"] if one["control"]] == ["truncate_half"]
    counts = {one["words"]: one["value"] for one in found["attributes"]}
    assert (counts["words"], counts["characters"]) == (9, len(GOOD))


def test_an_edit_that_does_not_fit_has_no_price(scorer):
    body = {"prompt": "Why?", "responses": ["rice " * 40], "edits": True}
    with serving(Service({"rm": make_model(scorer)})) as client:
        (found,) = client.post("/api/score", json=body).json()["scores"]
    names = {one["name"] for one in found["edits"]}
    assert "repeat_answer" not in names
    assert "truncate_half" in names


def test_calibration_on_and_off(scorer):
    """A dial that takes a tenth off for each word of the answer."""
    dialled = replace(scorer, dial=a_dial(0.1))
    quality, _, _ = odin_rm.score_texts(scorer, [ASKED] * 2, [GOOD, BAD])
    taken = [0.1 * len(text.split()) for text in (GOOD, BAD)]
    with serving(Service({"rm": make_model(dialled)})) as client:
        assert "words" in client.get("/info").json()["models"]["rm"]["calibration"]
        body = {"prompt": ASKED, "responses": [GOOD, BAD], "edits": True}
        found = client.post("/api/score", json=body).json()["scores"]
        told = client.post("/get_reward", json={"prompt": ASKED, "response": GOOD}).json()
        query = {"query": [rendered(ASKED, GOOD)], "prompts": [rendered(ASKED, "", "")]}
        logs = client.post("/get_reward", json=query).json()["extra_logs"]
    assert_close([one["uncalibrated_quality"] for one in found], quality)
    assert_close([one["quality"] for one in found], np.subtract(quality, taken))
    assert_close(told, quality[0] - taken[0])
    assert_close(logs["calibration_takes"], [taken[0]])
    price = {one["name"]: one for one in found[0]["edits"]}["prefix_hedge"]
    hedge = 9  # words of "I'm not sure, but here is what I think."
    assert_close(price["uncalibrated_earns"] - price["earns"], 0.1 * hedge)


def a_dial(price: float):
    """A calibration that takes ``price`` off for each word."""
    curve = AttributeCurve("words", 0, 100, (), (price, 0.0))
    return AppliedDial(Calibration(Dial((curve,), 1.0, "zero"), "m", "d", None, None, "f"), "m")


@pytest.mark.slow
def test_two_answers_by_keyboard_in_light_and_dark_on_a_phone_and_with_a_key(scorer, tmp_path: Path):
    quality, _, _ = odin_rm.score_texts(scorer, [ASKED, ASKED], [GOOD, BAD])
    paid = quality - [0.1 * len(text.split()) for text in (GOOD, BAD)]
    service = Service({"rm": make_model(replace(scorer, dial=a_dial(0.1)))}, key=KEY)
    with serving(service) as client, chromium(tmp_path / "profile") as browser:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        def text_of(name: str) -> str:
            return browser.find_element(By.ID, name).text

        def press(name: str, key: str) -> None:
            browser.find_element(By.ID, name).send_keys(key)

        def shown() -> list[float]:
            return [float(text_of(f"result-{side}").split()[0].replace("−", "-")) for side in "AB"]

        browser.get(f"{client.base_url}?key={KEY}")
        assert faults(browser) == []  # empty
        press("prompt", ASKED)
        browser.switch_to.active_element.send_keys(Keys.TAB, GOOD, Keys.TAB, BAD, Keys.CONTROL, Keys.ENTER)
        browser.switch_to.active_element.send_keys(Keys.TAB)
        wait_until(lambda: "preferred with probability" in text_of("verdict"))
        assert shown() == pytest.approx(list(paid), abs=6e-4)
        better = "A" if paid[0] > paid[1] else "B"
        assert text_of("verdict").startswith(f"Answer {better} earns {abs(paid[0] - paid[1]):.3f} more")
        assert "words 9 1" in text_of("attributes")
        hedge = re.search(r"it opens with a hedge (\S+)", text_of("edits"))
        assert hedge is not None
        press("calibrated", Keys.SPACE)
        wait_until(lambda: shown() == pytest.approx(list(quality), abs=6e-4))
        raw = re.search(r"it opens with a hedge (\S+)", text_of("edits"))
        assert raw is not None
        gain = [float(one.group(1).replace("−", "-")) for one in (hedge, raw)]
        assert gain[1] - gain[0] == pytest.approx(0.9, abs=2e-3)
        press("calibrated", Keys.SPACE)
        press("swap", Keys.ENTER)
        other = {"A": "B", "B": "A"}[better]
        wait_until(lambda: text_of("verdict").startswith(f"Answer {other}"))
        for width in (390, 1280):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            assert faults(browser) == []
            for scheme in ("light", "dark"):
                colour_scheme(browser, scheme)
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        press("prices", Keys.SPACE)
        press("score", Keys.ENTER)
        wait_until(lambda: text_of("edits") == "")
        asked = browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
        assert {name.split("?")[0].removeprefix(str(client.base_url)).strip("/") for name in asked} <= {
            "info",
            "api/score",
        }
        browser.find_element(By.ID, "prompt").clear()
        press("score", Keys.ENTER)
        assert browser.get_log("browser") == []
    if not AXE.is_file():
        pytest.skip(WITHOUT_AXE)
