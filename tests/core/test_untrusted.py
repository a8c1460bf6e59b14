"""What comes from outside: counts, texts, JSON."""

from __future__ import annotations

import json

import pytest
from rich.table import Table

from odin_rm.cli.console import PlainConsole
from odin_rm.core.console import say
from odin_rm.core.untrusted import markdown_text, parse_json, plain_text, printable, whole_number


@pytest.mark.parametrize(
    ("value", "count"),
    [(0, 0), (17, 17), (17.0, 17), (2**53, 2**53)]
    + [(value, None) for value in (None, True, "17", -1, 17.5, 2**53 + 1, 1e300, float("nan"), float("inf"), [17], {})],
)
def test_a_count_is_a_whole_number_that_can_be_counted(value, count):
    assert whole_number(value) == count


def test_half_characters_become_replacement_marks_and_all_else_stays():
    assert plain_text("caf\u00e9 \U0001f600 \ud83d.") == "caf\u00e9 \U0001f600 \ufffd."
    assert plain_text("plain\x1b") == "plain\x1b"
    assert plain_text("\udc80") == plain_text("\ud83d") == "\ufffd"
    assert plain_text("\ud83d\ude00") == "\U0001f600"  # two halves that belong together


@pytest.mark.parametrize(
    "content", [b"[" * 10**6, b'{"a":' * 10**5, b"9" * 5000, b"\xff", b"", "{"], ids=lambda c: str(c[:9])
)
def test_what_is_no_json_is_one_kind_of_error(content):
    with pytest.raises(ValueError):
        parse_json(content)
    assert parse_json(json.dumps({"a": [1]})) == {"a": [1]}


EVIL = "a\x1b]0;owned\x07\x1b[2J\r\x9b1m\u202eb\ud83d\u2028c"


def test_a_terminal_gets_no_control_character():
    shown = printable(EVIL)
    assert shown == r"a\x1b]0;owned\x07\x1b[2J\x0d\x9b1m\u202eb\ud83d\u2028c"
    assert printable("two\nlines\tand é, 漢, 😀") == "two\nlines\tand é, 漢, 😀"


@pytest.mark.parametrize("number", [*range(32), 127, *range(128, 160)])
def test_every_control_character_but_ends_of_lines_and_tabs_is_written_as_its_code(number):
    assert printable(chr(number)) == (chr(number) if chr(number) in "\n\t" else f"\\x{number:02x}")


def test_a_line_goes_out_clean_and_whole(capsys):
    say(f"odin-rm: {EVIL}", error=True)
    say("fine")
    out, err = capsys.readouterr()
    assert err == f"odin-rm: {printable(EVIL)}\n"
    assert out == "fine\n"


def test_the_cells_of_a_table_are_text(capsys):
    table = Table(title="[red]t[/red]")
    table.add_column("[link=http://x]c[/link]")
    table.add_row(f"[bold]{EVIL}[/bold] :smile:")
    PlainConsole().print(table)
    out = capsys.readouterr().out
    for text in ("[red]t[/red]", "[link=http://x]c[/link]", "[bold]a", "[/bold] :smile:"):
        assert text in out
    assert not set(out) & {"\x1b", "\x07", "\r", "\x9b", "\u202e"}


def test_markdown_has_no_html_and_no_link_from_data():
    assert markdown_text("<script>a|b</script>\n") == "&lt;script&gt;a\\|b&lt;/script&gt;"
    assert (
        markdown_text("![x](http://a) `b` *c* \\| mean_tokens")
        == "!\\[x\\](http://a) \\`b\\` \\*c\\* \\\\\\| mean_tokens"
    )
    assert markdown_text("a &lt; \x1b") == "a &amp;lt; \\\\x1b"
