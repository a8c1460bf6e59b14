"""What a policy learns from: demonstrations (prompt and response) and comparisons (prompt, chosen, rejected), as ids.

The prompt's ids are those that rollouts start from (:func:`odin_rm.data.prompts.encode_prompts`), and the response's
ids are the rest of the rendered conversation up to and including its end token, so the policy is trained on exactly
what it will see and write, its end among it. What a template puts behind the end token is left out: nobody writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from odin_rm.core.errors import DataError, RowError
from odin_rm.data.collect import pack
from odin_rm.data.left_out import overlong_by_side
from odin_rm.data.prompts import encode_prompts
from odin_rm.data.render import Prompt, Reply, plain_response, uses_chat_template
from odin_rm.data.rendered import render_any_prompt, render_conversation, without_end
from odin_rm.data.rows import parse_preference_row, parse_prompt_response
from odin_rm.data.sources import RowSource, Source, open_source
from odin_rm.data.template_check import TemplateCheck
from odin_rm.data.template_form import template_form

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 1000
OnBad = Literal["error", "skip"]


@dataclass(frozen=True)
class PolicyRows:
    """Rows that were read.

    Attributes:
        prompts: strings or chat messages.
        responses: per row one response (a demonstration) or two (chosen, rejected).
        places: of each row, for messages.
        rows: how many the source has.
        skipped: rows left out, each as ``{"row", "reason", "data"}``.
        source: name of the file, folder or hub id.
        ties: pairs of equal rank, which make no row.
        layouts: rows that were read from each public layout.
        unrendered: names of what rows hold beside texts and the template does not write.
    """

    prompts: list[Prompt] = field(default_factory=list)
    responses: list[tuple[str, ...]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    rows: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)
    source: str = "in-memory rows"
    ties: int = 0
    layouts: dict[str, int] = field(default_factory=dict)
    unrendered: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class EncodedRows:
    """Rows as ids; those that do not fit are not among them.

    Attributes:
        prompt_ids: what the policy is asked, with the header of its turn.
        response_ids: per row one or two responses, each with its end token.
        overlong: how many rows were left out because they do not fit.
        report: how many rows there were and why some were left out: ``pairs``, ``pairs_stated``,
            ``dropped_overlong_pairs`` with its parts by side, ``identical_pairs`` (both responses are the same ids);
            for demonstrations ``demonstrations``, ``demonstrations_stated``, ``dropped_overlong_demonstrations``.
    """

    prompt_ids: list[list[int]]
    response_ids: list[tuple[list[int], ...]]
    overlong: int
    report: dict[str, Any] = field(default_factory=dict)


def read_demonstrations(
    source: RowSource,
    *,
    on_bad_row: OnBad = "error",
    columns: Sequence[str] = (),
    check: TemplateCheck | None = None,
) -> PolicyRows:
    """Rows with ``prompt`` and ``response``, or preference rows, of which the best response is taken.

    A best response that wins several comparisons is one demonstration.

    Args:
        source: as :func:`odin_rm.data.sources.open_source` takes it.
        on_bad_row: raise at an unusable row, or leave it out.
        columns: names of fields, ``new=theirs`` each (:mod:`odin_rm.data.columns`).
        check: of each row, that the template takes it.

    Raises:
        RowError: an unusable row, where ``on_bad_row`` is ``"error"``.
        DataError: the source cannot be read, or no row of it can be used.
    """
    seen: set[str] = set()

    def parse(row: Mapping[str, Any]) -> list[tuple[Prompt, tuple[Reply, ...]]]:
        if row.get("response") is not None:
            prompt, response = parse_prompt_response(row)
            return [(prompt, (response,))]
        if row.get("chosen") is None and row.get("responses") is None:
            fix = "Give every row a 'prompt' and a 'response' (or 'chosen' and 'rejected')."
            raise RowError("field 'response' is missing", fix=fix)
        preference = parse_preference_row(row)
        beaten = {rejected for _, rejected in preference.pairs}
        found: list[tuple[Prompt, tuple[Reply, ...]]] = []
        for best in dict.fromkeys(chosen for chosen, _ in preference.pairs if chosen not in beaten):
            response = preference.responses[best]
            key = pack(preference.prompt) + "\0" + pack(response)
            if key not in seen:
                seen.add(key)
                found.append((preference.prompt, (response,)))
        return found

    return _read(open_source(source, columns=columns, want="demonstrations"), parse, on_bad_row, check)


def read_comparisons(
    source: RowSource,
    *,
    on_bad_row: OnBad = "error",
    columns: Sequence[str] = (),
    check: TemplateCheck | None = None,
) -> PolicyRows:
    """Preference rows of either form; a ranked list gives each of its pairs. Arguments: :func:`read_demonstrations`.

    Raises:
        RowError: an unusable row, where ``on_bad_row`` is ``"error"``.
        DataError: the source cannot be read, or no row of it can be used.
    """

    ties = 0

    def parse(row: Mapping[str, Any]) -> list[tuple[Prompt, tuple[Reply, ...]]]:
        nonlocal ties
        found = parse_preference_row(row)
        ties += found.ties
        return [(found.prompt, (found.responses[c], found.responses[r])) for c, r in found.pairs]

    rows = _read(open_source(source, columns=columns, want="preferences"), parse, on_bad_row, check)
    return replace(rows, ties=ties)


def _read(
    opened: Source,
    parse: Callable[[Mapping[str, Any]], list[tuple[Prompt, tuple[Reply, ...]]]],
    on_bad_row: OnBad,
    check: TemplateCheck | None,
) -> PolicyRows:
    layouts: dict[str, int] = {}
    skipped: list[dict[str, Any]] = []
    unread: list[RowError] = []
    prompts: list[Prompt] = []
    responses: list[tuple[str, ...]] = []
    places: list[str] = []
    count = 0

    def malformed(error: RowError) -> None:
        unread.append(error)
        skipped.append({"row": None, "reason": str(error), "data": None})

    for placed in opened.rows(malformed if on_bad_row == "skip" else None):
        count += 1
        try:
            found = [(prompt, tuple(_one_message(reply) for reply in replies)) for prompt, replies in parse(placed.row)]
            if check is not None:
                for prompt, replies in found:
                    check.check(prompt, replies)
        except RowError as error:
            placed_error = placed.placed(error)
            if on_bad_row == "error":
                placed_error.fix = f"{error.fix} To leave such rows out: --on_bad_row skip"
                raise placed_error from error
            skipped.append({"row": placed.number, "reason": str(placed_error), "data": dict(placed.row)})
            continue
        if placed.layout is not None:
            layouts[placed.layout] = layouts.get(placed.layout, 0) + 1
        for prompt, replies in found:
            prompts.append(prompt)
            responses.append(replies)
            places.append(placed.place)
    if not prompts:
        first = skipped[0]["reason"] if skipped else "no rows"
        what = f"no usable row in {count + len(unread):,} rows (first problem: {first})"
        raise DataError(what, where=opened.name, fix="Mend the rows, or give another file.")
    return PolicyRows(
        prompts,
        responses,
        places,
        count + len(unread),
        skipped,
        opened.name,
        layouts=layouts,
        unrendered=set() if check is None else set(check.unrendered),
    )


def _one_message(reply: Reply) -> str:
    if isinstance(reply, str):
        return reply
    if len(reply) == 1:
        what = "the response holds more than its text (tool calls, a thought), and a policy is trained on text"
        raise RowError(
            what, fix="Write it into the response's text as the policy is to write it, or leave the row out."
        )
    raise RowError(
        f"the response has {len(reply)} messages, and a policy writes one",
        fix="Put all but the assistant's last message into 'prompt'.",
    )


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: PolicyRows,
    *,
    end_token_ids: Collection[int],
    max_length: int,
    overlong: Literal["drop", "error"] = "drop",
    chat_template: str | None = None,
) -> EncodedRows:
    """Prompt and response ids of all rows.

    Args:
        tokenizer: the policy's.
        rows: what was read.
        end_token_ids: tokens at which the policy's writing stops.
        max_length: most tokens of prompt and response together.
        overlong: a longer row is left out and counted, or an error.
        chat_template: a Jinja template, ``"plain"``, or ``None`` for the tokenizer's own.

    Raises:
        DataError: a chat template refuses a conversation, a row does not fit and ``overlong`` is ``"error"``, or none
            is left.
    """
    prompt_ids, _ = encode_prompts(
        tokenizer, rows.prompts, max_prompt_tokens=sys.maxsize, chat_template=chat_template, places=rows.places
    )
    owner = [i for i, replies in enumerate(rows.responses) for _ in replies]
    encoded = iter(
        encode_replies(
            tokenizer,
            [rows.prompts[i] for i in owner],
            [prompt_ids[i] for i in owner],
            [reply for replies in rows.responses for reply in replies],
            end_token_ids=end_token_ids,
            chat_template=chat_template,
            places=[rows.places[i] for i in owner],
        )
    )
    response_ids = [tuple(next(encoded) for _ in replies) for replies in rows.responses]
    fits = np.array(
        [[len(p) + len(r) <= max_length for r in pair] for p, pair in zip(prompt_ids, response_ids, strict=True)]
    )
    fits_B = fits.all(axis=1)
    if not fits_B.all() and (overlong == "error" or not fits_B.any()):
        longest = int(np.argmin(fits_B))
        tokens = len(prompt_ids[longest]) + max(map(len, response_ids[longest]))
        what = f"has {tokens:,} tokens, more than --max_length ({max_length:,})"
        fix = "Raise it, or leave longer rows out with --overlong drop." if fits_B.any() else "No row fits; raise it."
        raise DataError(what, where=rows.places[longest], fix=fix)
    identical_B = fits_B & np.array([len(pair) == 2 and pair[0] == pair[1] for pair in response_ids])
    kept = np.flatnonzero(fits_B & ~identical_B).tolist()
    if not kept:
        what = "no usable pair: chosen and rejected have the same tokens in all pairs that fit"
        raise DataError(what, where=rows.places[0], fix="Check what the chat template leaves of the responses.")
    report = _report(rows, ~fits, identical_B) | {"max_length": max_length}
    return EncodedRows([prompt_ids[i] for i in kept], [response_ids[i] for i in kept], int((~fits_B).sum()), report)


def _report(rows: PolicyRows, too_long: np.ndarray, identical_B: np.ndarray) -> dict[str, Any]:
    """Counts of pairs (two columns of ``too_long``) or of demonstrations (one)."""
    stated, sides = too_long.shape
    noun = "pairs" if sides == 2 else "demonstrations"
    by_side = overlong_by_side(too_long[:, 0], too_long[:, 1]) if sides == 2 else {}
    overlong, identical = int(too_long.any(axis=1).sum()), int(identical_B.sum())
    return {
        "rows": rows.rows,
        "skipped_rows": len(rows.skipped),
        "layouts": rows.layouts,
        "unrendered": sorted(rows.unrendered),
        f"{noun}_stated": stated,
        noun: stated - overlong - identical,
        f"dropped_overlong_{noun}": overlong,
        **by_side,
        **({"identical_pairs": identical, "ties": rows.ties} if sides == 2 else {}),
    }


def encode_replies(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    replies: Sequence[str],
    *,
    end_token_ids: Collection[int],
    chat_template: str | None = None,
    places: Sequence[str] | None = None,
) -> list[list[int]]:
    """Ids of each response after its prompt, its end token last.

    Where the ids of the whole rendered conversation begin with the prompt's, the response's are the rest of them.
    Where a token would reach over the border, the remaining text is tokenised alone: a policy that is asked with
    ``prompt_ids`` can only go on after them.

    Args:
        tokenizer: the policy's.
        prompts, prompt_ids: what was asked and its ids, as rollouts start from them.
        replies: one text each.
        end_token_ids: tokens at which the policy's writing stops.
        chat_template: as for the prompts.
        places: of each row, for messages.

    Raises:
        DataError: the chat template refuses a conversation, or changes a response.
    """
    chat = uses_chat_template(tokenizer, chat_template)
    end = _end_token(tokenizer, end_token_ids)
    encoded: list[list[int]] = []
    for start in range(0, len(replies), _CHUNK):
        part = range(start, min(start + _CHUNK, len(replies)))
        texts = [_conversation(tokenizer, prompts[i], replies[i], chat_template, places, i) for i in part]
        wholes = _ids(tokenizer, [whole for whole, _ in texts], special=not chat)
        for i, whole_ids, (_, rest) in zip(part, wholes, texts, strict=True):
            border = len(prompt_ids[i])
            if whole_ids[:border] == list(prompt_ids[i]):
                response_ids = whole_ids[border:]
            else:
                response_ids = _ids(tokenizer, [rest], special=False)[0]
            encoded.append(_closed(tokenizer, response_ids, end, end_token_ids))
    return encoded


def _conversation(
    tokenizer: Any,
    prompt: Prompt,
    reply: str,
    chat_template: str | None,
    places: Sequence[str] | None,
    number: int,
) -> tuple[str, str]:
    """The rendered conversation, and the part of it that the policy writes."""
    form = template_form(tokenizer, chat_template)
    reply = str(without_end(form, reply))
    if not form.chat:
        return render_conversation(tokenizer, form, prompt, reply, chat_template), plain_response(reply)
    try:
        whole = render_conversation(tokenizer, form, prompt, reply, chat_template)
        asked = render_any_prompt(tokenizer, prompt, chat_template)
    except DataError as error:
        where = places[number] if places else f"row {number + 1}"
        raise RowError(error.what, where=where, fix=error.fix) from error
    if whole.startswith(asked):
        return whole, whole[len(asked) :]
    # The template opens a turn that is there otherwise than one that is asked for; the policy's part is the text.
    start = whole.rfind(reply.strip())
    if start < 0:
        where = places[number] if places else f"row {number + 1}"
        raise RowError("the chat template changes the response", where=where, fix="Give another --chat_template.")
    return whole, whole[start:]


def _ids(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    return tokenizer(
        texts, add_special_tokens=special, padding=False, truncation=False, return_attention_mask=False, verbose=False
    )["input_ids"]


def _end_token(tokenizer: Any, end_token_ids: Collection[int]) -> int:
    if not end_token_ids:
        raise DataError("the policy has no end token, so it cannot learn to end", fix="Set the tokenizer's eos_token.")
    return tokenizer.eos_token_id if tokenizer.eos_token_id in end_token_ids else min(end_token_ids)


def _closed(tokenizer: Any, ids: list[int], end: int, end_token_ids: Collection[int]) -> list[int]:
    """The ids up to their last end token, if only white space follows it; else all of them and an end token."""
    last = next((i for i in reversed(range(len(ids))) if ids[i] in end_token_ids), None)
    if last is not None and not tokenizer.decode(ids[last + 1 :]).strip():
        return ids[: last + 1]
    return [*ids, end]
