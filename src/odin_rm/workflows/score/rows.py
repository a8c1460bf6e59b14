"""What a row to be scored holds: prompt and response, or a text that the model's template has rendered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.data.cells import values_of_cells
from odin_rm.data.columns import NO_NAMES, Columns
from odin_rm.data.layouts import in_our_form
from odin_rm.data.rows import parse_prompt_response, parse_prompt_row

if TYPE_CHECKING:
    from odin_rm.data.render import Prompt, Reply
    from odin_rm.data.tokenise import EncodingSettings

CUT = "cut"


@dataclass(frozen=True)
class RowFields:
    """The names of a row's fields."""

    prompt: str
    response: str
    text: str
    columns: Columns = NO_NAMES

    @classmethod
    def of(cls, prompt: str, response: str, text: str, columns: Sequence[str]) -> RowFields:
        """Of the flags of their own and those of ``--columns``.

        Raises:
            ConfigError: ``columns`` are not ``new=theirs`` each, or name a field otherwise than its own flag does.
        """
        own = {"prompt": prompt, "response": response, "text": text}
        named = Columns(columns)
        for name, theirs in own.items():
            if theirs != name and named.names.get(name, theirs) != theirs:
                what = f"and --{name}_field name '{name}' differently"
                raise ConfigError(what, where="--columns", fix="Give one of them.")
        own |= {name: theirs for name, theirs in named.names.items() if name in own}
        mapped = {name: theirs for name, theirs in (own | named.names).items() if name != theirs}
        return cls(**own, columns=Columns([f"{name}={theirs}" for name, theirs in mapped.items()]))

    def is_text(self, row: Mapping[str, Any]) -> bool:
        """Whether a row comes as one rendered text: it has that field, and no response."""
        return _given(row.get(self.text)) and not _given(row.get(self.response))


@dataclass(frozen=True)
class RowTexts:
    """Prompt and response of a row.

    Attributes:
        prompt: a string, chat messages, or a rendered prompt.
        response: a string or chat messages.
        ended: false for a rendered text without an end token.
        completed: of a rendered text that ended otherwise than the template ends it.
        layout: the public layout of the row; ``None`` for our own form.
    """

    prompt: Prompt
    response: Reply
    ended: bool = True
    completed: bool = False
    layout: str | None = None


def read_texts(
    row: Mapping[str, Any], fields: RowFields, tokenizer: Any, settings: EncodingSettings, suffix: str = ".jsonl"
) -> RowTexts:
    """Prompt and response of a row.

    Args:
        row: field names to values.
        fields: which ones to read.
        tokenizer: the model's.
        settings: how the model renders and reads.
        suffix: of the file that the row is from (:func:`odin_rm.data.cells.values_of_cells`).

    Raises:
        RowError: the row is unusable; names the field and says how to mend it.
    """
    from odin_rm.data.rendered import check_not_half_rendered
    from odin_rm.data.template_form import template_form
    from odin_rm.data.tokenise import split_text

    try:
        if fields.is_text(row):
            text = row[fields.text]
            if not isinstance(text, str):
                raise RowError(f"'text' is {type(text).__name__}, not text", fix="Write it as a string.")
            asked = row.get(fields.prompt)
            known = parse_prompt_row({"prompt": asked}) if _given(asked) else None
            part = split_text(tokenizer, text, known, settings)
            return RowTexts(part.prompt, part.response, not part.cut, part.completed)
        values = fields.columns.apply(values_of_cells(row, suffix))
        # Rows of one response may be anything; which of their fields is scored is for the user to say.
        named = values.get("prompt") is not None and values.get("response") is not None
        ours, layout = in_our_form(values, "demonstrations") if named else (values, None)
        prompt, response = parse_prompt_response(ours)
        check_not_half_rendered(template_form(tokenizer, settings.chat_template), prompt)
        return RowTexts(prompt, response, layout=layout)
    except DataError as error:
        raise _with_flags(fields.columns.renamed(error), row, fields) from None


def _with_flags(error: RowError, row: Mapping[str, Any], fields: RowFields) -> RowError:
    missing = [name for name in (fields.prompt, fields.response) if name not in row]
    if missing and len(row) and not fields.is_text(row):
        flags = "--prompt_field and --response_field, or with --columns prompt=theirs response=theirs"
        fix = f"{error.fix.rstrip('.')}, or name the fields with {flags}"
        return RowError(error.what, fix=fix)
    return error


def _given(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None
