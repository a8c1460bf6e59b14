"""What a row to be scored holds: prompt and response, or a text that the model's template has rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odin_rm.core.errors import DataError, RowError
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

    def is_text(self, row: Mapping[str, Any]) -> bool:
        """Whether a row comes as one rendered text: it has that field, and no response."""
        return _given(row.get(self.text)) and not _given(row.get(self.response))

    def renamed(self, error: DataError) -> RowError:
        """An error that names the fields as the row does."""
        what, fix = error.what, error.fix
        for own, theirs in vars(self).items():
            what, fix = what.replace(f"'{own}'", f"'{theirs}'"), fix.replace(f"'{own}'", f"'{theirs}'")
        return RowError(what, fix=fix)


@dataclass(frozen=True)
class RowTexts:
    """Prompt and response of a row.

    Attributes:
        prompt: a string, chat messages, or a rendered prompt.
        response: a string or chat messages.
        ended: false for a rendered text without an end token.
        completed: of a rendered text that ended otherwise than the template ends it.
    """

    prompt: Prompt
    response: Reply
    ended: bool = True
    completed: bool = False


def read_texts(row: Mapping[str, Any], fields: RowFields, tokenizer: Any, settings: EncodingSettings) -> RowTexts:
    """Prompt and response of a row.

    Args:
        row: field names to values.
        fields: which ones to read.
        tokenizer: the model's.
        settings: how the model renders and reads.

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
        values = {"prompt": row.get(fields.prompt), "response": row.get(fields.response)}
        prompt, response = parse_prompt_response(values)
        check_not_half_rendered(template_form(tokenizer, settings.chat_template), prompt)
        return RowTexts(prompt, response)
    except DataError as error:
        raise _with_flags(fields.renamed(error), row, fields) from None


def _with_flags(error: RowError, row: Mapping[str, Any], fields: RowFields) -> RowError:
    missing = [name for name in (fields.prompt, fields.response) if name not in row]
    if missing and len(row) and not fields.is_text(row):
        fix = f"{error.fix.rstrip('.')}, or name the fields with --prompt_field and --response_field."
        return RowError(error.what, fix=fix)
    return error


def _given(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None
