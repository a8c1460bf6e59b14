"""The page: self-contained, accessible, every figure in it, numbers written for people."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from odin_rm.evaluation.records import Figure
from odin_rm.reports import Chart, Charts, Percent, Section, Table, Text, write_report
from odin_rm.reports.blocks import format_cell, format_number
from odin_rm.reports.chart import Series
from odin_rm.reports.page import without_addresses
from odin_rm.reports.style import MARKERS, model_colours, model_markers

VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects elements and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.stack, tag
        assert self.stack.pop() == tag

    def handle_data(self, data) -> None:
        if not self.stack or self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def without_scripts(text: str) -> str:
    return re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)


def assert_self_contained(text: str) -> None:
    """No address but anchors and data: nothing to fetch."""
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", text)
    assert not re.search(r"https?://", text)
    text = without_scripts(text)
    for attrs in (attrs for _, attrs in Page(text).elements):
        for name in ("src", "href", "srcset", "action", "poster"):
            assert re.match(r"(data:|#)", attrs.get(name) or "#"), attrs
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|<script", text)


def a_figure(file: str = "lines", alt: str = "a rising line") -> Charts:
    series = [Series("line", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])]
    return Charts([Chart(file, "Lines", "steps", "height", series, "A line.", alt)])


@pytest.fixture
def page(tmp_path) -> tuple[Path, str]:
    table = Table(
        "Numbers.", ["Figure", "vanilla", "odin"], [["Pearson", Figure(0.5, 0.4, 0.6), None], ["Rows", 12000, "words"]]
    )
    sections = [
        Section("First & best", [Text("One.\n\nTwo <b>2</b>."), a_figure(), table]),
        Section("First & best", [Table("Folded.", ["a", "b"], [["x", 1.0]], folded=True)]),
    ]
    path = write_report("A <title>", "Pays 0.5.\n\nSecond.", sections, tmp_path, subtitle="data", footer="foot")
    return path, path.read_text(encoding="utf-8")


def test_page_parses_and_fetches_nothing(page) -> None:
    assert_self_contained(page[1])


def test_words_are_there_and_markup_is_escaped(page) -> None:
    text = Page(page[1]).text
    for words in ("A <title>", "Pays 0.5.", "Two <b>2</b>.", "0.500", "0.400 to 0.600", "12,000", "foot"):
        assert words in text


def test_the_embedded_figure_is_the_saved_file(page) -> None:
    (image,) = Page(page[1]).all("img")
    saved = (page[0].parent / "lines.svg").read_bytes()
    assert base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")) == saved
    assert (page[0].parent / "lines.png").read_bytes().startswith(b"\x89PNG")
    assert image["alt"] == "a rising line"


def test_a_reader_without_mouse_or_sight_finds_everything(page) -> None:
    parsed = Page(page[1])
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for link in parsed.all("a"):
        assert link["href"].removeprefix("#") in ids
    assert len(parsed.all("table")) == len(parsed.all("caption")) == 3
    assert all(cell["scope"] in ("col", "row") for cell in parsed.all("th"))
    assert parsed.all("html") == [{"lang": "en"}]
    scrollable = [a for a in parsed.all("div") if a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrollable)
    assert "prefers-color-scheme: dark" in page[1]
    assert "@media print" in page[1]


def test_equal_input_gives_equal_bytes(page, tmp_path) -> None:
    for name in ("one", "two"):
        write_report("T", "H", [Section("S", [a_figure()])], tmp_path / name)
    assert (tmp_path / "one/report.html").read_bytes() == (tmp_path / "two/report.html").read_bytes()


def test_two_figures_of_one_name_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="two figures are called 'lines'"):
        write_report("T", "H", [Section("S", [a_figure(), a_figure()])], tmp_path)


def test_a_script_without_addresses_means_the_same(tmp_path) -> None:
    script = """t={};t.href="https://a.b/c";s='<a href="x">'+"<a href=";console.log(JSON.stringify([t,s,'//a']))"""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    said = [
        subprocess.run([node, "-e", code], capture_output=True, text=True, check=True).stdout
        for code in (script, without_addresses(script))
    ]
    assert said[0] == said[1] == '[{"href":"https://a.b/c"},"<a href=\\"x\\"><a href=","//a"]\n'
    assert "href=" not in without_addresses(script)


@pytest.mark.parametrize(
    ("value", "digits", "percent", "text"),
    [
        (0.12345, 3, False, "0.123"),
        (-0.5, 2, False, "\N{MINUS SIGN}0.50"),
        (-0.0001, 2, False, "0.00"),
        (0.8417, 3, True, "84.2 %"),
        (1234567, 3, False, "1,234,567"),
        (None, 3, False, "\N{EN DASH}"),
    ],
)
def test_numbers_for_people(value, digits, percent, text) -> None:
    assert format_number(value, digits, percent) == text


def test_cells() -> None:
    assert format_cell(Percent(Figure(0.5, 0.25, 0.75))) == {
        "main": "50.0 %",
        "interval": "25.0 % to 75.0 %",
        "why": "",
    }
    assert format_cell(Figure(None, why="no pairs"))["why"] == "no pairs"
    assert format_cell("text")["main"] == "text"


def test_models_keep_their_colours() -> None:
    both = model_colours(["vanilla", "odin"])
    assert model_colours(["runs/odin", "other"])["runs/odin"] == both["odin"]
    many = [f"model {k}" for k in range(7)] + ["odin"]
    assert len(set(model_colours(many).values())) == 8
    assert len(set(model_markers(many).values())) == len(MARKERS)


def test_every_column_has_a_heading():
    with pytest.raises(ValueError, match="a column of 'Facts' has no heading"):
        Table("Facts", ["", "value"], [["a", 1]])
