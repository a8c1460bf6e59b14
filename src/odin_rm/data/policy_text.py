"""What trainers send of a policy: a text, and the prompt that it begins with, which may be decoded a little otherwise.

OpenRLHF and its like send the prompt beside the text. It helps where it is right: it says where the response begins.
Where neither of the two has been rendered by a template, they are prompt and response of a conversation all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from odin_rm.core.errors import DataError
from odin_rm.data.rendered import SplitText, rendered_prompt, split_end
from odin_rm.data.template_form import TemplateForm, template_form
from odin_rm.data.tokenise import EncodingSettings, split_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def begins_rendered(form: TemplateForm, text: str) -> bool:
    """Whether a text begins as the template begins."""
    body = form.without_start_tokens(text)
    return any(start and body.startswith(start) for start in form.starts)


def split_policy_text(
    tokenizer: PreTrainedTokenizerBase, text: str, prompt: str | None, settings: EncodingSettings
) -> SplitText:
    """Prompt and response of what a policy read and wrote.

    Args:
        tokenizer: the reward model's.
        text: in the form of its template; or, behind a plain ``prompt``, plain text.
        prompt: what the text begins with, if the trainer tells. One that it does not begin with is not used.
        settings: how the model renders and reads.

    Returns:
        Its parts; ``prompt`` is a plain string where no template has rendered it.

    Raises:
        DataError: the text is in neither form.
    """
    form = template_form(tokenizer, settings.chat_template)
    if prompt and prompt.strip():
        if not begins_rendered(form, text) and rendered_prompt(form, prompt) is None:
            body, start = form.without_start_tokens(text), form.without_start_tokens(prompt)
            if body.startswith(start):
                response, ended = split_end(form, body[len(start) :])
                return SplitText(start, response.removeprefix(" "), not ended, False)
        try:
            return split_text(tokenizer, text, prompt, settings)
        except DataError:
            pass  # the text alone says as much, or why it cannot be read
    return split_text(tokenizer, text, None, settings)
