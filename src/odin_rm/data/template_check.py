"""Whether a template takes the conversations of a data set, asked while the rows are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from odin_rm.core.errors import DataError, RowError
from odin_rm.data.render import (
    Prompt,
    Reply,
    plain_prompt,
    plain_response,
    prompt_messages,
    render_chat,
    response_messages,
    unrendered,
    uses_chat_template,
)
from odin_rm.data.rows import PreferenceRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TemplateCheck:
    """A check that the template takes a row.

    Args:
        tokenizer: whose template it is.
        chat_template: a Jinja template, ``"plain"``, or ``None`` for the tokenizer's own.
        every_row: ask for each row. A template may refuse a row for what it says, and rows that it refuses can only be
            left out while they are read. Without it, once for each order of roles.

    Attributes:
        unrendered: names of what rows hold beside texts and the template does not write.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None, *, every_row: bool = False
    ) -> None:
        self.tokenizer, self.chat_template, self.every_row = tokenizer, chat_template, every_row
        self.unrendered: set[str] = set()
        self._chat = uses_chat_template(tokenizer, chat_template)
        self._accepted: set[tuple[str, ...]] = set()

    def __call__(self, row: PreferenceRow) -> None:
        """Ask for a preference row.

        Raises:
            RowError: the template refuses it.
        """
        self.check(row.prompt, row.responses)

    def check(self, prompt: Prompt, responses: Sequence[Reply]) -> None:
        """Ask for a prompt with each of its responses.

        Raises:
            RowError: the template refuses one of them.
        """
        self.unrendered |= unrendered(self.tokenizer, self.chat_template, prompt, *responses)
        for response in responses:
            messages = [*prompt_messages(prompt), *response_messages(response)]
            roles = tuple(message["role"] for message in messages)
            if roles in self._accepted and not self.every_row:
                continue
            try:
                if self._chat:
                    render_chat(self.tokenizer, prompt, response, self.chat_template)
                else:
                    plain_prompt(prompt), plain_response(response)
            except DataError as error:
                raise RowError(error.what, fix=error.fix) from error
            self._accepted.add(roles)
