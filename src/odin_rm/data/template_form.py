"""What a template writes around texts, found out by rendering two messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from odin_rm.core.errors import DataError
from odin_rm.data.render import (
    ASSISTANT,
    HUMAN,
    SYSTEM,
    Message,
    parts_of_ending,
    render_chat,
    render_messages,
    special_tokens,
    template_ending,
    uses_chat_template,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = ("Quince", "Two medlars")
"""Two messages that have no letter in common at either end, and that stand in no template."""


@dataclass(frozen=True)
class TemplateForm:
    """What a template writes around texts; for the plain template the words of :mod:`odin_rm.data.render`.

    Attributes:
        chat: a chat template; else the plain one.
        bos: the start token that the chat template itself writes, or nothing.
        start_tokens: tokens that may stand before a rendered text without being a part of it (BOS, [CLS]).
        starts: how a rendered prompt can begin, ``start_tokens`` aside.
        starts_special: ``starts`` is a special token, so no other text begins with it.
        header: between a user message and the response: the end of the one turn and the header of the other.
        asking: the end of ``header`` that is written only when a response is asked for.
        lead: what the template writes between header and response: ``" "``, an empty thought.
        ending: behind the response.
        before_end, beyond_end: what of ``ending`` stands before and behind its end-of-turn token.
        end_tokens: tokens that end a response, the template's own first.
        may_be_cut: a response without an end token was cut.
        pad: the pad token, where it ends nothing.
    """

    chat: bool
    bos: str
    start_tokens: tuple[str, ...]
    starts: tuple[str, ...]
    starts_special: bool
    header: str
    asking: str
    lead: str
    ending: str
    before_end: str
    beyond_end: str
    end_tokens: tuple[str, ...]
    may_be_cut: bool
    pad: str | None

    def without_start_tokens(self, text: str) -> str:
        """A text without the start tokens that stand before it."""
        body = text
        while token := next((token for token in self.start_tokens if body.startswith(token)), None):
            body = body.removeprefix(token)
        # Some tokenizers decode a blank behind the start token.
        spaced = body != text and not any(start.startswith(" ") for start in self.starts)
        return body.lstrip(" ") if spaced else body

    @property
    def ends_with_token(self) -> bool:
        """Whether the template's ending holds a token that ends a response."""
        return bool(self.end_tokens) and self.end_tokens[0] in self.ending


_known: WeakKeyDictionary[Any, dict[Any, TemplateForm]] = WeakKeyDictionary()


def template_form(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> TemplateForm:
    """What the template writes around texts, found out by rendering two messages."""
    own = getattr(tokenizer, "chat_template", None)
    tokens = tuple(getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "pad", "cls", "sep"))
    key = (chat_template, str(own), tokens, len(tokenizer))
    forms = _known.setdefault(tokenizer, {})
    if key not in forms:
        chat = uses_chat_template(tokenizer, chat_template)
        forms[key] = _chat_form(tokenizer, chat_template) if chat else _plain_form(tokenizer)
    return forms[key]


def _plain_form(tokenizer: Any) -> TemplateForm:
    tokens = _tokens(tokenizer, "eos", "sep")
    return TemplateForm(
        chat=False,
        bos="",
        start_tokens=_tokens(tokenizer, "bos", "cls"),
        starts=(HUMAN, SYSTEM),
        starts_special=False,
        header=f"\n\n{ASSISTANT}",
        asking="",
        lead="",
        ending=tokens[0] if tokens else "",
        before_end="",
        beyond_end="",
        end_tokens=tokens,
        may_be_cut=tokenizer.eos_token is not None and tokenizer.sep_token is None,
        pad=_pad(tokenizer, tokens),
    )


def _chat_form(tokenizer: Any, chat_template: str | None) -> TemplateForm:
    try:
        asked = [render_messages(tokenizer, [_user(text)], chat_template, True) for text in PROBES]
        bare = [render_messages(tokenizer, [_user(text)], chat_template, False) for text in PROBES]
    except DataError:  # it wants another kind of conversation; nothing is known to be rendered by it
        asked = bare = [""] * len(PROBES)
    start_tokens = _tokens(tokenizer, "bos", "cls")
    bos = tokenizer.bos_token or ""
    form = TemplateForm(
        chat=True,
        bos=bos if bos and asked[0].startswith(bos) else "",
        start_tokens=start_tokens,
        starts=(),
        starts_special=False,
        header=_shared(a.rpartition(p)[2] if p in a else "" for a, p in zip(asked, PROBES, strict=True)),
        asking=_shared(a.removeprefix(b) if a.startswith(b) else "" for a, b in zip(asked, bare, strict=True)),
        lead=_lead(tokenizer, asked[0], chat_template),
        ending=template_ending(tokenizer, chat_template),
        before_end="",
        beyond_end="",
        end_tokens=(),
        may_be_cut=False,
        pad=None,
    )
    return _with_end(tokenizer, _with_starts(tokenizer, form, asked, chat_template))


def _with_starts(tokenizer: Any, form: TemplateForm, asked: list[str], chat_template: str | None) -> TemplateForm:
    """Adds how rendered prompts begin: with a system message, and without."""
    prompts = [asked]
    try:
        system = [[{"role": "system", "content": text}, _user("Which?")] for text in PROBES]
        prompts.append([render_messages(tokenizer, messages, chat_template, True) for messages in system])
    except DataError:  # the template takes none
        pass
    bodies = [[form.without_start_tokens(text) for text in texts] for texts in prompts]
    starts = [first[: common_start(first, second)] for first, second in bodies]
    special = next((t for t in special_tokens(tokenizer) if all(start.startswith(t) for start in starts)), None)
    if special is not None:
        return replace(form, starts=(special,), starts_special=True)
    return replace(form, starts=tuple(dict.fromkeys(start for start in starts if start)))


def _with_end(tokenizer: Any, form: TemplateForm) -> TemplateForm:
    """Adds what ends a response."""
    before, own, beyond = parts_of_ending(tokenizer, form.ending)
    tokens = tuple(dict.fromkeys(token for token in (own, *_tokens(tokenizer, "eos")) if token))
    return replace(
        form,
        before_end=before,
        beyond_end=beyond,
        end_tokens=tokens,
        may_be_cut=bool(tokens and form.ending),
        pad=_pad(tokenizer, tokens),
    )


def _lead(tokenizer: Any, asked: str, chat_template: str | None) -> str:
    """What the template writes between the header and a response."""
    found = []
    for response in PROBES:
        try:
            text = render_chat(tokenizer, PROBES[0], response, chat_template)
        except DataError:
            return ""
        found.append(text[len(asked) :].partition(response)[0] if text.startswith(asked) else "")
    return _shared(found)


def common_start(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many letters (or ids) two texts (or lists) begin with alike."""
    shared = min(len(first), len(second))
    return next((i for i in range(shared) if first[i] != second[i]), shared)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _shared(texts: Iterable[str]) -> str:
    different = set(texts)
    return different.pop() if len(different) == 1 else ""


def _tokens(tokenizer: Any, *names: str) -> tuple[str, ...]:
    values = (getattr(tokenizer, f"{name}_token") for name in names)
    return tuple(dict.fromkeys(value for value in values if value))


def _pad(tokenizer: Any, end_tokens: tuple[str, ...]) -> str | None:
    return tokenizer.pad_token if tokenizer.pad_token and tokenizer.pad_token not in end_tokens else None
