"""Prompts for a policy: rows from any source, and their ids as the policy is given them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from odin_rm.core.errors import ConfigError, DataError, RowError
from odin_rm.data.render import Prompt, uses_chat_template
from odin_rm.data.rendered import render_any_prompt
from odin_rm.data.rows import parse_prompt_row
from odin_rm.data.sources import RowSource, open_source
from odin_rm.data.tokenise import CHUNK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OverlongPrompt = Literal["error", "drop", "truncate_left"]


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the order of their source.

    Attributes:
        prompts: strings or chat messages, as the source has them.
        columns: the other fields of the rows, each as long as ``prompts``; ``None`` where a row has no such field.
        source: name of the file, folder or hub id.
        places: of each prompt, for messages ("prompts.jsonl, row 3").
        skipped: unusable rows that were left out.
        layouts: rows that were read from each public layout.
    """

    prompts: list[Prompt]
    columns: dict[str, list[Any]]
    source: str
    places: list[str] = field(default_factory=list)
    skipped: int = 0
    layouts: dict[str, int] = field(default_factory=dict)


def load_prompts(
    source: RowSource,
    *,
    on_bad_row: Literal["error", "skip"] = "error",
    columns: Sequence[str] = (),
    check: Callable[[Prompt], None] | None = None,
) -> PromptSet:
    """Read prompts.

    Args:
        source: rows with ``prompt``, with AlpacaEval's ``instruction``, or preference rows in any of their forms
            (:mod:`odin_rm.data.rows`), from anything that :func:`odin_rm.data.sources.open_source` takes.
        on_bad_row: raise at an unusable row, or leave it out and count it.
        columns: names of fields, ``new=theirs`` each (:mod:`odin_rm.data.columns`).
        check: raises a :class:`RowError` for a prompt that its reader cannot take, such as one that a template refuses.

    Raises:
        RowError: an unusable row, placed by file and row number, where ``on_bad_row`` is ``"error"``.
        DataError: the source cannot be read, or has no usable row.
    """
    if on_bad_row not in ("error", "skip"):
        raise ConfigError(f"on_bad_row is '{on_bad_row}'", where="--on_bad_row", fix="Use error or skip.")
    opened = open_source(source, columns=columns, want="prompts")
    refused: list[RowError] = []
    prompts: list[Prompt] = []
    rows: list[Mapping[str, Any]] = []
    places: list[str] = []
    layouts: dict[str, int] = {}
    for placed in opened.rows(refused.append if on_bad_row == "skip" else None):
        try:
            prompt = parse_prompt_row(placed.row)
            if check is not None:
                check(prompt)
        except RowError as error:
            error = placed.placed(error)
            if on_bad_row == "error":
                fix = f"{error.fix} To leave such rows out: --on_bad_row skip".strip()
                raise RowError(error.what, where=error.where, fix=fix) from None
            refused.append(error)
            continue
        if placed.layout is not None:
            layouts[placed.layout] = layouts.get(placed.layout, 0) + 1
        prompts.append(prompt)
        rows.append(placed.row)
        places.append(placed.place)
    if not prompts:
        why = f"no usable prompt (first problem: {refused[0]})" if refused else "holds no prompts"
        raise DataError(why, where=opened.name, fix="Give a file with at least one row that has a 'prompt'.")
    names = dict.fromkeys(name for row in rows for name in row if name not in ("prompt", "instruction"))
    others = {name: [row.get(name) for row in rows] for name in names}
    return PromptSet(prompts, others, opened.name, places, len(refused), layouts)


def template_takes(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> Callable[[Prompt], None]:
    """A check for :func:`load_prompts`: the policy's template takes the prompt."""

    def check(prompt: Prompt) -> None:
        try:
            render_any_prompt(tokenizer, prompt, chat_template)
        except DataError as error:
            raise RowError(error.what, fix=error.fix) from error

    return check


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_prompt_tokens: int,
    chat_template: str | None = None,
    overlong: OverlongPrompt = "error",
    places: Sequence[str] | None = None,
) -> tuple[list[list[int]], list[int]]:
    """Ids of prompts with the header of the assistant's turn: what a policy goes on from.

    The text is that of :func:`odin_rm.data.rendered.render_any_prompt`, so the ids begin the sequence that a reward
    model with the same tokenizer reads. An end token that the tokenizer puts behind any text is left out.

    Args:
        tokenizer: the policy's.
        prompts: strings or chat messages.
        max_prompt_tokens: the most ids of a prompt.
        chat_template: a Jinja template, ``"plain"``, or ``None`` for the tokenizer's own (plain where it has none).
        overlong: a longer prompt is an error, is dropped, or loses its start but for a first special token.
        places: where each prompt comes from, for messages.

    Returns:
        The ids of the kept prompts, and the positions in ``prompts`` that they have.

    Raises:
        DataError: the template refuses a prompt, a prompt is too long and ``overlong`` is ``"error"``, or none is left.
        ConfigError: ``max_prompt_tokens`` is below 1.
    """
    if max_prompt_tokens < 1:
        raise ConfigError(f"is {max_prompt_tokens}", where="--max_prompt_tokens", fix="Give at least 1.")
    names = places if places else [f"prompt {i}" for i in range(1, len(prompts) + 1)]
    kept_ids: list[list[int]] = []
    positions: list[int] = []
    for position, ids in enumerate(_prompt_ids(tokenizer, prompts, chat_template, names)):
        if not ids:
            raise RowError("the prompt has no token", where=names[position], fix="Give it some text.")
        if len(ids) > max_prompt_tokens:
            if overlong == "error":
                what = f"the prompt has {len(ids):,} tokens, more than max_prompt_tokens ({max_prompt_tokens:,})"
                fix = "Raise --max_prompt_tokens, or choose --overlong_prompt drop or truncate_left."
                raise RowError(what, where=names[position], fix=fix)
            if overlong == "drop":
                continue
            ids = _without_start(tokenizer, ids, max_prompt_tokens)
        kept_ids.append(ids)
        positions.append(position)
    if len(prompts) and not positions:
        what = f"all {len(prompts):,} prompts have more than max_prompt_tokens ({max_prompt_tokens:,})"
        raise DataError(what, where=names[0], fix="Raise --max_prompt_tokens.")
    return kept_ids, positions


def _prompt_ids(
    tokenizer: Any, prompts: Sequence[Prompt], chat_template: str | None, names: Sequence[str]
) -> list[list[int]]:
    texts = []
    for prompt, name in zip(prompts, names, strict=True):
        try:
            texts.append(render_any_prompt(tokenizer, prompt, chat_template))
        except DataError as error:
            raise RowError(error.what, where=name, fix=error.fix) from error
    chat = uses_chat_template(tokenizer, chat_template)
    found: list[list[int]] = []
    for start in range(0, len(texts), CHUNK):
        options = {"add_special_tokens": not chat, "return_attention_mask": False, "verbose": False}
        found += tokenizer(texts[start : start + CHUNK], padding=False, truncation=False, **options)["input_ids"]
    if not chat:
        ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
        found = [ids[:-1] if ids and ids[-1] in ends else ids for ids in found]
    return found


def _without_start(tokenizer: Any, ids: list[int], most: int) -> list[int]:
    head = ids[:1] if most > 1 and ids[0] in (tokenizer.bos_token_id, tokenizer.cls_token_id) else []
    return head + ids[len(ids) - (most - len(head)) :]
