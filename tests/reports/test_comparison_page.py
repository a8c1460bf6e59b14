"""The page of a report: hostile texts stay texts, nothing can be fetched, every figure has words and a picture."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import pytest

from odin_rm.reports.blocks import FOLD_AFTER, Passage
from odin_rm.reports.page import content_policy, json_in_html
from odin_rm.workflows.report.run import ReportConfig, run_report
from tests.reports import run_folders as made
from tests.reports.test_page import Page, without_scripts


def scripts_of(text: str) -> list[tuple[str, str]]:
    """Attributes and content of each script element, as a browser would split them."""
    return re.findall(r"<script([^>]*)>(.*?)</script", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, str]:
    place = tmp_path_factory.mktemp("hostile")
    name = made.HOSTILE[0]
    runs = [made.rl_run(place / "a", texts=made.HOSTILE, note=made.HOSTILE[1]),
            made.rl_run(place / "b", texts=made.HOSTILE, note="other")]  # fmt: skip
    config = ReportConfig([str(run) for run in runs], str(place / "page.html"), names=[name, "b"], title=name)
    page = run_report(config).page
    return page, page.read_text(encoding="utf-8")


def test_hostile_texts_stay_texts(hostile) -> None:
    text = hostile[1]
    assert [attributes.split("=")[0].strip() for attributes, _ in scripts_of(text)] == ["type", "", ""]
    page = Page(without_scripts(text))
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in page.all("img"))
    shown = page.text
    for words in made.HOSTILE[:3]:
        assert " ".join(words.split()) in shown
    assert "49" not in [part.strip() for part in shown.split("{{")]
    assert "javascript:alert(1) http://example.org/" in shown
    assert [link["href"] for link in page.all("a") if not link["href"].startswith("#")] == []


def test_only_the_two_scripts_of_the_policy_may_run_and_nothing_is_fetched(hostile) -> None:
    text = hostile[1]
    policy = next(a["content"] for a in Page(without_scripts(text)).all("meta") if "http-equiv" in a)
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
               for attributes, code in scripts_of(text) if not attributes]  # fmt: skip
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    attributes = [a for _, a in Page(without_scripts(text)).elements]
    fetched = [a[key] for a in attributes for key in ("src", "href", "srcset", "action", "poster", "data") if key in a]
    assert [address for address in fetched if not address.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|url\(", text.split("</style>")[0])


def test_figures_travel_as_json_that_cannot_end_its_element(hostile) -> None:
    (data,) = [code for attributes, code in scripts_of(hostile[1]) if "json" in attributes]
    charts = json.loads(data)
    assert charts["rl_quality"]["names"][0] == made.HOSTILE[0]
    assert "<" not in data
    assert json.loads(json_in_html({"a": "</script>&"})) == {"a": "</script>&"}


def test_every_figure_has_a_heading_a_picture_a_caption_and_numbers(hostile) -> None:
    page = Page(without_scripts(hostile[1]))
    figures = page.all("figure")
    assert len(figures) == len(page.all("img")) == len(page.all("figcaption")) >= 8
    assert all(len(image["alt"]) > 40 for image in page.all("img"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [
        attrs[key] for _, attrs in page.elements for key in ("aria-labelledby", "aria-describedby") if key in attrs
    ]
    assert set(named) <= set(ids)
    assert len(page.all("table")) == len(page.all("caption"))
    assert [tag for tag, _ in page.elements if tag in ("header", "nav", "main", "footer", "h1")].count("main") == 1
    assert page.all("html") == [{"lang": "en"}]


def test_a_page_without_figures_has_no_script(tmp_path) -> None:
    answers = made.outputs_file(tmp_path / "a.json", {"q": "word " * 500})
    text = run_report(ReportConfig([str(answers)], str(tmp_path / "p.html"))).page.read_text(encoding="utf-8")
    assert scripts_of(text) == []
    assert "script-src 'none'" in html.unescape(text)
    assert "The rest: " in text


def test_long_texts_are_folded_and_lose_nothing() -> None:
    text = " ".join(f"word{k}" for k in range(400))
    passage = Passage(text)
    assert passage.shown + passage.rest == text
    assert FOLD_AFTER / 2 < len(passage.shown) <= FOLD_AFTER
    assert not passage.rest.startswith("o")
    assert Passage("short").rest == ""
    assert Passage("").shown == "(nothing)"
    assert len(Passage("x" * 5000).shown) == FOLD_AFTER


def test_equal_runs_give_equal_pages(tmp_path) -> None:
    run = made.reward_run(tmp_path / "rm")
    pages = [run_report(ReportConfig([str(run)], str(tmp_path / n / "p.html"))).page.read_bytes() for n in "ab"]
    assert pages[0] == pages[1]


def test_the_policy_allows_what_it_is_given_only() -> None:
    empty = base64.b64encode(hashlib.sha256(b"").digest()).decode()
    assert f"script-src 'sha256-{empty}';" in content_policy([""])
    assert "script-src 'none';" in content_policy([])
