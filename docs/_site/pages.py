"""Pages of the docs site that are made, not written: the README as its start, and the settings of every command.

mkdocs calls the functions of this file (``hooks`` in ``mkdocs.yml``).
"""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from odin_rm import _HOME
from odin_rm.cli.commands import COMMANDS, load
from odin_rm.cli.parser import own_fields
from odin_rm.core.options import flag_of

ROOT = Path(__file__).resolve().parents[2]
COPIES = {
    "README.md": "index.md",
    "README.ko.md": "ko.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside of ``docs/`` or are made from the code."""
    made = {name: inside((ROOT / source).read_text(encoding="utf-8"), "") for source, name in COPIES.items()}
    made |= {"settings.md": settings_page(), "api.md": api_page()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave ``docs/`` lead to the page that is made of their target, or become plain text."""
    return inside(markdown, "../")


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Empty headings become cells, for they say nothing, and Sphinx's roles in docstrings go."""
    html = re.sub(r":(?:mod|class|func|meth|data|attr):(?=<code)", "", html)
    return re.sub(r"<th([^>]*)>\s*</th>", r"<td\1></td>", html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme's search is a dialogue; it gets a name for those who hear it."""
    dialogue = 'data-md-component="search" role="dialog"'
    return output.replace(dialogue, f'{dialogue} aria-label="Search"')


def inside(markdown: str, up: str) -> str:
    """Turn links as they work in the repository into links as they work on the site.

    Args:
        markdown: a page.
        up: what leads from the page to the root of the repository.
    """

    def link(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        outside = path.removeprefix(up) if up and path.startswith(up) else path if not up else None
        if outside is None:
            return match[0]
        if outside.startswith("docs/"):
            return f"{mark}[{text}]({outside.removeprefix('docs/')}{'#' + anchor if anchor else ''})"
        if outside in COPIES:
            return f"{mark}[{text}]({COPIES[outside]}{'#' + anchor if anchor else ''})"
        return text

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", link, markdown)


def settings_page() -> str:
    """Every command: what it does, an example, and its settings by heading."""
    parts = ["# Settings of every command\n", "Made from the code. `odin-rm help COMMAND` shows the same.\n"]
    for name, command in COMMANDS.items():
        parts.append(f"## odin-rm {name}\n\n{command.summary}\n\n```sh\n{command.example}\n```\n")
        options = load(command.options)
        hints = typing.get_type_hints(options)
        refused = getattr(options, "refused", {})
        groups: dict[str, list[str]] = {}
        for item in own_fields(options):
            if item.name in refused or "instead" in item.metadata:
                continue
            row = f"| `--{flag_of(item)}` | {default_of(item)} | {cell(describe(item, hints[item.name]))} |"
            groups.setdefault(str(item.metadata.get("group") or "settings"), []).append(row)
        for title, rows in groups.items():
            parts.append(f"**{title}**\n\n| flag | default | what it does |\n|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def default_of(item: dataclasses.Field[Any]) -> str:
    """A field's default as a cell."""
    if item.metadata.get("required"):
        return "required"
    if item.default is not dataclasses.MISSING:
        value = item.default
    elif item.default_factory is not dataclasses.MISSING:
        value = item.default_factory()
    else:
        return "required"
    return "" if value is None or value in ({}, []) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def describe(item: dataclasses.Field[Any], hint: Any) -> str:
    """What a field does, with its choices and bounds."""
    text = str(item.metadata.get("help") or "").rstrip(".")
    choices = item.metadata.get("choices") or (
        typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    )
    if choices:
        text += f" (one of {', '.join(map(str, choices))})"
    if "bounds" in item.metadata:
        text += f" (must be {item.metadata['bounds']})"
    return text + "." if text else ""


def cell(text: str) -> str:
    """Text that breaks no table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;")


def api_page() -> str:
    """The public names, each with its docstring."""
    entries = [f"::: {module}.{name}\n" for name, module in sorted(_HOME.items())]
    return "# Python\n\nAll of these are names of `odin_rm` too: `from odin_rm import score_texts`.\n\n" + "\n".join(
        entries
    )
