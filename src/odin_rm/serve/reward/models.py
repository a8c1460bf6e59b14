"""A model that is served: from an item of a request to token ids, by the one rule of where a reward is read.

A conversation goes through the model's template. A text in the template's form is that conversation again
(:mod:`odin_rm.data.rendered`): its end is completed, and it has its start token once. Any other text is scored as it
stands where the protocol is one of plain texts, and refused where it is one of rendered texts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from odin_rm.core.errors import DataError
from odin_rm.data.attributes import Attribute, measure_reply
from odin_rm.data.policy_text import begins_rendered, split_policy_text
from odin_rm.data.rendered import check_not_half_rendered
from odin_rm.data.rows import parse_prompt_response
from odin_rm.data.template_form import TemplateForm, template_form
from odin_rm.data.tokenise import EncodedResponse, EncodingSettings, encode_named
from odin_rm.model.backbone import embedding_rows
from odin_rm.model.scoring import Scorer, score_sequences, text_settings
from odin_rm.serve.reward.dialects.records import Item, Problem

# What models are verified and warmed up on before the first request: two prompts with two responses each. A layout that
# holds for a sequence is taken to hold for one twice as long, so half a window verifies the whole of it.
_PROBES = [(f"What is {one}?", f"It is {other}. ") for one in ("rice", "a hill") for other in ("food", "high")]
_PROBE_TOKENS = 1024
# A longer text than this, or than so many characters for each token of the window, is refused before it is tokenised,
# which takes 200 times a text's size in memory.
_MOST_CHARACTERS, _CHARACTERS_A_TOKEN = 2**20, 16


@dataclass(frozen=True)
class Encoded:
    """An item as the model reads it.

    Attributes:
        ids: ``(T,)`` int32 token ids.
        group: texts of one group begin alike: those of one prompt.
        response_tokens: of the response, without end token; ``None`` where it is not known.
        cut: the response has no end token.
        free: a text in the form of no template.
        truncated: something was cut away.
        taken_off: what the model's calibration takes off the quality.
        attributes: of the response, by name.
    """

    ids: np.ndarray
    group: Any
    response_tokens: int | None
    cut: bool = False
    free: bool = False
    truncated: bool = False
    taken_off: float = 0.0
    attributes: Mapping[str, float] = field(default_factory=dict)


@dataclass
class ServedModel:
    """A loaded model under the name that clients know.

    Attributes:
        name: what it is called in replies.
        path: what it was loaded from; a client may say this instead.
        scorer: the model.
        settings: how its texts are rendered, read and cut.
        microbatch_tokens: computed tokens per forward pass.
        free_text: whether texts in the form of no template are scored: ``auto`` where the protocol is one of plain
            texts, ``score`` and ``refuse`` everywhere.
        attributes: that are measured of responses, for logs.
        created: seconds since 1970.
    """

    name: str
    path: str
    scorer: Scorer
    settings: EncodingSettings
    microbatch_tokens: int = 16384
    free_text: str = "auto"
    attributes: Sequence[Attribute] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def form(self) -> TemplateForm:
        """What the model's template writes around texts."""
        return template_form(self.scorer.tokenizer, self.settings.chat_template)

    @cached_property
    def _rows(self) -> int:
        inner = next((m for m in self.scorer.model.modules() if isinstance(m, PreTrainedModel)), None)
        return embedding_rows(inner) or len(self.scorer.tokenizer)

    @property
    def window(self) -> int:
        """The most tokens of a text."""
        return self.settings.max_length

    def warm_up(self) -> None:
        """Verify the batch layout, and run once, before anybody waits for it."""
        try:
            once, twice = (len(self.encode(_probe(*_PROBES[0], times)).ids) for times in (1, 2))
            room = min(self.window // 2, _PROBE_TOKENS) - once
            times = max(1, room // max(1, twice - once))
            sequences = [self.encode(_probe(prompt, response, times)).ids for prompt, response in _PROBES]
        except (
            Problem
        ):  # the window is short, or the template takes other conversations: then the first request does it
            return
        self.score(sequences)

    def score(self, sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        """``(R,)`` quality and length rewards (or ``None``) of sequences; those that begin alike share that part."""
        return score_sequences(
            self.scorer.model,
            sequences,
            pad_token_id=self.scorer.pad_token_id,
            microbatch_tokens=self.microbatch_tokens,
            device=self.scorer.device,
            layout=self.scorer.layout(sequences),
        )

    def encode(self, item: Item) -> Encoded:
        """An item as token ids.

        Raises:
            Problem: it cannot be read, is empty, or does not fit.
        """
        self._check_size(item)
        for text in (item.text, item.prompt, item.response):
            _check_whole(text, item.param)
        try:
            if item.ids is not None:
                return self._from_ids(item)
            return self._from_pair(item) if item.text is None else self._from_text(item)
        except DataError as error:
            what = " ".join(f"{error.what.rstrip('.')}. {error.fix}".split())
            raise Problem(400, what, param=item.param) from error

    def _check_size(self, item: Item) -> None:
        most = max(_MOST_CHARACTERS, _CHARACTERS_A_TOKEN * self.window)
        count = _characters([item.text, item.prompt, item.response, item.variables])
        if count > most:
            what = f"the text has {count:,} characters; at most {most:,} are read"
            raise Problem(
                400, f"{what}, this model's maximum context length is {self.window:,} tokens", param=item.param
            )

    def _from_ids(self, item: Item) -> Encoded:
        assert item.ids is not None
        rows = self._rows
        if min(item.ids) < 0 or max(item.ids) >= rows:
            raise Problem(400, f"a token id is outside the vocabulary of {rows:,}", param=item.param)
        self._check_whole_known(item)
        ids = self._fitted(list(item.ids), item)
        return Encoded(ids, item.ids[:32], None, truncated=len(ids) < len(item.ids))

    def _from_pair(self, item: Item) -> Encoded:
        prompt, response = parse_prompt_response({**item.variables, "prompt": item.prompt, "response": item.response})
        check_not_half_rendered(self.form, prompt)
        settings = self._settings(item)
        (encoded,) = encode_named(self.scorer.tokenizer, [prompt], [response], settings, [item.param])
        return self._encoded(encoded, item, repr(prompt), response)

    def _from_text(self, item: Item) -> Encoded:
        text, settings = str(item.text), self._settings(item)
        if not text.strip():
            raise Problem(400, f"'{item.param}' is empty", param=item.param)
        try:
            part = split_policy_text(self.scorer.tokenizer, text, item.prompt, settings)
        except DataError:
            if not self._may_be_free(item):
                raise
            return self._from_free_text(item)
        (encoded,) = encode_named(
            self.scorer.tokenizer, [part.prompt], [part.response], settings, [item.param], ended=[not part.cut]
        )
        return self._encoded(encoded, item, part.prompt, part.response)

    def _may_be_free(self, item: Item) -> bool:
        """Whether a text that is in no form may be scored as it stands; one that begins in form is a mistake."""
        allowed = self.free_text == "score" or (self.free_text == "auto" and item.free)
        return allowed and not (self.form.starts_special and begins_rendered(self.form, str(item.text)))

    def _from_free_text(self, item: Item) -> Encoded:
        self._check_whole_known(item)
        tokenizer, text = self.scorer.tokenizer, str(item.text)
        special = item.special and not any(text.startswith(token) for token in self.form.start_tokens)
        ids = list(tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"])
        if not ids:
            raise Problem(400, f"'{item.param}' has no tokens", param=item.param)
        fitted = self._fitted(ids, item)
        return Encoded(fitted, tuple(ids[:32]), None, free=True, truncated=len(fitted) < len(ids))

    def _settings(self, item: Item) -> EncodingSettings:
        settings = self.settings
        if item.window is not None:
            settings = replace(settings, max_length=min(item.window, settings.max_length))
        if item.cut:
            return replace(settings, overlong="truncate_prompt_left")
        # An own error says how long the text is; "error" would name flags that the client has not.
        return replace(settings, overlong="drop") if settings.overlong == "error" else settings

    def _check_whole_known(self, item: Item) -> None:
        """Refuse what does not say where its response begins, where that decides the score."""
        if self.scorer.dial is not None:
            what = "this model is calibrated, so it must know the response: send prompt and response apart"
            raise Problem(400, f"{what} (the server's --calibration none turns it off)", param=item.param)

    def _encoded(self, one: EncodedResponse, item: Item, group: Any, response: Any) -> Encoded:
        if one.dropped:
            raise self._too_long(one.sequence_tokens, item)
        ids = np.asarray(one.input_ids, dtype=np.int32)
        taken_off = 0.0
        if (dial := self.scorer.dial) is not None:
            taken_off = float(-dial(np.zeros(1), dial.attributes_of([one.response_tokens], [response]))[0])
        names = [attribute.name for attribute in self.attributes]
        measured = dict(zip(names, measure_reply(response, self.attributes), strict=True)) if names else {}
        return Encoded(
            ids,
            group,
            one.response_tokens,
            cut=not one.ended,
            truncated=one.truncated,
            taken_off=taken_off,
            attributes=measured,
        )

    def _fitted(self, ids: list[int], item: Item) -> np.ndarray:
        window = min(item.window or self.window, self.window)
        if len(ids) > window:
            if not item.cut and self.settings.overlong not in ("truncate_prompt_left", "truncate_response"):
                raise self._too_long(len(ids), item)
            ids = ids[-window:]
        return np.asarray(ids, dtype=np.int32)

    def _too_long(self, tokens: int, item: Item) -> Problem:
        window = min(item.window or self.window, self.window)
        what = f"the text has {tokens:,} tokens, this model's maximum context length is {window:,} tokens"
        return Problem(400, what, param=item.param)


def _probe(prompt: str, response: str, times: int) -> Item:
    return Item("probe", prompt=prompt, response=response * times)


def _characters(value: Any) -> int:
    """Characters of all strings in a value, however deep."""
    count, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            count += len(one)
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            waiting += one
    return count


def _check_whole(value: Any, param: str) -> None:
    """Refuse half characters, which no tokenizer takes."""
    texts = [value] if isinstance(value, str) else [one.get("content") for one in value or ()]
    for text in texts:
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise Problem(400, f"'{param}' holds half a character (a lone surrogate)", param=param) from error


def served(
    name: str, path: str, scorer: Scorer, *, max_length: int | None, overlong: str | None, **options: Any
) -> ServedModel:
    """A loaded model with the text settings that a server uses.

    Raises:
        ConfigError: ``max_length`` is larger than the model's table of positions.
    """
    settings = text_settings(scorer, max_length=max_length, overlong=overlong)
    return ServedModel(name, path, scorer, settings, **options)


def find_model(models: Mapping[str, ServedModel], name: str | None, *, named: bool) -> ServedModel:
    """The model that a client means.

    Without a name it is the first. A name may also be what the model was loaded from. One that nobody knows is refused
    where the protocol asks by name; but where one model alone is served, a path or hub id is taken for it: verl sends
    the path that it knows the model by.

    Raises:
        Problem: there is none of that name.
    """
    first = next(iter(models.values()))
    if name is None:
        return first
    for model in models.values():
        if name in (model.name, model.path):
            return model
    if not named or (len(models) == 1 and "/" in name):
        return first
    raise Problem(404, f"the model '{name}' does not exist; known: {', '.join(models)}", param="model")
