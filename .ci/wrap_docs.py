"""Wraps the prose of the documents at 120 characters: paragraphs and list items that have a longer line.

    python .ci/wrap_docs.py FILE...      change the files
    python .ci/wrap_docs.py --check FILE...   name those that would change, exit code 1

Code, tables, headings, pictures and HTML stay as they are.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

WIDTH = 120
KEPT = re.compile(r"\s*(\||#|!\[|<|```|>|\$\$)|    ")
ITEM = re.compile(r"(\s*)([-*]|\d+\.)\s+")
# A line that begins so would be read as a list item, a heading or a quotation.
BEGINS = re.compile(r"([-+*>#]|\d+[.)])$")


def wrapped(text: str) -> str:
    """The text with its long paragraphs wrapped."""
    out: list[str] = []
    paragraph: list[str] = []
    code = False

    def close() -> None:
        out.extend(_filled(paragraph))
        paragraph.clear()

    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            close()
            code = not code
            out.append(line)
        elif code or not line.strip() or (KEPT.match(line) and not paragraph):
            close()
            out.append(line)
        elif ITEM.match(line):
            close()
            paragraph.append(line)
        elif re.match(r"\s*(\||#|```)", line):
            close()
            out.append(line)
        else:
            paragraph.append(line)
    close()
    return "\n".join(out)


def _filled(lines: list[str]) -> list[str]:
    if all(len(line) <= WIDTH for line in lines):
        return lines
    item = ITEM.match(lines[0])
    begins = item[0] if item else re.match(r"\s*", lines[0])[0]  # type: ignore[index]
    words = " ".join([lines[0][len(begins) :].strip(), *(line.strip() for line in lines[1:])])
    if re.search(r"  $|\\$", "\n".join(lines), flags=re.M):
        return lines  # line breaks that are meant
    # Code is broken too, unless a line would then begin with a mark.
    for text in (words, re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), words)):
        filled = textwrap.wrap(
            text, WIDTH, initial_indent=begins, subsequent_indent=" " * len(begins), break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
        if not any(BEGINS.match(line.split()[0]) for line in filled[1:]):
            return [line.replace("\0", " ") for line in filled]
    return lines


def main() -> None:
    """Wrap the files, or name them."""
    files = [Path(name) for name in sys.argv[1:] if name != "--check"]
    long = [file for file in files if wrapped(file.read_text(encoding="utf-8")) != file.read_text(encoding="utf-8")]
    for file in long:
        print(file)
        if "--check" not in sys.argv:
            file.write_text(wrapped(file.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit("--check" in sys.argv and bool(long))


if __name__ == "__main__":
    main()
